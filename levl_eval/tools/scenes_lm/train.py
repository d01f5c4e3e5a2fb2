"""The embedded language models: small Llamas that read and answer, trained on text only.

    python -m levl_eval.tools.scenes_lm.train train --out runs/scenes-lm --export levl_eval/assets/scenes-lm
    python -m levl_eval.tools.scenes_lm.train evaluate --model levl_eval/assets/scenes-lm
    python -m levl_eval.tools.scenes_lm.train train --init-from levl_eval/assets/scenes-lm --steps 2400 --batch 10 --lr 2e-3 --easy 0 \
        --every 400 --scenes 60 --threads 1 --out runs/scenes-reader --export levl_eval/assets/scenes-reader
    python -m levl_eval.tools.scenes_lm.train evaluate --print --model levl_eval/assets/scenes-reader

`scenes-lm` reads objects, colours, places and counts; `scenes-reader`, trained on from it, also print, letters and comparisons
(scenes.reading). They have never seen an image: behind a connector, what they answer beyond their text-only floor comes from the
encoder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from levl_eval.core.errors import UsageError
from levl_eval.core.files import atomic_path, atomic_write
from levl_eval.core.messages import show_messages
from levl_eval.core.progress import Progress
from levl_eval.core.schedule import Schedule
from levl_eval.core.third_party import repair
from levl_eval.engines.muon import Muon
from levl_eval.metrics.statistics import mean_estimate
from levl_eval.scenes.language import STYLES
from levl_eval.scenes.world import stable_seed
from levl_eval.tools.scenes_lm.batch import COMPARE, FIND, GATHER, READ, Batch, Looks, pack
from levl_eval.tools.scenes_lm.reading import WORDS, reading_example
from levl_eval.tools.scenes_lm.text import (
    BOS,
    EOS,
    PAD,
    PROMPT,
    Example,
    corpus,
    easy_example,
    make_example,
    train_tokenizer,
    with_words,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    from levl_eval.metrics.estimate import Estimate

repair()  # before transformers imports torchvision

# (layer, head) pairs that are shown where to look, in the order in which an answer comes about, and the hidden states (after so
# many layers) from which the words found must be readable.
HEADS: dict[str, tuple[tuple[int, int], ...]] = {
    GATHER: ((0, 0), (0, 1), (1, 0), (1, 1)), FIND: ((2, 0), (2, 1)), COMPARE: ((3, 0),), READ: ((4, 0),),
}  # fmt: skip
READABLE = {GATHER: 2, FIND: 3}


def build(vocab: int, seed: int = 0) -> LlamaForCausalLM:
    """A Llama of about 1.3 million parameters: width 128, 6 layers, 4 heads, tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=128, intermediate_size=336, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.03,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def widened(folder: Path, tokenizer: Tokenizer) -> LlamaForCausalLM:
    """The model of ``folder`` with the further tokens of ``tokenizer``, whose embeddings begin as the mean of their pieces'."""
    from tokenizers import Tokenizer as Loaded
    from transformers import LlamaForCausalLM

    older, first = Loaded.from_file(str(folder / "tokenizer.json")), LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model, state = build(tokenizer.get_vocab_size()), first.state_dict()
    known = older.get_vocab_size()
    pieces = [older.encode(tokenizer.decode([n])).ids for n in range(known, tokenizer.get_vocab_size())]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        table = state[name]
        state[name] = torch.cat([table, *(table[ids].mean(0, keepdim=True) for ids in pieces)])
    model.load_state_dict(state)
    return model


def block_mask(block: torch.Tensor) -> torch.Tensor:
    """bool [B, 1, T, T]: causal, and a token sees the description (block 0) and its own block only."""
    same = block[:, :, None] == block[:, None, :]
    shared = (block == 0)[:, None, :].expand_as(same)
    causal = torch.ones(block.shape[1], block.shape[1], dtype=torch.bool, device=block.device).tril()
    return ((same | shared) & causal)[:, None]


def look_loss(attention: tuple[torch.Tensor, ...], kind: str, looks: Looks) -> torch.Tensor:
    """How far the heads of ``kind`` are from looking where they should: -log of the attention that reaches the targets,
    or for GATHER the divergence from even attention to all of them (supervised attention, Liu et al. 2016, arXiv 1609.04186)."""
    owner = torch.tensor(looks.owner)
    row, at = torch.tensor(looks.row)[owner], torch.tensor(looks.at)[owner]
    target = torch.tensor(looks.target)
    count = torch.bincount(owner, minlength=len(looks)).float()
    total = torch.zeros(())
    for layer, head in HEADS[kind]:
        seen = attention[layer][row, head, at, target]
        if kind == GATHER:
            divergence = -(seen.clamp_min(1e-6).log() + count[owner].log()) / count[owner]
            total = total + divergence.sum() / len(looks)
        else:
            total = total - torch.zeros(len(looks)).index_add(0, owner, seen).clamp_min(1e-6).log().mean()
    return total / len(HEADS[kind])


def words_loss(model: LlamaForCausalLM, hidden: torch.Tensor, words: Looks) -> torch.Tensor:
    """Divergence between the words that hidden states [B, T, D] give at once, by the model's own read-out, and those they should hold."""
    owner = torch.tensor(words.owner)
    held = model.lm_head(model.model.norm(hidden[torch.tensor(words.row), torch.tensor(words.at)])).log_softmax(-1)
    count = torch.bincount(owner, minlength=len(words)).float()[owner]
    out: torch.Tensor = -((held[owner, torch.tensor(words.target)] + count.log()) / count).sum() / len(words)
    return out


def loss_of(model: LlamaForCausalLM, batch: Batch, guide: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy of the answers, and the loss to descend: that plus ``guide`` times the look and the word losses.

    Binding, "which colour is the cup's", is otherwise found by chance only: from the usual start models of this size stay at
    naming one of the colours told for thousands of steps, as recall needs several layers to fit together before any of them pays
    (Olsson et al. 2022, arXiv 2209.11895). The guide shows the steps; it is taken away before training ends.
    """
    block = torch.from_numpy(batch.block)
    mask = torch.zeros(block.shape[0], 1, block.shape[1], block.shape[1]).masked_fill(
        ~block_mask(block), torch.finfo(torch.float32).min
    )
    embed = model.get_input_embeddings()
    inputs = embed(torch.from_numpy(batch.ids))
    if batch.added:
        at, token, weight = zip(*batch.added, strict=True)
        more = embed(torch.tensor(token)) * torch.tensor(weight)[:, None]
        inputs = inputs.flatten(0, 1).index_add(0, torch.tensor(at), more).view(inputs.shape)
    run = model.model(
        inputs_embeds=inputs, attention_mask=mask, position_ids=torch.from_numpy(batch.positions), use_cache=False,
        output_attentions=guide > 0, output_hidden_states=guide > 0,
    )  # fmt: skip
    keep = torch.from_numpy(batch.weights) > 0
    loss = functional.cross_entropy(model.lm_head(run.last_hidden_state[keep]), torch.from_numpy(batch.targets)[keep])
    if not guide:
        return loss, loss
    shown = sum((look_loss(run.attentions, k, x) for k, x in batch.looks.items() if len(x)), torch.zeros(()))
    held = sum((words_loss(model, run.hidden_states[READABLE[k]], x) for k, x in batch.words.items() if len(x)), torch.zeros(()))
    return loss, loss + guide * (shown + held)


def _example(seed: int, i: int, simple: bool, reading: bool) -> Example:
    """Number ``i`` of a batch; with ``reading`` every second one is of print, letters and comparisons."""
    if reading and i % 2:
        return reading_example(seed)
    return easy_example(seed) if simple else make_example(seed, hard=(i // 2 if reading else i) % 4 > 0)


def _batch(step: int, size: int, seed: int, tokenizer: Tokenizer, easy: int, reading: bool = False) -> Batch:
    """Training batch of ``step``, a pure function of step and seed.

    Short scenes come first while reading is being learned:
    all steps up to ``easy``, then every other one up to three times as many.
    """
    simple = step < easy or (step < 3 * easy and step % 2 == 0)
    seeds = [stable_seed("scenes-lm", seed, step, i) for i in range(size)]
    examples = [_example(s, i, simple, reading) for i, s in enumerate(seeds)]
    blind = frozenset(i for i in range(size) if not simple and stable_seed("blind", seed, step, i) % 100 < 4)
    return pack(examples, tokenizer, blind=blind)


def guide_at(step: int, steps: int, guide: float) -> float:
    """Whole for the first 60% of the training, then falling to none at 80%."""
    return guide * min(1.0, max(0.0, 4 - 5 * step / steps))


def _begun(args: argparse.Namespace, out: Path) -> tuple[Tokenizer, LlamaForCausalLM]:
    """The tokenizer, kept in ``out``, and the model as it is before the first step."""
    from tokenizers import Tokenizer as Loaded

    token_file, first = out / "tokenizer.json", Path(args.init_from)
    if not token_file.exists():
        if args.init_from:
            made = with_words(Loaded.from_file(str(first / "tokenizer.json")), WORDS)
        else:
            made = train_tokenizer(corpus(4000, args.seed), args.vocab)
        atomic_write(token_file, made.to_str())
    tokenizer = Loaded.from_file(str(token_file))
    return tokenizer, widened(first, tokenizer) if args.init_from else build(tokenizer.get_vocab_size(), args.seed)


def train(args: argparse.Namespace) -> int:
    """Train, or resume where the last run of the same command was stopped."""
    torch.set_num_threads(args.threads)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer, model = _begun(args, out)
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    known = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in known]
    optimizers = [
        Muon(matrices, lr=args.lr),
        torch.optim.AdamW(rest, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    start = 0
    state_file = out / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        start = state["step"]
    window: list[float] = []
    schedule = Schedule(args.steps, "cosine", warmup=50, final=0.02)
    show_messages()
    with Progress().stage("scenes-lm", args.steps - start, "step") as bar:
        for step in range(start, args.steps):
            rate = args.lr * schedule.at(step)
            guide = guide_at(step, args.steps, args.guide)
            model.set_attn_implementation("eager" if guide else "sdpa")  # only plain attention gives its weights
            loss, total = loss_of(model, _batch(step, args.batch, args.seed, tokenizer, args.easy, bool(args.init_from)), guide)
            model.zero_grad(set_to_none=True)
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
            window.append(loss.item())
            bar.advance(note=f"loss {np.mean(window[-50:]):.3f}")
            if (step + 1) % args.every == 0 or step + 1 == args.steps:
                table = accuracy(model, tokenizer, args.scenes, seed=1, print_too=bool(args.init_from))
                line = {
                    "step": step + 1,
                    "loss": round(float(np.mean(window[-args.every :])), 4),
                    **{k: round(v.value, 3) for k, v in table.items()},
                }
                with open(out / "metrics.jsonl", "a", encoding="utf-8") as f:
                    f.write(json.dumps(line) + "\n")
                with atomic_path(state_file) as temporary, open(temporary, "wb") as f:
                    kept = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step + 1}
                    torch.save(kept, f)
                if args.export:
                    export(model, out / "tokenizer.json", Path(args.export))
    return 0


def export(model: LlamaForCausalLM, token_file: Path, out: Path) -> None:
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
def answers(model: LlamaForCausalLM, tokenizer: Tokenizer, prompts: list[list[int]], new: int = 6) -> list[str]:
    """Greedy answers to token prompts, one text each; rows of one length are run together."""
    (eos,) = tokenizer.encode(EOS).ids
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


def accuracy(
    model: LlamaForCausalLM, tokenizer: Tokenizer, scenes: int, seed: int = 0, print_too: bool = False
) -> dict[str, Estimate]:
    """Exact-match accuracy on held-out scenes: when reading, per style and per question family, and without the description;
    with ``print_too`` also of print, letters and comparisons."""
    model.eval()
    (bos,) = tokenizer.encode(BOS).ids
    prompts, targets, keys, clusters = [], [], [], []
    for i in range(scenes):
        for style in STYLES:
            examples = [("reading", make_example(stable_seed("scenes-lm-test", seed, i), style=style, swap=0.0, drop=0.0))]
            if print_too:
                examples.append(("print", reading_example(stable_seed("scenes-lm-test", seed, i), swap=0.0, style=style)))
            for mode, e in examples:
                for asked in e.questions:
                    question = tokenizer.encode(PROMPT.format(question=asked.question)).ids
                    shown = [(mode, [bos, *tokenizer.encode(" " + e.text).ids, *question])]
                    if style == "list":
                        shown.append((f"{mode} text-only".removeprefix("reading "), [bos, *question]))
                    for name, prompt in shown:
                        prompts.append(prompt)
                        targets.append(asked.answer)
                        keys.append((style, asked.family, name))
                        clusters.append(i)
    given = answers(model, tokenizer, prompts)
    right = np.array([g == t for g, t in zip(given, targets, strict=True)], float)
    groups: dict[str, list[int]] = defaultdict(list)
    for j, (style, family, mode) in enumerate(keys):
        groups[mode].append(j)
        if mode in ("reading", "print"):
            groups[f"style {style}" if mode == "reading" else f"print, style {style}"].append(j)
            groups[f"{mode}/{family}"].append(j)
    model.train()
    where = np.array(clusters)
    return {k: mean_estimate(right[v], where[v]) for k, v in sorted(groups.items())}


def evaluate(args: argparse.Namespace) -> int:
    """Print the reading ceiling and the text-only floor with 95% intervals, and write them as JSON beside the model."""
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    folder = Path(args.model)
    if not (folder / "config.json").exists():
        raise UsageError(
            f"{folder}: holds no config.json; train the model first (`python -m levl_eval.tools.scenes_lm.train train`)"
        )
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    table = accuracy(model, tokenizer, args.scenes, seed=0, print_too=args.print)
    for name, e in table.items():
        print(f"{name:28} {100 * e.value:5.1f}  [{100 * (e.low or 0):.1f}, {100 * (e.high or 0):.1f}]  n={e.n}")
    if args.json:
        atomic_write(args.json, json.dumps({k: e.model_dump() for k, e in table.items()}, indent=1) + "\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m levl_eval.tools.scenes_lm.train", description=__doc__)
    commands = parser.add_subparsers(required=True)
    t = commands.add_parser("train")
    t.add_argument("--out", required=True)
    t.add_argument("--export", default="")
    t.add_argument(
        "--init-from", default="", help="a model to train on, with print, letters and comparisons beside what it reads"
    )
    t.add_argument("--steps", type=int, default=3600)
    t.add_argument("--batch", type=int, default=8, help="scenes a step")
    t.add_argument("--lr", type=float, default=3e-3)
    t.add_argument("--guide", type=float, default=0.3, help="weight of the losses that show heads where to look")
    t.add_argument("--vocab", type=int, default=1024)
    t.add_argument("--seed", type=int, default=0)
    t.add_argument("--threads", type=int, default=2)
    t.add_argument("--easy", type=int, default=350, help="first steps, with easy scenes only")
    t.add_argument("--every", type=int, default=200, help="steps between checks, each of which keeps the state")
    t.add_argument("--scenes", type=int, default=40, help="scenes of a check")
    t.set_defaults(call=train)
    e = commands.add_parser("evaluate")
    e.add_argument("--model", required=True)
    e.add_argument("--scenes", type=int, default=500)
    e.add_argument("--print", action="store_true", help="also print, letters and comparisons")
    e.add_argument("--json", default="")
    e.set_defaults(call=evaluate)
    args = parser.parse_args()
    out: int = args.call(args)
    return out


if __name__ == "__main__":
    sys.exit(main())
