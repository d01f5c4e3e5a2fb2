"""Claims: a statement about encoders as a card, and a verdict on it from records. See docs/claims.md."""

from levl_eval.claims.verdict import Difference, Judged, finished_records, judge

__all__ = ["Difference", "Judged", "finished_records", "judge"]
