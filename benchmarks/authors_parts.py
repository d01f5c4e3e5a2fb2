"""Single parts of this package beside the authors': text embeddings in evaluation, SIGReg in one and three processes, zero-shot read-outs,
effective rank, the attentive probe's head, schedules. Rows of authors.py's table.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import authors  # beside this file
import authors_code
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from levl_eval.backbones.base import Backbone


def text_rows(may_folder: Path, july_folder: Path) -> list[authors.Row]:
    """Text embeddings in evaluation: July's in both read-outs, and May's, which pads to the longest prompt of a group alone."""
    from levl_eval.backbones.levl import DualEncoderBackbone

    ours, tokenizer = authors.tokenizers()
    modules, _ = authors.july(july_folder)
    for m in modules.values():
        m.eval()
    model = authors.our_model(authors.our_config("levljepa-july"), tokenizer.vocab_size, modules).eval()
    rows = []
    for readout in ("eot", "pad77"):
        backbone = DualEncoderBackbone(model, ours, 77, readout)
        backbone.read_texts(readout)
        mine = backbone.text_embeddings(authors.CAPTIONS)["embedding"]
        for version, folder in (("July", july_folder), ("May", may_folder)):
            encode = authors_code.definitions(folder, "utils/eval_utils.py")["_encode_texts"]
            if version == "May" and readout == "eot":
                continue  # May has none
            groups = {readout: authors.CAPTIONS}
            if version == "May":
                groups[f"{readout}, no caption longer than 40"] = authors.CAPTIONS[:6]
            words = {} if version == "May" else {"text_readout": readout}
            for case, texts in groups.items():
                with torch.no_grad():
                    z = modules["text_pre_proj"](encode(modules["text_encoder"], tokenizer, texts, "cpu", **words))
                value = authors.relative(mine[: len(texts)], nn.functional.normalize(z, dim=-1))
                rows.append(authors.Row("text embedding in evaluation", case, value, version))
    return rows


class _Images(torch.utils.data.Dataset):
    """Stands for ImageNet: random images of 12 classes."""

    class_names = "tench great_white_shark hen ostrich robin bulbul jay magpie kite vulture newt axolotl".split()

    def __init__(self, *_: object, **__: object) -> None:
        generator = torch.Generator().manual_seed(3)
        self.images = torch.randn(36, 3, 224, 224, generator=generator)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.images[i], i % len(self.class_names)


SAME = {
    "zeroshot": "embedding", "proj": "predicted-image-to-text", "proj_text": "image-to-predicted-text", "avg": "average",
    "predictor_pair": "predictor-pair",
}  # fmt: skip


def _accuracies(backbone: Backbone, images: dict[str, Tensor], texts: dict[str, Tensor], theirs: dict[str, float]) -> float:
    """Largest difference of top-1 and top-5 in percent, over the read-outs that they print."""
    from levl_eval.engines.probes.common import scores

    labels = np.array([label for _, label in _Images()])
    by_name = {r.name: r for r in backbone.readouts}
    out = 0.0
    for their_name, name in SAME.items():
        if f"{their_name}_top1" in theirs:
            mine, _ = scores(images[by_name[name].image] @ texts[by_name[name].text].T, labels)
            out = max(out, *(abs(100 * mine[k].value - theirs[f"{their_name}_{k}"]) for k in ("top1", "top5")))
    return out


@authors.computing_in(torch.float32)  # as both evaluate
def zeroshot_rows(folder: Path) -> list[authors.Row]:
    """Accuracies of both of July's evaluations against the functions of the task `zeroshot`, and the two effective ranks, in float32."""
    from levl_eval.backbones.levl import DualEncoderBackbone
    from levl_eval.engines.probes.texts import class_embeddings, image_embeddings
    from levl_eval.models.spectrum import effective_rank
    from levl_eval.models.tokenizer import encode

    ours, tokenizer = authors.tokenizers()
    modules = {k: m.float().eval() for k, m in authors.july(folder)[0].items()}
    model = authors.our_model(authors.our_config("levljepa-july"), tokenizer.vocab_size, modules).float().eval()
    evaluation = authors_code.definitions(folder, "utils/eval_utils.py")
    script = authors_code.definitions(folder, "scripts/eval_zeroshot_classification.py")
    evaluation["ImageNetVal"] = script["HFZeroShot"] = _Images
    names = [c.replace("_", " ") for c in _Images.class_names]
    vision, text = ((modules[f"{s}_encoder"], modules[f"{s}_pre_proj"], modules[f"projector_{s}"]) for s in ("vision", "text"))
    rows = []
    for readout in ("eot", "pad77"):
        backbone = DualEncoderBackbone(model, ours, 77, readout)
        backbone.name = "theirs"
        backbone.read_texts(readout)
        with torch.inference_mode(), contextlib.redirect_stderr(io.StringIO()):  # their progress bars
            pooled = np.concatenate([backbone.encode(x).pooled.numpy() for x in _Images().images.split(16)])
            measured = evaluation["run_imagenet_eval"](
                vision[0], text[0], tokenizer, None, "cpu", vision[1], text[1], vision[2], text[2], batch_size=16, num_workers=0,
                text_readout=readout,
            )  # fmt: skip
            args = SimpleNamespace(cache_dir=None, limit_samples=None, batch_size=16, num_workers=0, precision="fp32")
            printed = script["eval_dataset"]([*vision, *text], tokenizer, "pets", args, torch.device("cpu"))
        images = image_embeddings(backbone, pooled, torch.device("cpu"))
        texts = class_embeddings(backbone, names, [evaluation["PROMPT_TEMPLATE"]])
        theirs = {k.removeprefix("eval/"): v for k, v in measured.items()}
        rows.append(
            authors.Row(
                "zero-shot top-1 and top-5, points",
                f"{readout}, 5 read-outs",
                _accuracies(backbone, images, texts, theirs),
                "July",
            )
        )
        if readout == "pad77":  # the only one that the script has
            texts = class_embeddings(backbone, names, [printed["template"]])
            rows.append(
                authors.Row(
                    "zero-shot top-1 and top-5, points",
                    "their script, 4 read-outs",
                    _accuracies(backbone, images, texts, printed),
                    "July",
                )
            )
            continue
        ids, last = encode(ours, [evaluation["PROMPT_TEMPLATE"].format(n) for n in names], 77, readout)
        with torch.inference_mode():
            z = {
                "vision": model.vision.pre_proj(torch.from_numpy(pooled)),
                "text": model.embed_texts(torch.from_numpy(ids), torch.from_numpy(last)),
            }
        for side, x in z.items():
            rank = measured[f"eval/effective_rank_{side}"]
            rows.append(authors.Row("effective rank", side, abs(effective_rank(x) - rank) / rank, "July, May's function"))
    return rows


def attentive_rows(folder: Path) -> list[authors.Row]:
    from levl_eval.engines.probes.attentive import AttentiveHead

    torch.manual_seed(4)
    theirs = authors_code.definitions(folder, "utils/attentive.py")["AttentiveClassifier"](
        embed_dim=48, num_heads=4, num_classes=10
    ).double()
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.1 * torch.randn(p.shape)
    ours = AttentiveHead(48, 10, 4, 4.0).double()
    state = {k.removeprefix("pooler.cross_attention_block."): v for k, v in theirs.state_dict().items()}
    keys, values = state.pop("xattn.kv.weight").chunk(2)
    _, bias = state.pop("xattn.kv.bias").chunk(2)  # the keys' moves no softmax
    state |= {
        "xattn.k.weight": keys,
        "xattn.v.weight": values,
        "xattn.v.bias": bias,
        "query": state.pop("pooler.query_tokens")[0],
    }
    renamed = {k.removeprefix("xattn.").replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.2"): v for k, v in state.items()}
    ours.load_state_dict(renamed, strict=True)
    tokens = [torch.randn(6, 49, 48, generator=torch.Generator().manual_seed(5)).requires_grad_() for _ in range(2)]
    logits = [head(x) for head, x in zip((ours, theirs), tokens, strict=True)]
    for x in logits:
        x.square().sum().backward()
    return [
        authors.Row("attentive probe's logits", "random weights", authors.relative(*logits), "July"),
        authors.Row(
            "attentive probe's gradient of tokens", "random weights", authors.relative(tokens[0].grad, tokens[1].grad), "July"
        ),
    ]


def schedule_rows(folder: Path) -> list[authors.Row]:
    """July's own WSD; its cosine is stable-pretraining's, compared where that is installed."""
    from levl_eval.pretrain.schedule import learning_rate

    def rates(make: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]) -> Tensor:
        optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=2e-4)
        scheduler, out = make(optimizer), []
        for _ in range(100):
            out.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        return torch.tensor(out)

    build = authors_code.definitions(folder, "main.py")["build_scheduler_config"]
    cfg = authors.settings(total_steps=100, warmup_steps=10, lr_schedule="wsd")
    cases = {"wsd": (build(cfg), ["schedule=wsd", "wsd_decay_frac=0.15"])}
    package = importlib.util.find_spec("stable_pretraining")
    if package is not None and package.origin is not None:  # its one function, without lightning and the rest that it imports
        scheduler = authors_code.definitions(Path(package.origin).parent, "optim/lr_scheduler.py")["LinearWarmupCosineAnnealing"]
        words = {k: v for k, v in build(authors.settings(total_steps=100, warmup_steps=10)).items() if k != "type"}
        cases["cosine (stable-pretraining's)"] = (lambda optimizer: scheduler(optimizer, **words), [])
    rows = []
    for case, (make, more) in cases.items():
        config = authors.our_config("levljepa-july", "steps=100", "warmup=10", *more)
        mine = torch.tensor([learning_rate(config, s) for s in range(100)])
        rows.append(
            authors.Row("learning rate of every update", f"levljepa-july, {case}", authors.relative(mine, rates(make)), "July")
        )
    return rows


def _both(ours: nn.Module, theirs: nn.Module, z: Tensor) -> float:
    """The larger difference of value and gradient, on the same draw of directions."""
    values, gradients = [], []
    for module in (ours, theirs):
        x = z.clone().requires_grad_()
        torch.manual_seed(7)
        values.append(module(x))
        values[-1].backward()
        gradients.append(x.grad)
    return max(authors.relative(*values), authors.relative(*gradients))


def sigreg_rows(may_folder: Path, july_folder: Path) -> list[authors.Row]:
    """Value and gradient of the regulariser alone, published slices and knots; then in three processes with one characteristic function."""
    from levl_eval.pretrain import SIGReg

    rows = []
    for version, folder in (("May", may_folder), ("July", july_folder)):
        theirs = authors_code.definitions(folder, "utils/sigreg.py")["SIGReg"]().double()
        for case, shape in (
            ("batch 64", (64, 32)),
            ("batch 64, tables in float64", (64, 32)),
            ("3 views, tables in float64", (3, 32, 32)),
        ):
            if "float64" in case:
                authors.tables_in_float64(theirs)
            z = torch.randn(*shape, generator=torch.Generator().manual_seed(6))
            rows.append(authors.Row("SIGReg and its gradient", case, _both(SIGReg(), theirs, z), version))
    with tempfile.TemporaryDirectory() as work:
        torch.multiprocessing.spawn(_process, (3, str(july_folder), work), nprocs=3)
        worst = max(float(Path(work, f"{rank}.txt").read_text()) for rank in range(3))
    return [
        *rows,
        authors.Row("SIGReg and its gradient", "distributed, 3 gloo processes, tables in float64", worst, "July's option"),
    ]


class _Averaging:
    """torch.distributed for their module: gloo has no average, so a sum is divided, outside of autograd as their call is."""

    def __getattr__(self, name: str) -> object:
        return getattr(dist, name)

    @staticmethod
    def all_reduce(x: Tensor, op: object) -> None:
        if op != dist.ReduceOp.AVG:
            raise ValueError(f"their SIGReg reduces by {op}, not by an average")
        with torch.no_grad():
            dist.all_reduce(x)
            x /= dist.get_world_size()


@authors.computing_in(torch.float64)
def _process(rank: int, world: int, folder: str, work: str) -> None:
    from levl_eval.pretrain import SIGReg

    dist.init_process_group("gloo", init_method=f"file://{work}/meet", rank=rank, world_size=world)
    names = authors_code.definitions(Path(folder), "utils/sigreg.py")
    names["dist"] = _Averaging()
    z = torch.randn(16, 32, generator=torch.Generator().manual_seed(rank))
    theirs = names["SIGReg"](num_proj=512, distributed=True).double()
    authors.tables_in_float64(theirs)
    value = _both(SIGReg(512, distributed=True), theirs, z)
    if _both(SIGReg(512), theirs, z) < 1e-3:
        raise RuntimeError("the other processes' rows made no difference: nothing was compared")
    Path(work, f"{rank}.txt").write_text(str(value))
    dist.destroy_process_group()
