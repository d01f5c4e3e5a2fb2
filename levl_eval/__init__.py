"""levl-eval: the reference evaluator for frozen vision encoders. The public Python API; everything is imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "evaluate": "levl_eval.runner.evaluate",
    "compare": "levl_eval.report.compare",
    "load_backbone": "levl_eval.backbones",
    "export_features": "levl_eval.runner.exporting",
    "import_predictions": "levl_eval.runner.importing",
    "ImportOptions": "levl_eval.runner.importing",
    "ExportOptions": "levl_eval.runner.exporting",
    "ProtocolMismatch": "levl_eval.core.errors",
    "LevlError": "levl_eval.core.errors",
    "UsageError": "levl_eval.core.errors",
    "Record": "levl_eval.records",
    "Estimate": "levl_eval.metrics.estimate",
}
__all__ = [
    "Estimate",
    "ExportOptions",
    "ImportOptions",
    "LevlError",
    "ProtocolMismatch",
    "Record",
    "UsageError",
    "compare",
    "evaluate",
    "export_features",
    "import_predictions",
    "load_backbone",
]

if TYPE_CHECKING:
    from levl_eval.backbones import load_backbone
    from levl_eval.core.errors import LevlError, ProtocolMismatch, UsageError
    from levl_eval.metrics.estimate import Estimate
    from levl_eval.records import Record
    from levl_eval.report.compare import compare
    from levl_eval.runner.evaluate import evaluate
    from levl_eval.runner.exporting import ExportOptions, export_features
    from levl_eval.runner.importing import ImportOptions, import_predictions


def __getattr__(name: str) -> object:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value  # no submodule may bear a public name: its import, wherever it happened, would stand here instead
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
