"""easy-VQA's question file as JSON lines: `python results/real/easy_vqa.py FOLDER/train/questions.json OUT.jsonl --images 100`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("questions", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, help="questions of the first so many images alone")
    args = parser.parse_args()
    rows = json.loads(args.questions.read_text(encoding="utf-8"))
    with args.out.open("w", encoding="utf-8") as file:
        for question, answer, image in rows:
            if args.images is None or image < args.images:
                file.write(json.dumps({"image": f"{image}.png", "question": question, "answer": answer}) + "\n")


if __name__ == "__main__":
    main()
