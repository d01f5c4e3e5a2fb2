"""README and the pages of docs, run as a reader runs them: every block in order, each page in an empty folder and one Python session.

A block of commands that begins with "# needs ..." (data, a GPU, several processes, a network) is not run: its commands must parse.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

from levl_eval.cli import main
from levl_eval.cli.app import build_parser
from levl_eval.cli.pretrain import split_launcher
from levl_eval.models.config import parse_config
from levl_eval.pretrain.cli import main as pretrain
from levl_eval.report.results import Results
from levl_eval.report.sight import share_of_record

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(block):
    """Words of each command; lines that end with a backslash go on, comments are left out."""
    joined = re.sub(r"\\\n\s*", "", block)
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def parse(words):
    """Whether these words are a command of this version; those of other programs are not ours to judge."""
    if "levl_eval.cli" in words:  # torchrun ... -m levl_eval.cli run ...
        words = ["levl-eval", *words[words.index("levl_eval.cli") + 1 :]]
    if "levl-pretrain" in words:
        words = words[words.index("levl-pretrain") :]
    if words[0] == "levl-eval":
        build_parser().parse_args(words[1:])
    elif words[0] == "levl-pretrain" and words[1] not in ("fields", "export", "import"):
        rest = split_launcher(words[1:])[2] if "--launcher" in words else words[1:]
        parse_config([w for w in rest if not w.endswith(".yaml")])


@pytest.mark.slow
def test_the_walk_through_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "walkthrough.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))
    session: dict = {"__name__": "walkthrough"}
    blocks = BLOCK.findall(text)
    assert {kind for kind, _ in blocks} == {"sh", "python"} and len(blocks) >= 7
    said = []
    for kind, block in blocks:
        if kind == "sh":
            for command in commands(block):
                assert command[0] == "levl-eval"
                assert main(command[1:]) == 0, command
        else:
            exec(compile(block, "docs/walkthrough.md", "exec"), session)
        said.append(capsys.readouterr())
    drawn = np.asarray(Image.open(tmp_path / "pca.png"))
    assert drawn.shape == (256, 512, 3) and len(np.unique(drawn[:, 256:].reshape(-1, 3), axis=0)) > 8
    records = session["records"]
    assert [r.status for r in records] == ["done"] * 6 and "already there" in said[5].err
    assert session["found"].difference.low > 0  # trained above random, beyond error
    sight = {r.backbone["name"]: share_of_record(results, row, r) for results in [Results.read([tmp_path / "run"])] for row in results.rows
             if row.task == "ade20k" for c in row.cells.values() for r in c.records}  # fmt: skip
    assert sight["levljepa-nano"].value > sight["random-nano"].value and sight["oracle:attributes"] is None
    assert session["found"].images > 0 and "were not measured alike" in said[4].out
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    table = pandas.read_csv(tmp_path / "run" / "leaderboard.csv")
    assert set(table["backbone"]) == {"levljepa-nano", "random-nano", "oracle:attributes"} and len(table) == len(session["table"])


@pytest.fixture(scope="module")
def pages_cache(tmp_path_factory):
    """One for all pages, so that the world is made and an encoder sees an image once."""
    return tmp_path_factory.mktemp("pages") / "cache"


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "walkthrough.md"], ids=lambda p: p.name)
def test_every_block_of_a_page_runs_or_parses(page, pages_cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEVL_CACHE", str(pages_cache))
    session: dict = {"__name__": page.stem}
    for kind, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            exec(compile(block, page.name, "exec"), session)
        elif kind == "yaml" and (name := re.search(r"^name: (\w+)$", block, re.M)):
            Path(f"{name[1]}.yaml").write_text(block, encoding="utf-8")  # the card the text speaks of
        elif kind == "json":
            json.loads(block)
        elif kind == "sh":
            for words in commands(block):
                if block.startswith("# needs "):
                    parse(words)
                else:
                    run = {"levl-eval": main, "levl-pretrain": pretrain}[words[0]]
                    assert run(words[1:]) == 0, (words, capsys.readouterr().err)
