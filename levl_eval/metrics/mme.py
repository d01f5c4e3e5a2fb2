"""MME: its categories and how its published evaluation reads an answer (Fu et al., 2023)."""

from __future__ import annotations

PERCEPTION = frozenset({"existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"})
COGNITION = frozenset({"commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"})


def mme_answer(text: str) -> str:
    """ "yes", "no" or "other": the answer itself, else what its first four characters hold."""
    answer = text.strip().lower()
    if answer in ("yes", "no"):
        return answer
    start = answer[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"
