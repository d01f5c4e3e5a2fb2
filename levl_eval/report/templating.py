"""The pages' templates: jinja2 with everything escaped. Markup is in ``templates/`` only, never in Python.

What a page shows comes from cards, records and data sets that others wrote: every text goes through core.text.printable (what would
act unseen is shown as its escape) and is then escaped for HTML. Only ``Markup`` is taken as it is: what a template itself has made,
and our own style sheet and script.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from levl_eval.core.text import json_text, printable

FOLDER = Path(__file__).resolve().parent / "templates"


def _shown(value: object) -> object:
    """Each expression of a template on its way out; None is nothing."""
    if value is None:
        return ""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip


def render(template: str, **values: object) -> Markup:
    """A template of ``templates/`` with ``values``; a name that is missing is an error."""
    return Markup(_environment().get_template(template).render(**values))  # escaped by the environment


def macro(template: str, name: str, *values: object) -> Markup:
    """What one macro of a template makes of ``values``."""
    return Markup(getattr(_environment().get_template(template).module, name)(*values))


def own_file(path: Path) -> Markup:
    """A style sheet or script of ours, as it is."""
    return Markup(path.read_text(encoding="utf-8"))


def json_data(value: object) -> Markup:
    """JSON for a ``<script type="application/json">``: no ``<`` that could end the element."""
    return Markup(json_text(value, None).replace("<", "\\u003c"))
