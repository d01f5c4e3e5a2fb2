"""Shared-prefix answering against one `generate` a question: questions a second, and whether the answers are the same.

    python benchmarks/answering.py [--images 2] [--repeats 3] [--image-tokens 196] [--width 512] [--layers 8] [--new-tokens 8]
                                   [--threads 1] [--json FILE]

Both answer the same questions with the same randomly initialised Llama in one process, in turn, on a GQA-like load (30
questions an image) and a VQAv2-like one (5 an image). Random weights cost what trained ones cost; the end-of-text token is
left out so that every answer has its full length on both sides. Told are the median of the repeats' ratios and their range,
and the median ratio of the processor time, which other work on the machine does not disturb.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any


def model(folder: str, width: int, layers: int, device: str = "cpu", dtype: Any = None) -> Any:
    """A Llama with random weights and the embedded language model's tokenizer, in float32 unless a dtype says otherwise."""
    import torch

    from levl_eval.cards.registry import language_models
    from levl_eval.engines.vlm.language import (
        load_language_model,  # before transformers: it repairs a torchvision that does not load
    )

    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM  # isort: skip

    tokenizer = AutoTokenizer.from_pretrained(language_models()["scenes-lm"])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=layers, num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 128), max_position_embeddings=2048, bos_token_id=1, eos_token_id=31999, pad_token_id=0,
        initializer_range=0.05,
    )  # fmt: skip
    LlamaForCausalLM(config).to(dtype or torch.float32).save_pretrained(folder)
    return load_language_model(folder, device, dtype or torch.float32)


def questions(n: int, seed: int) -> list[str]:
    """Questions of 6 to 14 words."""
    rng = random.Random(seed)
    words = "what is the color of tree house car boat fish on left right side there a small large red green near sky".split()
    return [" ".join(rng.choices(words, k=rng.randint(6, 14))).capitalize() + "?" for _ in range(n)]


def load(language: Any, images: int, each: int, tokens: int, new: int, repeats: int) -> dict[str, Any]:
    """Questions a second of both ways on one load, in turn, and how many answers differ."""
    import torch

    from levl_eval.cards import PromptSpec
    from levl_eval.engines.vlm.engine import answer_all, answer_alone
    from levl_eval.engines.vlm.prompts import make_prompt

    prompt = make_prompt(PromptSpec(max_new_tokens=new, stop=[]), language)
    visual = torch.randn(images, tokens, language.width, generator=torch.Generator().manual_seed(1)) * 0.05
    visual = visual.to(language.device, language.model.dtype)
    asked = [questions(each, i) for i in range(images)]
    answer_alone(language, prompt, visual[0], "Why?")  # warm
    ratios, processor, fast, slow = [], [], [], []
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        ours = {i: texts for i, texts, _ in answer_all(language, prompt, lambda i: visual[list(i)], asked)}
        middle, middle_cpu = time.perf_counter(), time.process_time()
        plain = {i: [answer_alone(language, prompt, visual[i], q) for q in qs] for i, qs in enumerate(asked)}
        end, end_cpu = time.perf_counter(), time.process_time()
        fast.append(images * each / (middle - start))
        slow.append(images * each / (end - middle))
        ratios.append((end - middle) / (middle - start))
        processor.append((end_cpu - middle_cpu) / (middle_cpu - start_cpu))
    return {
        "questions_per_image": each, "questions": images * each, "shared_prefix_per_second": fast, "generate_per_second": slow,
        "times_faster": statistics.median(ratios), "times_less_processor_time": statistics.median(processor),
        "times_faster_range": [min(ratios), max(ratios)],
        "different_answers": sum(a != b for i in ours for a, b in zip(ours[i], plain[i], strict=True)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = (
        ("images", 2),
        ("repeats", 3),
        ("image-tokens", 196),
        ("width", 512),
        ("layers", 8),
        ("new-tokens", 8),
        ("threads", 1),
    )
    for name, default in options:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path, help="write the figures here")
    o = parser.parse_args()
    import torch

    torch.set_num_threads(o.threads)
    with tempfile.TemporaryDirectory() as folder:
        language = model(folder, o.width, o.layers)
        size = sum(p.numel() for p in language.model.parameters()) / 1e6
        print(
            f"Llama of {size:.0f} million parameters, {o.image_tokens} image tokens, {o.new_tokens} answer tokens, {o.threads} threads"
        )
        out = {"parameters_millions": round(size, 1), **vars(o), "json": None, "loads": []}
        for name, images, each in (("GQA-like", o.images, 30), ("VQAv2-like", o.images * 6, 5)):
            figures = load(language, images, each, o.image_tokens, o.new_tokens, o.repeats)
            out["loads"].append(figures)
            print(
                f"{name}: {each} questions an image: {figures['times_faster']:.1f} times the questions a second "
                f"({figures['times_faster_range'][0]:.1f} to {figures['times_faster_range'][1]:.1f} over {o.repeats} repeats), "
                f"{figures['times_less_processor_time']:.1f} times less processor time, "
                f"{figures['different_answers']} of {figures['questions']} answers differ"
            )
    if o.json:
        o.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
