"""Prompts of zero-shot classification: a template has one place for the class name, and each class a prompt of its own."""

from __future__ import annotations

import pytest

from levl_eval.core.errors import UsageError
from levl_eval.engines.probes.texts import check_names, prompt_templates


@pytest.mark.parametrize("template", ["a {c} {}", "{} {}", "{}{", "{{}}", "a {} of {0}", "{} }"])
def test_templates_with_other_fields_are_refused(template):
    with pytest.raises(UsageError, match="has other braces than one {}, where the class name goes"):
        prompt_templates(["a {}", template], "zeroshot")


@pytest.mark.parametrize("template", ["", "a photo", "{0}", "{.__class__}", "{"])
def test_templates_without_a_place_are_refused(template):
    with pytest.raises(UsageError, match="has no {} for the class name"):
        prompt_templates([template], "zeroshot")


def test_names_that_are_empty_or_stand_for_several_classes():
    with pytest.raises(UsageError, match="class '_' has an empty name"):
        check_names(["cat", ""], ("cat", "_"), "zeroshot")
    assert check_names(["cat", "cat", "dog"], ("cat", "cat_", "dog"), "z").startswith(
        "1 prompts stand for several classes each, first 'cat' for cat, cat_"
    )
    assert check_names(["cat", "dog"], ("cat", "dog"), "z") == ""
