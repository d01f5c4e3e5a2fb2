"""`python -m levl_eval.lmms ...` is `lmms-eval ...` with our model; ``manifest`` is its entry point of the group lmms_eval.models."""

from __future__ import annotations

import sys

from levl_eval.engines.lmms.entry import main, manifest

__all__ = ["main", "manifest"]

if __name__ == "__main__":
    sys.exit(main())
