"""Digests of official question files, as `levl_eval.data.published` holds them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from levl_eval.data.fingerprints import questions_digest
from levl_eval.data.pope import pope_questions
from levl_eval.data.questions import gqa_file


def main(argv: Sequence[str] | None = None) -> int:
    """Print the digests of official question files, as they stand above."""
    what, place = (sys.argv[1:] if argv is None else argv)[:2]
    if what == "pope":
        questions = pope_questions(Path(place))
        for split in dict.fromkeys(str(q.meta["split"]) for q in questions):
            print(split, questions_digest([q for q in questions if q.meta["split"] == split]))
        print("all", questions_digest(questions))
    else:
        print("testdev_balanced", questions_digest(gqa_file(Path(place))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
