"""docs/pretraining.md holds what its commands print."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "pretraining.md").read_text(encoding="utf-8")


def _script():
    spec = importlib.util.spec_from_file_location("published_code", ROOT / "benchmarks" / "published_code.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_presets_are_shown_as_they_resolve():
    table = _script().presets()
    assert table in PAGE and "| `lr` | 0.0002 | 0.0002 | 0.0002 | 0.0005 | 0.0005 |" in table


def test_the_table_of_differences_has_every_case_and_each_is_rounding():
    script = _script()
    rows = [*script.losses(), *script.schedules()]
    assert len(rows) == 2 * 19 + 4
    for quantity, case, value, version in rows:
        assert value < 1e-11
        assert f"| {quantity} | {case} | " in PAGE and f" | {version} |" in PAGE


def test_authors_code_is_refused_in_one_line_where_it_is_not(tmp_path, capsys):
    script = _script()
    for words, missing in ((["may", "july"], "train_levljepa.py"), ([ROOT / "tests", "july"], "train_levljepa.py")):
        assert script.main(["--authors", *(str(tmp_path / w) for w in words)]) == 2
        out, err = capsys.readouterr()
        assert (
            out == "" and err.count("\n") == 1 and missing in err and "two checkouts" in err and str(tmp_path / words[0]) in err
        )
    may = tmp_path / "may"
    (may / "utils").mkdir(parents=True)
    for name in ("train_levljepa.py", "train_levljepa_plus.py", "utils/eval_utils.py", "utils/sigreg.py"):
        (may / name).write_text("")
    assert script.main(["--authors", str(may), str(tmp_path)]) == 2
    assert f"{tmp_path} holds no forwards.py" in capsys.readouterr().err


def test_their_statements_run_as_they_stand(tmp_path):
    """Of a main that would need a trainer, GPUs and data: first bindings, and the step under autocast;
    from modules beside it, their names."""
    script = _script()
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "part.py").write_text(
        "import no_such_library\nfrom no_such_library import Base\nclass A(Base): pass\nHALF = 0.5\n"
    )
    (tmp_path / "train.py").write_text(
        "import no_such_library\nimport torch\nfrom utils.part import HALF, A\n\n"
        "@no_such_library.main\ndef main(cfg: no_such_library.Config):\n    LR = cfg.lr\n    BATCH = no_such_library.size()\n"
        "    model = [cfg.model.width * HALF]\n    model = no_such_library.wrap(model)\n    def rate(step):\n"
        "        return LR * step\n    try:\n"
        "        with no_such_library.bar() as t:\n            for step in t:\n                x = no_such_library.batch()\n"
        "                with torch.autocast(device_type='cpu', enabled=False):\n                    loss = model[0] + x + rate(2)\n"
        "                steps.append(loss)\n                scheduler.step()\n                no_such_library.log(loss)\n"
        "    finally:\n        no_such_library.end()\n"
    )

    class Scheduler:
        steps = 0

        def step(self):
            self.steps += 1

    code = script.authors_modules()[1]
    cfg = code.Settings(lr=3, model=code.Settings(width=8))
    main = code.Main(tmp_path, "train.py", {"cfg": cfg, "x": 100, "steps": [], "scheduler": Scheduler(), "BATCH": 4})
    main.constants()
    main.assign({"model", "rate"})
    assert main.names["model"] == [4.0] and main.names["LR"] == 3 and "A" not in main.names
    assert main.loss() == 110 and main.names["steps"] == [] and main.names["scheduler"].steps == 0
    main.update()
    assert main.names["steps"] == [110] and main.names["scheduler"].steps == 1
    assert main.mentions("scheduler") and not main.mentions("all_image_proj")


def test_a_gradient_that_differs_shows_in_the_table():
    authors = _script().authors_modules()[0]
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)).double()
    model(torch.ones(4, 3).double()).square().sum().backward()
    theirs = {n: p.grad.clone() for n, p in model.named_parameters()}
    assert authors.worst(model, theirs) == 0
    largest = theirs["0.bias"].abs().argmax()  # the other may be too small beside it to show
    theirs["0.bias"][largest] *= 1 + 1e-6
    assert 1e-7 < authors.worst(model, theirs) < 1e-5
    model[0].bias.grad = theirs["0.bias"] = torch.full((2,), 1e-15).double()
    theirs["0.bias"] = -theirs["0.bias"]  # rounding of a gradient that is 0
    assert authors.worst(model, theirs) == 0
    theirs["0.bias"] = torch.ones(2).double()
    assert authors.worst(model, theirs) > 0.5
