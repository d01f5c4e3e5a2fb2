"""Tokenizers of pretraining: trained on the captions, or GPT-2's. Kept as the JSON of `tokenizers` inside the checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from levl_eval.core.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EOT = "<|endoftext|>"


def train(captions: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of lower-cased text with an end-of-text token of id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[EOT], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(captions, trainer)
    return tokenizer


def load_gpt2(name: str) -> Tokenizer:
    """GPT-2's tokenizer from the hub ("gpt2") or a directory with tokenizer.json or vocab and merges files."""
    folder = Path(name)
    if folder.is_dir():
        for vocab, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
            if (folder / vocab).exists() and (folder / merges).exists():
                tokenizer = Tokenizer(models.BPE.from_file(str(folder / vocab), str(folder / merges)))
                tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
                tokenizer.decoder = decoders.ByteLevel()
                return tokenizer
        if (folder / "tokenizer.json").exists():
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
        raise UsageError(f"tokenizer={name}: holds neither tokenizer.json nor vocab.json with merges.txt")
    try:
        from transformers import AutoTokenizer

        loaded = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        check_words(loaded, f"tokenizer={name}")
        return Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    except Exception as e:
        raise UsageError(
            f"tokenizer={name}: not to be had from the hub ({type(e).__name__}); give a directory or tokenizer=trained"
        ) from e


def check_words(tokenizer: PreTrainedTokenizerBase, title: str) -> None:
    """Raises UsageError for a tokenizer without a vocabulary:
    transformers makes one where its files are missing, and all texts are alike."""
    ids = tokenizer.encode("a photo of a cat.", add_special_tokens=False)
    if not set(ids) - {*tokenizer.all_special_ids}:
        raise UsageError(
            f"{title}: its tokenizer knows no words; copy tokenizer.json, or its vocabulary's files, from the model's repository"
        )


def eot_id(tokenizer: Tokenizer) -> int:
    token = tokenizer.token_to_id(EOT)
    if token is None:
        raise UsageError(f"tokenizer: has no {EOT} token, which the text read-out needs")
    return token


def encode(tokenizer: Tokenizer, texts: list[str], length: int, readout: str = "eot") -> tuple[np.ndarray, np.ndarray]:
    """Texts -> (ids int64 [B, L], index of the last token before padding [B]) (docs/paper.md).

    eot: cut to ``length - 1`` tokens, an end-of-text token behind each, padded with it to the batch's longest, and read at it.
    pad77: cut to ``length``, none appended, padded with end-of-text to ``length`` and read at the last position, as the first
    published code.
    """
    eot = eot_id(tokenizer)
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    if readout.startswith("pad77"):
        rows = [e.ids[:length] for e in encoded]
        ids = np.full((len(rows), length), eot, np.int64)
        last = np.array([len(r) - 1 for r in rows])
    else:
        rows = [[*e.ids[: length - 1], eot] for e in encoded]
        ids = np.full((len(rows), max(len(r) for r in rows)), eot, np.int64)
        last = np.array([len(r) - 1 for r in rows])
    for i, r in enumerate(rows):
        ids[i, : len(r)] = r
    return ids, last
