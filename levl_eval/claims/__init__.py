"""Claims: a statement about encoders as a card, and a verdict on it from records. See docs/claims.md."""

from levl_eval.claims.card import ClaimCard, claim_card, claim_files, parse_claim
from levl_eval.claims.verdict import Difference, Judged, finished_records, judge

__all__ = ["ClaimCard", "Difference", "Judged", "claim_card", "claim_files", "finished_records", "judge", "parse_claim"]
