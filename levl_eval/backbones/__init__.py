"""Frozen image encoders: the contract (`base`) and one short loader a family."""

from levl_eval._compat import repair

repair()
