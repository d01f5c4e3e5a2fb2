"""levl-pretrain against the published code: what differs and by how much, and what the presets come to. Writes Markdown.

    python benchmarks/published_code.py             the table of differences in docs/pretraining.md
    python benchmarks/published_code.py --presets   the table of presets there
    python benchmarks/published_code.py --authors MAY_DIR JULY_DIR
                                                    the table of the authors' own two code versions there

The published code is not part of this repository. What is measured by default is this package against tests/golden/make_pretrain.py, which
writes the published formulas down in float64 without any code of the package; run it from the repository's root. --authors executes two
checkouts that you bring (authors.py beside this file): read the code in them before you do. LeVLJEPA+ there needs einops.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
NAMES = ("levljepa-may", "levljepa-july", "clip-openclip", "siglip")
VERSIONS = {
    "levljepa eot": "July", "levljepa pad77": "May, July's option", "levljepa pad77-all": "neither",
    "levljepa cosine": "July's option", "levljepa july heads": "July's option", "plus": "May (b120e44)",
    "plus first form": "May (before b120e44)", "direct": "Table 7", "clip": "OpenCLIP", "siglip": "Zhai et al. 2023",
}  # fmt: skip


def presets() -> str:
    """Every field in which a preset differs from another or from the default at model=base, with its value."""
    from levl_eval.models.config import parse_config

    all_of = {"(default)": parse_config(["model=base"])} | {n: parse_config([f"preset={n}"]) for n in NAMES}
    values = {n: c.model_dump(mode="json") for n, c in all_of.items()}
    rows = ["| field | " + " | ".join(values) + " |", "|" + "---|" * (len(values) + 1)]
    for field in values["(default)"]:
        cells = [json.dumps(v[field]) for v in values.values()]
        if field != "preset" and len(set(cells)) > 1:
            rows.append(f"| `{field}` | " + " | ".join(c.strip('"') for c in cells) + " |")
    return "\n".join(rows)


def losses() -> list[tuple[str, str, float, str]]:
    """(quantity, case, largest relative difference, version) of losses and of all gradients, in float64."""
    import torch

    from levl_eval.pretrain import SIGReg
    from levl_eval.pretrain.objectives import loss_of
    from tests.golden import make_pretrain as plain
    from tests.pretrain import test_golden as golden

    torch.set_default_dtype(torch.float32)  # the script's own float64 is for its formulas alone
    out = []
    for name, case in plain.CASES.items():
        config = golden._config(case)
        model = golden._model(plain, config, case)
        views = 4 if case.get("objective") == "plus" else 1
        images = plain.wave("images", (views * plain.BATCH, 3, 8, 8)).double()
        crops = images.view(4, plain.BATCH, 3, 8, 8) if views == 4 else None
        ids, last = golden._texts(config.text_readout)
        queue = [plain.directions("directions/v"), plain.directions("directions/v" if case.get("shared") else "directions/t")]
        sigreg = SIGReg(11)
        x = images if crops is None else [crops[:2], crops[2:]]
        loss, _ = loss_of(config, model(x, ids, last, 2), lambda z, queue=queue, sigreg=sigreg: sigreg(z, queue.pop(0)))
        wanted = golden.VALUES["losses"][name]
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        largest = max(v[0] for v in wanted["gradients"].values()) ** 0.5
        worst = 0.0
        for (n, _p), g in zip(model.named_parameters(), gradients, strict=True):
            square, product = plain.summary(n, g)
            worst = max(worst, abs(square**0.5 - wanted["gradients"][n][0] ** 0.5) / largest)
            worst = max(worst, abs(product - wanted["gradients"][n][1]) / largest)
        version = VERSIONS.get(name, "")
        out.append(("loss", name, abs(loss.item() - wanted["loss"]) / abs(wanted["loss"]), version))
        out.append((f"all {len(gradients)} gradients", name, worst, version))
    return out


def schedules() -> list[tuple[str, str, float, str]]:
    from levl_eval.models.config import parse_config
    from levl_eval.pretrain.schedule import learning_rate
    from tests.pretrain import test_golden as golden

    words = {
        "may": ["warmup_start_factor=0"], "july": ["warmup_start_factor=0.01"], "openclip": ["warmup_start_factor=null", "final_lr=0"],
        "wsd": ["warmup_start_factor=0.01", "schedule=wsd", "wsd_decay_frac=0.15"],
    }  # fmt: skip
    versions = {"may": "May", "july": "July", "openclip": "OpenCLIP", "wsd": "July's option"}
    out = []
    for name, more in words.items():
        config = parse_config(["model=base", "steps=100", "warmup=10", *more])
        wanted = golden.VALUES["schedules"][name]
        worst = max(abs(learning_rate(config, s) - w) for s, w in enumerate(wanted)) / max(wanted)
        out.append(("learning rate of 100 updates", name, worst, versions[name]))
    return out


def differences() -> str:
    rows = ["| quantity | case | relative difference | version |", "|---|---|---|---|"]
    rows += [f"| {quantity} | {case} | {value:.0e} | {version} |" for quantity, case, value, version in [*losses(), *schedules()]]
    return "\n".join(rows)


def authors_modules() -> tuple[ModuleType, ModuleType]:
    """The two files beside this one that --authors needs: the comparison, and how their code is executed."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import authors
    import authors_code

    return authors, authors_code


def main(words: list[str] | None = None) -> int:
    """Returns the exit code."""
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--presets", action="store_true")
    p.add_argument(
        "--authors",
        nargs=2,
        type=Path,
        metavar=("MAY_DIR", "JULY_DIR"),
        help="checkouts of the published code, which is executed",
    )
    args = p.parse_args(words)
    if args.authors:
        from levl_eval.core.errors import UsageError

        try:
            print(authors_modules()[0].table(*args.authors))
        except UsageError as e:
            print(e, file=sys.stderr)
            return 2
    else:
        print(presets() if args.presets else differences())
    return 0


if __name__ == "__main__":
    sys.exit(main())
