"""What README and the pages of docs say, without running it; tests/test_docs_pages.py runs them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from levl_eval.cli.app import build_parser
from levl_eval.report.tables import COLUMNS

ROOT = Path(__file__).resolve().parents[1]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


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


def test_the_house_names_what_is_there():
    """Files, and what stands in them, of the page that walks through the code."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    wrong = []
    for path, names in re.findall(r"`([a-z_/]+\.py)(?::([\w.]+))?`", text):
        file = next((f for f in (ROOT / "levl_eval" / path, ROOT / path) if f.is_file()), None)
        source = file.read_text(encoding="utf-8") if file is not None else ""
        parts = names.split(".") if names else []
        if file is None or not all(re.search(rf"\b(?:def|class) {part}\b|^{part}\b", source, re.M) for part in parts):
            wrong.append(f"{path}:{names}")
    assert wrong == []


def test_the_page_of_results_has_every_column_of_the_table():
    """In the order of the file, with the meaning that a published data set card gives."""
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").partition("## leaderboard.csv")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", text.partition("\n## ")[0], re.M)
    assert [(name, meaning.replace("\\|", "|")) for name, meaning in rows] == list(COLUMNS.items())


def test_links_between_pages_lead_somewhere():
    """The file, and where the link names one, the heading; pages of the reference are made with the site."""
    for page in PAGES:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")):
            if target.startswith("reference/"):
                continue
            file = (page.parent / target).resolve() if target else page
            assert file.exists(), (page.name, target)
            if anchor:
                headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
                assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, (
                    page.name,
                    target,
                    anchor,
                )
