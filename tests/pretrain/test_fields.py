"""Values of fields that no training can have are told in one line, before anything is read or written."""

from __future__ import annotations

import math

import pytest

from levl_eval.core.errors import UsageError
from levl_eval.models.config import parse_config

WRONG = [
    ("seed=-1", "field `seed`"),
    ("seed=99999999999999999999999", "field `seed`"),
    ("steps=yes", "field `steps`: expected int, found true"),
    ("image_size=65", "image_size is 65, which vision.patch 8 does not divide"),
    ("image_size=100000", "field `image_size`"),
    ("vision.patch=128", "image_size is 64, which vision.patch 128"),
    ("mean=[.nan,0,0]", "field `mean.0`"),
    ("std=[0,1,1]", "field `std.0`"),
    ("std=[-1,1,1]", "field `std.0`"),
    ("std=[.inf,1,1]", "field `std.0`"),
    ("lr=.inf", "field `lr`"),
    ("betas=[1,0.9]", "field `betas.0`"),
    ("betas=[-1,0.9]", "field `betas.0`"),
    ("eps=.inf", "field `eps`"),
    ("weight_decay=.inf", "field `weight_decay`"),
    ("sigreg_t_max=.inf", "field `sigreg_t_max`"),
    ("objective=clip logit_scale_init=0", "field `logit_scale_init`"),
    ("objective=clip logit_scale_init=-1", "field `logit_scale_init`"),
    ("objective=clip logit_scale_init=1e6", "field `logit_scale_init`"),
    ("objective=siglip logit_bias_init=.inf", "field `logit_bias_init`"),
    ("max_length=1", "max_length is 1, which the end-of-text token"),
    ("vocab_size=100000000000", "field `vocab_size`"),
    ("objective=levljepa_plus local_size=7", "local_size is 7, which vision.patch 8"),
    ("objective=levljepa_plus crop_ratio=[1,.inf]", "field `crop_ratio.1`"),
    ("objective=levljepa_plus blur_sigma=[0.1,.inf]", "field `blur_sigma.1`"),
    ("augmentation=standard color_jitter=[.inf,0,0,0]", "field `color_jitter.0`"),
    ("augmentation=standard erasing_ratio=[1,.inf]", "field `erasing_ratio.1`"),
    ("threads=100000", "field `threads`"),
    ("caption_fields=[]", "field `caption_fields`"),
]


@pytest.mark.parametrize("words, message", WRONG, ids=[words for words, _ in WRONG])
def test_values_that_no_training_can_have_are_one_line(words, message):
    with pytest.raises(UsageError) as e:
        parse_config(words.split())
    assert str(e.value).startswith(message) and "\n" not in str(e.value)


def test_what_means_something_is_taken():
    c = parse_config(["clip=.inf", "max_loss_growth=.inf", "local_size=7", "betas=[0,0.5]"])
    assert c.clip == c.max_loss_growth == math.inf
    assert parse_config(["text_readout=pad77", "max_length=1"]).max_length == 1
    assert parse_config(["objective=levljepa_plus", "local_views=0", "local_size=7"]).local_size == 7
