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

from levl_eval.cli.app import build_parser, main
from levl_eval.models.config import parse_config
from levl_eval.pretrain.cli import main as pretrain

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


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
        parse_config([w for w in words[1:] if not w.endswith(".yaml")])


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


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
    assert [r.status for r in records] == ["done"] * 4 and "already there" in said[5].err
    assert session["found"].images > 0 and "were not measured alike" in said[4].out
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    table = pandas.read_csv(tmp_path / "run" / "leaderboard.csv")
    assert set(table["backbone"]) == {"levljepa-nano", "random-nano"} and len(table) == len(session["table"])


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


def test_commands_are_written_for_any_shell():
    """No braces that only bash expands, and every block says what it holds."""
    for page in PAGES:
        for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            assert kind or "levl-" not in block.split("\n")[0] or block.startswith("$ "), (page.name, block)
            if kind == "sh":
                assert not re.search(r"(?<!')\{\w+,", block), (page.name, block)


def test_commands_named_in_running_text_parse():
    """What stands in backticks and begins with levl-eval is a command this version has."""
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")]
    named = [words for text in pages for words in re.findall(r"`levl-eval ([^`]+)`", text)]
    assert len(named) >= len(pages)
    for words in named:
        if " " in words:  # a command's bare name is no call
            build_parser().parse_args(shlex.split(words))
        else:
            assert f" {words} " in build_parser().format_help().replace("\n", " "), words


def test_the_reference_holds_every_public_name():
    """The pages are built from the code with warnings as errors (`make docs`); which names they hold is said here."""
    import levl_eval
    from levl_eval import metrics, pretrain, vlm

    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    text += (ROOT / "docs" / "_hooks.py").read_text(encoding="utf-8")
    errors = {"LevlError", "UsageError", "ProtocolMismatch"}  # on the page of their module
    assert "::: levl_eval.core.errors" in text
    for name in {*levl_eval.__all__, *metrics.__all__, *pretrain.__all__, *vlm.__all__} - errors:
        assert re.search(rf"^::: levl_eval\.(?:[\w.]+\.)?{name}$|::: levl_eval\.[\w.]+\.{name}\\n", text, re.M), name


def test_sources_are_written_out():
    """No reference to notes that a reader does not have."""
    folders = ("tasks", "backbones", "levl_eval", "docs", "results", "benchmarks")
    files = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".yaml", ".md", ".csv", ".j2")]
    wrong = [str(p) for p in files if re.search(r"PAPER \d|DESIGN\.md|FAULTS\.md|shared/", p.read_text(encoding="utf-8"))]
    assert wrong == []
