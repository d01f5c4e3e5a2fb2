"""Pages of the reference that are made from the code itself when the site is built: cards, records, command lines, pretraining's fields.

What a field means stands in the comment beside it; here both are read from the source, so that a page cannot fall behind the code.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import re
import textwrap
import tokenize
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

from levl_eval import cards
from levl_eval.cards.fields import mark_of
from levl_eval.cli.app import build_parser
from levl_eval.models.config import explained
from levl_eval.pretrain.cli import HELP
from levl_eval.records import Record

CARDS = (
    "BackboneCard", "PreprocessOverride", "SetCard", "DataSpec", "HubSource", "RecipeCard", "ConnectorSpec", "LLMCard",
    "PromptSpec", "QuestionCard", "VQACard", "MultipleChoiceCard", "SegmentationCard", "InContextCard", "TextSegmentationCard",
    "MMSegCard", "DepthCard", "DepthRecipeCard", "NormalsCard", "LinearProbeCard", "LinearPathCard", "AttentiveCard", "KNNCard",
    "ZeroShotCard", "RetrievalCard", "ChoiceCard", "ShiftCard", "BackgroundsCard", "LMMSCard", "ClaimCard", "SuiteCard",
)  # fmt: skip


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """mkdocs calls this once the pages of the folder are known."""
    pages = {"cards": cards_page(), "cli": command_page(build_parser()), "pretrain": pretrain_page()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def comments_of(source: str) -> dict[int, str]:
    """Line -> the comment on it."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT and "fmt: skip" not in t.string}


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Field -> what the comments say of it: those on its lines, and those on lines of their own right above it."""
    out: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if not issubclass(owner, BaseModel) or owner is BaseModel:
            continue
        source = textwrap.dedent(inspect.getsource(owner))
        lines, comments = source.splitlines(), comments_of(source)
        body = ast.parse(source).body[0]
        assert isinstance(body, ast.ClassDef)
        for node in body.body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            above, line = [], node.lineno - 1
            while line in comments and lines[line - 1].lstrip().startswith("#"):
                above.insert(0, comments[line])
                line -= 1
            beside = [comments[n] for n in range(node.lineno, (node.end_lineno or node.lineno) + 1) if n in comments]
            out[node.target.id] = " ".join([*above, *beside])
    return out


def cell(text: str) -> str:
    """Text that cannot end a table's cell."""
    return text.replace("\n", " ").replace("<", "&lt;").replace("|", "&#124;")


def code(text: str) -> str:
    """Text as code in a table's cell: Markdown's own backticks would show the escapes."""
    return f"<code>{cell(text)}</code>"


def type_name(annotation: Any) -> str:
    """A field's type without modules and without the validators it carries."""
    text = annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    text = re.sub(r"Annotated\[(\w+), [^\]]*\]", r"\1", text)
    return re.sub(r"\b(?:[a-z_]\w*\.)+([A-Za-z])", r"\1", text).replace("NoneType", "None")


def fields_table(model: type[BaseModel]) -> str:
    """Markdown of a model's fields: name, type, default, whether it is protocol, meaning (and where it is none, why)."""
    comments = meanings(model)
    rows = ["| field | type | default | protocol | meaning |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else code(repr(field.get_default(call_default_factory=True)))
        mark = mark_of(field)
        meaning = comments.get(name, "")
        if isinstance(mark, str):  # why it can move no number
            meaning = f"{meaning} ({mark})" if meaning else mark
        protocol = "yes" if mark is True else "no"
        row = (code(field.alias or name), code(type_name(field.annotation)), default, protocol, cell(meaning))
        rows.append("| " + " | ".join(row) + " |")
    return "\n".join(rows)


def cards_page() -> str:
    """Every card's fields, and a record's."""
    parts = [
        "# Cards and records",
        "Cards are YAML files. A field marked *protocol* can move a number: rows that differ in one are never compared. "
        "`levl-eval show NAME` prints a shipped card with its values.",
    ]
    for name in CARDS:
        model = getattr(cards, name)
        parts += [f"## {name}", inspect.getdoc(model) or "", fields_table(model)]
    parts += ["## Record", "One JSON file a job, named by the hash of its identity.", fields_table(Record)]
    return "\n\n".join(parts) + "\n"


def command_page(parser: argparse.ArgumentParser) -> str:
    """`levl-eval` and each of its commands, as --help prints them."""
    parts = ["# Command line", "```text\n" + parser.format_help() + "```"]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                parts += [f"## levl-eval {name}", "```text\n" + command.format_help() + "```"]
    return "\n\n".join(parts) + "\n"


def pretrain_page() -> str:
    """`levl-pretrain`, and every field of its configuration."""
    parts = [
        "# Pretraining",
        "```text\n" + HELP + "```",
        "## Fields",
        "As `levl-pretrain fields` prints them.",
        "```yaml\n" + explained([]) + "```",
    ]
    parts += ["## SIGReg", "::: levl_eval.models.sigreg.SIGReg\n    options:\n      heading_level: 3"]
    return "\n\n".join(parts) + "\n"
