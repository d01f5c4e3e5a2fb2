"""The lines that matter most, each made wrong in a copy, and the one fast test that must then fail: `python -m tests.mutations`.

Not collected by pytest. Prints a line for each; exits with 1 where one survives, or where a test fails on the unchanged code.
`python -m tests.mutations WORD ...` tries those whose name holds one of the words.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutation:
    """file below levl_eval/; ``old`` stands there once and becomes ``new``; test: a file or node below tests/ that must then fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


def _without(part: str) -> Mutation:
    """A part of the identity that does not count."""
    return Mutation(
        f"identity without {part}", "records/identity.py", '"version": IDENTITY_VERSION}', f'"version": IDENTITY_VERSION, "{part}": None}}',
        f"records/test_identity_parts.py::test_each_part_moves_the_hash[{part}]",
    )  # fmt: skip


_PARTS = "records/test_identity_parts.py"
_RANGES = "metrics/test_ranges.py"
_METRICS = "metrics/test_metrics.py"
_FIELDS = "cards/test_card_fields.py::test_every_field_is_declared_and_says_why_it_is_none_of_the_protocol"
MUTATIONS = (
    *map(_without, (
        "backbone", "task", "versions", "protocol", "data", "seed", "device", "resolved", "precision", "language_model", "limit",
    )),
    Mutation(
        "order of the data ignored", "records/identity.py", "dict(self.order or {})", "{}",
        f"{_PARTS}::test_each_part_of_the_data_moves_the_hash",
    ),
    Mutation(
        "training data ignored", "records/identity.py", '"train": list(self.train)', '"train": []',
        f"{_PARTS}::test_each_part_of_the_data_moves_the_hash",
    ),
    Mutation(
        "keys without their version", "records/identity.py", '"version": version, ', "",
        f"{_PARTS}::test_kind_version_and_every_input_move_a_key",
    ),
    Mutation(
        "samples of any content are whole", "records/check.py", "sha256(path) != record.samples.sha256", "False",
        f"{_PARTS}::test_samples_of_another_content_are_damaged",
    ),
    Mutation(
        "records without floors are whole", "runner/runner.py", "return record if floors <= record.metrics.keys() or",
        "return record if True or", "runner/test_read_back.py::test_a_record_without_its_floors_is_not_whole",
    ),
    Mutation(
        "features of any preprocessing", "features/request.py", "preprocess=self.preprocess.describe(),", "",
        "features/test_features.py::test_another_image_preprocessing_or_weight_is_another_key",
    ),
    Mutation(
        "fields that no layout reads", "cards/base.py", "if unread is not None:", "if False:",
        "data/test_layout_fields.py::test_an_undeclared_field_is_refused[gqa]",
    ),
    Mutation(
        "fields of the other source", "data/sources.py", "if field not in reads and", "if False and",
        "data/test_layout_fields.py::test_a_card_resolved_in_python_and_a_set_read_alone_are_checked",
    ),
    Mutation(
        "a layout that declares more than it reads", "cards/layouts.py", '"mme": Layout(_PLACE,',
        '"mme": Layout((*_PLACE, "images"),', "data/test_layout_fields.py::test_what_is_declared_is_what_is_read_from_files[mme]",
    ),
    Mutation(
        "epochs are no protocol", "cards/probes.py", "epochs: Epochs = protocol(50)",
        'epochs: Epochs = not_protocol("they say nothing", 50)', _FIELDS,
    ),
    Mutation(
        "the prompt is no protocol", "cards/vlm.py", "template: str = protocol(",
        'template: str = not_protocol("it says nothing", ', _FIELDS,
    ),
    Mutation(
        "pairing by image ignored", "records/scores.py", "np.unique(np.array(self.images), return_inverse=True)",
        "np.unique(np.array(self.ids), return_inverse=True)",
        "report/test_pairing.py::test_questions_of_one_image_are_one_observation",
    ),
    Mutation(
        "failed answers are wrong answers", "records/scores.py", "self.ok & ~np.isnan(self.score)", "~np.isnan(self.score)",
        "report/test_pairing.py::test_a_failed_answer_is_left_out_on_both_sides_whatever_its_score",
    ),
    Mutation(
        "lower is better ignored", "report/compare.py", "!= self.kind.lower_is_better", "!= False",
        "report/test_compare.py::test_of_an_error_the_smaller_is_the_better",
    ),
    Mutation(
        "split weights all 1", "report/paired.py", "= len(splits) / (np.count_nonzero(counts) * counts[splits])",
        "= np.ones(len(splits))", f"{_RANGES}::test_splits_weigh_alike_however_many_questions_they_have",
    ),
    Mutation(
        "ANLS without its threshold", "metrics/documents.py", "similarity if similarity >= ANLS_THRESHOLD else 0.0", "similarity",
        "metrics/test_documents.py::test_anls_of_a_set_has_its_own_name_and_several_labels_a_question",
    ),
    Mutation(
        "any change is relaxed", "metrics/documents.py", "/ abs(right) <= RELATIVE_CHANGE", "/ abs(right) <= 1",
        "metrics/test_documents.py::test_relaxed_accuracy_by_hand",
    ),
    Mutation(
        "rows of one image are several images", "data/hub.py", "if spec.layout in UNNAMED_IMAGES:", "if False:",
        "data/test_documents.py::test_the_hubs_table_is_the_same_set[ocrbench]",
    ),
    Mutation(
        "intervals beyond the range", "metrics/statistics.py", "min(max(e, low), high)", "e",
        f"{_RANGES}::test_errors_and_differences_are_cut_at_their_ends_and_say_so",
    ),
    Mutation(
        "clusters ignored", "metrics/statistics.py", "    index, k = _clusters(n, clusters)\n    value = float(scores.mean())",
        "    index, k = _clusters(n, None)\n    value = float(scores.mean())",
        "metrics/test_statistics.py::test_clustered_means_are_covered_also_with_few_images",
    ),
    Mutation(
        "p-values of 0", "metrics/permutation.py",
        'return PValue((1 + reached) / (1 + seen), f"permutation, {draws} draws")\n\n\ndef sign_flip',
        'return PValue(reached / seen, f"permutation, {draws} draws")\n\n\ndef sign_flip',
        "metrics/test_statistics.py::test_no_drawn_permutation_gives_a_p_of_zero",
    ),
    Mutation(
        "mIoU over all classes", "metrics/segmentation.py", "np.mean(inter[union > 0] / union[union > 0])",
        "np.mean(inter / np.maximum(union, 1))", f"{_METRICS}::test_confusion_and_means_against_plain_loops",
    ),
    Mutation(
        "mIoU of counts over all classes", "metrics/segmentation.py", "np.maximum(seen.sum(-1), 1)", "counts.shape[-2]",
        f"{_METRICS}::test_confusion_and_means_against_plain_loops",
    ),
    Mutation(
        "void pixels count", "metrics/segmentation.py", "keep = target != ignore_index", "keep = target >= 0",
        f"{_METRICS}::test_confusion_and_means_against_plain_loops",
    ),
    Mutation(
        "POPE: unparsed is right", "metrics/pope.py", '[pope_answer(a) == "yes" for a in answers]',
        '[(x if is_unparsed(a) else pope_answer(a)) == "yes" for a, x in zip(answers, labels, strict=True)]',
        f"{_METRICS}::test_pope_scores_by_hand",
    ),
    Mutation(
        "GQA: an answer that holds the right one", "metrics/gqa.py", "return gqa_answer(prediction) == gqa_answer(answer)",
        "return gqa_answer(answer) in gqa_answer(prediction)", f"{_METRICS}::test_gqa_is_an_exact_match_but_for_case_and_marks",
    ),
    Mutation(
        "VQA: nobody is left out", "metrics/vqa.py", "(total - e) / enough", "total / enough",
        f"{_METRICS}::test_vqa_accuracy_is_the_leave_one_out_mean",
    ),
    Mutation(
        "in context, all neighbours alike", "engines/incontext/memory.py", "(cosines / self.temperature)", "(cosines * 0)",
        "engines/incontext/test_incontext.py::test_the_published_steps_in_plain_loops[dropped]",
    ),
    Mutation(
        "in context, void is no class", "engines/incontext/task.py", "torch.where(labels < self.classes, labels, self.nothing)",
        "labels.clamp(max=self.classes - 1)",
        "engines/incontext/test_incontext.py::test_the_published_steps_in_plain_loops[class]",
    ),
    Mutation(
        "by text, no threshold for background", "engines/textseg/head.py", "probability < self.threshold", "probability < 0",
        "engines/textseg/test_textseg.py::test_a_rule_by_hand",
    ),
    Mutation(
        "by text, void background is scored", "engines/textseg/task.py", "np.where(labels == left_out, ignore, kept)", "kept",
        "engines/textseg/test_textseg.py::test_void_background_is_no_class_and_its_pixels_are_void",
    ),
    Mutation(
        "values of all tokens", "backbones/values.py", "-torch.inf", "0.0", "backbones/test_values.py::test_of_transformers",
    ),
    Mutation(
        "PCK by the source's box", "engines/correspondence/task.py", "left, top, right, bottom = pair.target_box",
        "left, top, right, bottom = pair.source_box", "engines/correspondence/test_correspondence.py::test_scores_by_hand",
    ),
    Mutation(
        "pairs that share images are independent", "metrics/dyads.py", "max(float((by_image**2).sum()) - alone, alone)", "alone",
        "metrics/test_dyads.py",
    ),
    Mutation(
        "labels travel anywhere", "engines/propagation/labels.py", "    if not radius:", "    if True:",
        "engines/propagation/test_propagation.py::test_propagation_is_dino_s[change1]",
    ),
    Mutation(
        "the last frame is scored", "engines/propagation/task.py", "if k == len(video.frames) - 2:", "if k == len(video.frames):",
        "engines/propagation/test_propagation.py::test_the_engine_on_the_scenes",
    ),
    Mutation(
        "boundaries dilated by a square", "metrics/video.py", "half = math.isqrt(radius * radius - dy * dy)", "half = radius",
        "metrics/test_video.py::test_dilation_is_by_a_disk",
    ),
    Mutation(
        "stop strings ignored", "engines/vlm/engine.py", "    for mark in stop:", "    for mark in ():",
        "engines/vlm/test_engine.py::test_stop_strings_and_end_tokens_end_an_answer",
    ),
    Mutation(
        "seeds ignored", "engines/probes/linear.py",
        "    torch.manual_seed(seed)\n    rows = shuffled_rows(len(x), card.batch_size, torch.Generator().manual_seed(seed))",
        "    torch.manual_seed(0)\n    rows = shuffled_rows(len(x), card.batch_size, torch.Generator().manual_seed(0))",
        "engines/probes/test_seed.py",
    ),
    Mutation(
        "the last of equal epochs", "engines/fit.py", "if value > max(", "if value >= max(",
        "engines/test_fit.py::test_the_best_epoch_is_the_first_of_equals",
    ),
)  # fmt: skip


def copy_of(root: Path, folder: Path) -> None:
    """What tests need of a checkout: code and tests are copied, the rest is linked."""
    for name in ("levl_eval", "tests"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    (folder / "levl_eval" / "assets").symlink_to(root / "levl_eval" / "assets")
    for path in root.iterdir():
        if path.name not in ("levl_eval", "tests") and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)


def passes(folder: Path, tests: Sequence[str]) -> tuple[bool, str]:
    """Whether the tests pass there (exit code 0 of pytest), and the last of what they printed; any error but a failure raises."""
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *(f"tests/{t}" for t in tests)]
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=1800)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0, done.stdout[-1500:]


def main(words: Sequence[str]) -> int:
    chosen = [m for m in MUTATIONS if not words or any(w in m.name for w in words)]
    survived = 0
    with tempfile.TemporaryDirectory(prefix="levl-eval-mutations-") as name:
        folder = Path(name)
        copy_of(ROOT, folder)
        fine, out = passes(folder, sorted({m.test for m in chosen}))
        if not fine:
            print(f"a test fails on the unchanged code\n{out}")
            return 1
        for m in chosen:
            path = folder / "levl_eval" / m.file
            text = path.read_text(encoding="utf-8")
            if text.count(m.old) != 1:
                print(f"{m.name}: {m.file} holds {text.count(m.old)} times what is to be replaced; write the mutation anew")
                survived += 1
                continue
            path.write_text(text.replace(m.old, m.new), encoding="utf-8")
            alive, _ = passes(folder, [m.test])
            path.write_text(text, encoding="utf-8")
            survived += alive
            print(f"{'SURVIVED' if alive else 'killed'}  {m.name}  ({m.file}; tests/{m.test})", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} killed")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
