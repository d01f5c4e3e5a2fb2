"""The embedded language model `scenes-lm`: a small Llama that reads and answers, trained on text only.

    python -m levl_eval.vlm.scenes_lm train --out runs/scenes-lm --export levl_eval/assets/scenes-lm
    python -m levl_eval.vlm.scenes_lm evaluate --model levl_eval/assets/scenes-lm

It has never seen a picture: behind a connector, what it answers beyond its text-only floor comes from the encoder.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from levl_eval.errors import UsageError
from levl_eval.io import atomic_path, atomic_write
from levl_eval.metrics.statistics import mean_estimate
from levl_eval.progress import Progress
from levl_eval.scenes.world import stable_seed
from levl_eval.vlm.scenes_text import BOS, EOS, PAD, PROMPT, Batch, corpus, easy_example, make_example, pack, train_tokenizer


def build(vocab: int, seed: int = 0) -> Any:
    """A Llama of about 2.4 million parameters: width 192, 5 layers, 6 heads, tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=192, intermediate_size=512, num_hidden_layers=5, num_attention_heads=6, num_key_value_heads=6,
        max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.03,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def block_mask(block: torch.Tensor) -> torch.Tensor:
    """bool [B, 1, T, T]: causal, and a token sees the description (block 0) and its own block only."""
    same = block[:, :, None] == block[:, None, :]
    shared = (block == 0)[:, None, :].expand_as(same)
    causal = torch.ones(block.shape[1], block.shape[1], dtype=torch.bool, device=block.device).tril()
    return ((same | shared) & causal)[:, None]


def loss_of(model: Any, batch: Batch, bf16: bool) -> torch.Tensor:
    """Weighted next-token cross entropy."""
    block = torch.from_numpy(batch.block)
    mask = torch.zeros(block.shape[0], 1, block.shape[1], block.shape[1]).masked_fill(
        ~block_mask(block), torch.finfo(torch.float32).min
    )
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        hidden = model.model(
            input_ids=torch.from_numpy(batch.ids),
            attention_mask=mask.to(torch.bfloat16) if bf16 else mask,
            position_ids=torch.from_numpy(batch.positions),
            use_cache=False,
        ).last_hidden_state
        weights = torch.from_numpy(batch.weights)
        keep = weights > 0
        logits = model.lm_head(hidden[keep]).float()
    losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch.targets)[keep], reduction="none")
    return (losses * weights[keep]).sum() / weights.sum()


def _batch(step: int, size: int, seed: int, tokenizer: Any, easy: int) -> Batch:
    """Training batch of ``step``, a pure function of step and seed. Short scenes come first while reading is being learned."""
    examples = []
    for i in range(size):
        s = stable_seed("scenes-lm", seed, step, i)
        examples.append(easy_example(s) if step < easy and i % 4 else make_example(s, hard=i % 4 > 0))
    examples.sort(key=lambda e: len(e.text) + sum(len(q) for q, _, _ in e.questions))
    blind = frozenset(i for i in range(size) if stable_seed("blind", seed, step, i) % 100 < 4)
    return pack(examples, tokenizer, blind=blind)


def train(args: argparse.Namespace) -> int:
    """Train, or go on where the last run of the same command was stopped."""
    torch.set_num_threads(args.threads)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    token_file = out / "tokenizer.json"
    if not token_file.exists():
        atomic_write(token_file, train_tokenizer(corpus(4000, args.seed), args.vocab).to_str())
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(token_file))
    model = build(tokenizer.get_vocab_size(), args.seed)
    if not args.fp32:  # the fused CPU kernel has a slow backward in bfloat16: 0.82 against 0.65 s a step with plain attention
        model.set_attn_implementation("eager")
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), fused=True)
    start = 0
    state_file = out / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    bf16 = not args.fp32
    window: list[float] = []
    with Progress().stage("scenes-lm", args.steps - start, "step") as bar:
        for step in range(start, args.steps):
            warm = min(1.0, (step + 1) / 200)
            rate = args.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = loss_of(model, _batch(step, args.batch, args.seed, tokenizer, args.easy), bf16)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            window.append(loss.item())
            bar.advance(note=f"loss {np.mean(window[-50:]):.3f}")
            if (step + 1) % args.every == 0 or step + 1 == args.steps:
                table = accuracy(model, tokenizer, 40, seed=1)
                line = {
                    "step": step + 1,
                    "loss": float(np.mean(window[-args.every :])),
                    **{k: v.value for k, v in table.items() if "/" not in k},
                }
                with open(out / "metrics.jsonl", "a", encoding="utf-8") as f:
                    f.write(json.dumps(line) + "\n")
                print(line, flush=True)
                with atomic_path(state_file) as temporary:
                    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, temporary)
                if args.export:
                    export(model, token_file, Path(args.export))
    return 0


def export(model: Any, token_file: Path, out: Path) -> None:
    """A Hugging Face directory in half precision."""
    from transformers import PreTrainedTokenizerFast

    half = build(model.config.vocab_size)
    half.load_state_dict(model.state_dict())
    half.to(torch.float16).save_pretrained(out)
    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(token_file), bos_token=BOS, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    fast.save_pretrained(out)


@torch.no_grad()
def answers(model: Any, tokenizer: Any, prompts: list[list[int]], new: int = 6) -> list[str]:
    """Greedy answers to token prompts, one text each; rows of one length are run together."""
    eos = tokenizer.token_to_id(EOS)
    out = [""] * len(prompts)
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, p in enumerate(prompts):
        by_length[len(p)].append(i)
    for rows in by_length.values():
        ids = torch.tensor([prompts[i] for i in rows])
        first = ids.shape[1]
        cache = None
        last = ids
        for _ in range(new):
            result = model(input_ids=last, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, last = result.past_key_values, result.logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, last], 1)
            if bool((ids[:, first:] == eos).any(1).all()):
                break
        for i, row in zip(rows, ids[:, first:].tolist(), strict=True):
            out[i] = tokenizer.decode(row[: row.index(eos)] if eos in row else row).strip()
    return out


def accuracy(model: Any, tokenizer: Any, scenes: int, seed: int = 0) -> dict[str, Any]:
    """Exact-match accuracy on held-out scenes: when reading, per style and per question family, and without the description."""
    model.eval()
    bos = tokenizer.token_to_id(BOS)
    prompts, targets, keys, clusters = [], [], [], []
    for i in range(scenes):
        for style in ("sentences", "list", "map"):
            e = make_example(stable_seed("scenes-lm-test", seed, i), style=style, swap=0.0, drop=0.0)
            for q, x, family in e.questions:
                question = tokenizer.encode(PROMPT.format(question=q)).ids
                prompts.append([bos, *tokenizer.encode(" " + e.text).ids, *question])
                targets.append(x)
                keys.append((style, family, "reading"))
                clusters.append(i)
                if style == "list":
                    prompts.append([bos, *question])
                    targets.append(x)
                    keys.append((style, family, "text-only"))
                    clusters.append(i)
    given = answers(model, tokenizer, prompts)
    right = np.array([g == t for g, t in zip(given, targets, strict=True)], float)
    groups: dict[str, list[int]] = defaultdict(list)
    for j, (style, family, mode) in enumerate(keys):
        groups[mode].append(j)
        if mode == "reading":
            groups[f"style {style}"].append(j)
            groups[f"reading/{family}"].append(j)
    model.train()
    where = np.array(clusters)
    return {k: mean_estimate(right[v], where[v]) for k, v in sorted(groups.items())}


def evaluate(args: argparse.Namespace) -> int:
    """Print the reading ceiling and the text-only floor with 95% intervals, and write them as JSON beside the model."""
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    folder = Path(args.model)
    if not (folder / "config.json").exists():
        raise UsageError(f"{folder}: holds no config.json; train the model first (`python -m levl_eval.vlm.scenes_lm train`)")
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    table = accuracy(model, tokenizer, args.scenes, seed=0)
    for name, e in table.items():
        print(f"{name:28} {100 * e.value:5.1f}  [{100 * (e.low or 0):.1f}, {100 * (e.high or 0):.1f}]  n={e.n}")
    if args.json:
        atomic_write(args.json, json.dumps({k: e.model_dump() for k, e in table.items()}, indent=1) + "\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m levl_eval.vlm.scenes_lm", description=__doc__)
    commands = parser.add_subparsers(required=True)
    t = commands.add_parser("train")
    t.add_argument("--out", required=True)
    t.add_argument("--export", default="")
    t.add_argument("--steps", type=int, default=6000)
    t.add_argument("--batch", type=int, default=16, help="scenes a step")
    t.add_argument("--lr", type=float, default=3e-3)
    t.add_argument("--vocab", type=int, default=1024)
    t.add_argument("--seed", type=int, default=0)
    t.add_argument("--threads", type=int, default=2)
    t.add_argument("--easy", type=int, default=800, help="steps in which three of four scenes are easy ones")
    t.add_argument("--every", type=int, default=250)
    t.add_argument("--fp32", action="store_true")
    t.set_defaults(call=train)
    e = commands.add_parser("evaluate")
    e.add_argument("--model", required=True)
    e.add_argument("--scenes", type=int, default=500)
    e.add_argument("--json", default="")
    e.set_defaults(call=evaluate)
    args = parser.parse_args()
    return args.call(args)


if __name__ == "__main__":
    sys.exit(main())
