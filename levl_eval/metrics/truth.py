"""What an answer says of a statement: that it is true, or false."""

from __future__ import annotations

import re

_TRUE, _FALSE = frozenset({"true", "yes", "correct", "right"}), frozenset({"false", "no", "not", "incorrect", "wrong"})


def truth_answer(text: str) -> str:
    """ "true", "false", or "other" where neither is said: the first word of the answer that says one of them. Yes and no count as well."""
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in _TRUE or word in _FALSE:
            return "true" if word in _TRUE else "false"
    return "other"
