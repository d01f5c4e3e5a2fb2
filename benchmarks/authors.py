"""This package beside the authors' own two code versions, on the same weights, images, texts and random draws.

Used by `python benchmarks/published_code.py --authors MAY_DIR JULY_DIR`. Their files are the user's own checkouts; they are
executed as they stand (authors_code.py). Everything is float64, but for what their code itself turns into float32: the tables of
SIGReg, normalisation in cosine and zero-shot, the singular values.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import authors_code  # beside this file
import torch
from torch import Tensor, nn

from levl_eval.core.errors import UsageError

MAY = ("train_levljepa.py", "train_levljepa_plus.py", "utils/eval_utils.py", "utils/sigreg.py")
JULY = (
    "forwards.py", "main.py", "scripts/eval_zeroshot_classification.py", "utils/attentive.py", "utils/eval_utils.py", "utils/sigreg.py",
    "utils/text.py",
)  # fmt: skip
BATCH, WIDTH, LAYERS, HEADS, DIM, PREDICTOR = 8, 192, 4, 3, 64, [256] * 4
PARTS = {
    "vision_base": "vision.encoder", "text_base": "text.encoder", "vision_encoder": "vision.encoder", "text_encoder": "text.encoder",
    "vision_pre_proj": "vision.pre_proj", "text_pre_proj": "text.pre_proj",
    "projector_vision": "vision.projector", "projector_text": "text.projector",
}  # fmt: skip
MODULES = ("text_base", "vision_base", "vision_pre_proj", "text_pre_proj", "projector_vision", "projector_text")
CAPTIONS = [
    "a red cube", "two dogs run over a green field", "x",
    "a photo of a small blue ball left of a chair", "boats", "a man and a woman at a table",
    "grey cat " * 16, "a long caption that will not fit into the positions of the text tower " * 9,
]  # fmt: skip
EXACT = "eot, SIGReg's tables in float64"


class Row(NamedTuple):
    quantity: str
    case: str
    value: float
    version: str


@contextlib.contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """New tensors are of this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def check(folder: Path, files: tuple[str, ...], which: str) -> None:
    """Raises UsageError naming the folder and the first file that is not in it."""
    missing = next((f for f in files if not (folder / f).is_file()), None)
    if missing is not None:
        raise UsageError(
            f"--authors: {folder} holds no {missing}; give two checkouts of the published code, May's then July's (this is to be {which}'s)"
        )


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference over the largest absolute value of theirs."""
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-300))


def worst(ours: nn.Module, theirs: dict[str, Tensor]) -> float:
    """Of all parameters' gradients the largest difference relative to the parameter's own largest entry.

    Gradients that are 0 but for rounding in both (a bias before BatchNorm: below 1e-12 of the largest of all) are left out.
    """
    zero = 1e-12 * max(float(g.abs().max()) for g in theirs.values())
    out = 0.0
    for name, parameter in ours.named_parameters():
        g = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if max(float(g.abs().max()), float(theirs[name].abs().max())) > zero:
            out = max(out, float((g - theirs[name]).abs().max()) / max(float(theirs[name].abs().max()), zero))
    return out


def tokenizers() -> tuple[object, object]:
    """(ours, the same one as transformers' class): GPT-2's needs the hub, so a byte-level BPE of the captions stands for it."""
    from transformers import PreTrainedTokenizerFast

    from levl_eval.models.tokenizer import EOT, train

    ours = train(CAPTIONS, 300)
    return ours, PreTrainedTokenizerFast(tokenizer_object=ours, eos_token=EOT, pad_token=EOT)


def our_config(preset: str, *words: str) -> object:
    from levl_eval.models.config import parse_config

    return parse_config([
        f"preset={preset}", f"vision.width={WIDTH}", "vision.depth=12",
        f"vision.heads={HEADS}", f"text.width={WIDTH}", f"text.depth={LAYERS}",
        f"text.heads={HEADS}", f"embed_dim={DIM}", f"projector_hidden_dims={PREDICTOR}", "text_buckets=2", "steps=10", "warmup=2", *words,
    ])  # fmt: skip


def our_model(config: object, vocab: int, theirs: dict[str, nn.Module]) -> nn.Module:
    """A DualEncoder with their weights, every name of both being the other's."""
    from levl_eval.models.towers import build_model

    model = build_model(config, vocab).double()
    model.load_state_dict({f"{PARTS[part]}.{k}": v for part, m in theirs.items() for k, v in m.state_dict().items()}, strict=True)
    return model.train()


def stirred(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """With gains, biases and running statistics that are not those of a start, where 0 and 1 would hide what is done with them."""
    for module in modules.values():
        for p in module.parameters():
            if p.ndim < 2:
                p.data += 0.1 * torch.randn(p.shape)
        for m in module.modules():
            if isinstance(m, nn.BatchNorm1d):
                m.running_mean.normal_(0, 0.2)
                m.running_var.uniform_(0.5, 2)
    return modules


def gradients_of(theirs: dict[str, nn.Module]) -> dict[str, Tensor]:
    named = {f"{PARTS[part]}.{k}": p for part, m in theirs.items() for k, p in m.named_parameters()}
    return {k: torch.zeros_like(p) if p.grad is None else p.grad.clone() for k, p in named.items()}


def settings(**more: object) -> authors_code.Settings:
    """Their configuration at small widths."""
    model = authors_code.Settings(
        vit="vit_tiny_patch16_224", hidden_size=WIDTH, embed_dim=DIM, num_layers=LAYERS, num_heads=HEADS
    )
    values = {
        "model": model, "batch_size": BATCH, "total_steps": 10, "lr": 2e-4, "warmup_steps": 2, "eta_min": 2e-5, "max_grad_norm": 1.0,
        "lambda_vision": 0.02, "lambda_text": 0.02, "lambda_multi": 0.2, "global_crops_number": 2, "local_crops_number": 4,
        "pre_proj_width": 2048, "pre_proj_depth": 1, "projector_width": PREDICTOR[0], "projector_depth": len(PREDICTOR),
    }  # fmt: skip
    return authors_code.Settings({**values, **more})


def our_step(config: object, model: nn.Module, images: object, seed: int) -> Tensor:
    """Loss with gradients left in the parameters; directions (and dropout) drawn from ``seed`` as theirs are."""
    from levl_eval.models.tokenizer import encode
    from levl_eval.pretrain import SIGReg
    from levl_eval.pretrain.objectives import loss_of

    ids, last = encode(tokenizers()[0], CAPTIONS, 77, config.text_readout)
    model.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    out = model(images, torch.from_numpy(ids), torch.from_numpy(last), 2)
    loss, _ = loss_of(config, out, SIGReg(config.sigreg_slices))
    loss.backward()
    return loss


def may(folder: Path, name: str) -> tuple[authors_code.Main, dict[str, nn.Module]]:
    """A script of May up to its loop, in float64 on the CPU, and its six modules."""
    main = authors_code.Main(folder, name, {"cfg": settings(), "tokenizer": tokenizers()[1], "DEVICE": "cpu"})
    main.constants()
    plus = name == "train_levljepa_plus.py"
    torch.manual_seed(0)
    main.assign({*MODULES, "proj_hidden", "sigreg"} | (set() if plus else {"text_token_idx"}))
    modules = stirred({m: main.names[m].double().train() for m in MODULES})
    main.names["sigreg"].double()
    main.assign({"optimizer", "lr_lambda", "scheduler"} | (set() if plus else {"g1", "g2", "g3", "g4"}))
    main.names["text_inputs"] = dict(
        main.names["tokenizer"](CAPTIONS, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    )
    return main, modules


def may_rows(folder: Path) -> list[Row]:
    from levl_eval.pretrain.schedule import learning_rate, optimizer_of

    main, modules = may(folder, "train_levljepa.py")
    config = our_config("levljepa-may")
    model = our_model(config, main.names["tokenizer"].vocab_size, modules)
    main.names["images"] = images = torch.randn(BATCH, 3, 224, 224)
    torch.manual_seed(1)
    theirs = main.loss()
    theirs.backward()
    wanted = gradients_of(modules)
    ours = our_step(config, model, images, 1)
    rows = [
        Row("loss", "pad77", relative(ours, theirs), "May"),
        Row(f"all {len(wanted)} gradients", "pad77", worst(model, wanted), "May"),
    ]

    rates = [main.names["lr_lambda"](s) * config.lr for s in range(10)]
    mine = [learning_rate(config, s) for s in range(10)]
    rows.append(Row("learning rate of every update", "levljepa-may", relative(torch.tensor(mine), torch.tensor(rates)), "May"))

    # Three whole updates: AdamW, clipping, schedule (whose first rate is 0).
    model = our_model(config, main.names["tokenizer"].vocab_size, modules)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = optimizer_of(model, config)
    for step in range(3):
        torch.manual_seed(step)
        main.update()
        our_step(config, model, images, step)
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.step()
    after = {f"{PARTS[p]}.{k}": v for p, m in modules.items() for k, v in m.state_dict().items()}
    moved = [(model.state_dict()[k] - v, after[k] - v) for k, v in before.items() if v.is_floating_point()]
    most = max(float(theirs.abs().max()) for _, theirs in moved)
    change = max(float((a - b).abs().max()) for a, b in moved) / most
    rows.append(Row("change of all weights and statistics in 3 updates", "pad77", change, "May"))
    return rows


def plus_rows(folder: Path) -> list[Row]:
    main, modules = may(folder, "train_levljepa_plus.py")
    each = main.mentions("all_image_proj")  # the first form predicts the text from every view
    config = our_config(
        "levljepa-may", "objective=levljepa_plus", f"plus_predicts={'views' if each else 'mean'}", "local_views=4"
    )
    model = our_model(config, main.names["tokenizer"].vocab_size, modules)
    crops = [torch.randn(2, BATCH, 3, 224, 224), torch.randn(4, BATCH, 3, 96, 96)]
    main.names["global_crops"], main.names["local_crops"] = (x.transpose(0, 1).contiguous() for x in crops)
    torch.manual_seed(1)
    theirs = main.loss()
    theirs.backward()
    wanted = gradients_of(modules)
    ours = our_step(config, model, crops, 1)
    case, version = (
        f"LeVLJEPA+, {'every view predicts' if each else 'the mean predicts'}",
        f"May ({'first form' if each else 'second form'})",
    )
    return [
        Row("loss", case, relative(ours, theirs), version),
        Row(f"all {len(wanted)} gradients", case, worst(model, wanted), version),
    ]


def july(folder: Path, **more: object) -> tuple[dict[str, nn.Module], authors_code.Settings]:
    """July's six modules in float64 and the settings they were built from."""
    cfg = settings(**more)
    torch.manual_seed(0)
    modules = authors_code.definitions(folder, "main.py")["build_modules"](cfg, tokenizers()[1].vocab_size)
    return stirred({k: m.double().train() for k, m in modules.items()}), cfg


def tables_in_float64(sigreg: nn.Module) -> None:
    """Their weights and targets by their own formula, without the rounding to float32 that they keep them in."""
    weights = torch.full_like(sigreg.t, 2 * 3 / (len(sigreg.t) - 1))
    weights[[0, -1]] /= 2
    sigreg.phi = (-sigreg.t.square() / 2).exp()
    sigreg.weights = weights * sigreg.phi


def july_rows(folder: Path) -> list[Row]:
    forward = authors_code.definitions(folder, "forwards.py")["levljepa_forward"]
    regulariser = authors_code.definitions(folder, "utils/sigreg.py")["SIGReg"]
    text = authors_code.definitions(folder, "utils/text.py")
    images, tokenizer = torch.randn(BATCH, 3, 224, 224), tokenizers()[1]
    heads = {"pre_proj_hidden_dims": [96, 80], "projector_hidden_dims": [96, 64, 80]}
    cases = {
        "eot": ({}, {}, []), "pad77": ({}, {"text_readout": "pad77"}, ["text_readout=pad77"]),
        "align_loss=cosine": ({}, {"align_loss": "cosine"}, ["align_loss=cosine"]),
        "predictor_dropout=0.1": ({"predictor_dropout": 0.1}, {}, ["dropout=0.1"]),
        EXACT: ({}, {}, []),
        "other heads": (heads, {}, [f"{k}={v}" for k, v in heads.items()]),
    }  # fmt: skip
    rows = []
    for case, (built, attributes, words) in cases.items():
        modules, cfg = july(folder, **built)
        config = our_config("levljepa-july", *words)
        model = our_model(config, tokenizer.vocab_size, modules)
        if case == "pad77":
            batch = tokenizer(CAPTIONS, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        else:
            batch = text["tokenize_with_eos_readout"](tokenizer, CAPTIONS)
        module = SimpleNamespace(
            **modules, sigreg=regulariser().double(), lambda_vision=cfg.lambda_vision, lambda_text=cfg.lambda_text,
            log_dict=lambda *_, **__: None, **attributes,
        )  # fmt: skip
        if case == EXACT:
            tables_in_float64(module.sigreg)
        torch.manual_seed(1)
        theirs = forward(module, {**batch, "image": images}, "fit")["loss"]
        theirs.backward()
        wanted = gradients_of(modules)
        ours = our_step(config, model, images, 1)
        rows += [
            Row("loss", case, relative(ours, theirs), "July"),
            Row(f"all {len(wanted)} gradients", case, worst(model, wanted), "July"),
        ]
    return rows


def table(may_folder: Path, july_folder: Path) -> str:
    """The rows of all parts in Markdown. Raises UsageError where a checkout lacks a file."""
    import authors_parts  # beside this file

    check(may_folder, MAY, "May")
    check(july_folder, JULY, "July")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their autocast asks for CUDA, which is not needed
        with computing_in(torch.float64):
            rows = [
                *may_rows(may_folder), *plus_rows(may_folder), *july_rows(july_folder), *authors_parts.text_rows(may_folder, july_folder),
                *authors_parts.sigreg_rows(may_folder, july_folder), *authors_parts.zeroshot_rows(july_folder),
                *authors_parts.attentive_rows(july_folder), *authors_parts.schedule_rows(july_folder),
            ]  # fmt: skip
    lines = ["| quantity | case | largest relative difference | version |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {r.quantity} | {r.case} | {r.value:.0e} | {r.version} |" for r in rows)])
