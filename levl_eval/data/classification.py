"""Classification sets in their published layouts over image files: label lists, Places365, FGVC-Aircraft, Pets, SUN397, ImageNet.

Every reader also takes plain class folders ROOT/SPLIT/CLASS/IMAGE, into which many people unpack these sets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from levl_eval.cards import DataSpec
from levl_eval.core.errors import UsageError
from levl_eval.core.files import lines_of, names_of
from levl_eval.core.text import class_spelling, plain_digits, printable
from levl_eval.data.entries import labelled_set, spoken_classes
from levl_eval.data.images import SUFFIXES, root_of, under
from levl_eval.data.listing import counted_order, list_classes, list_images
from levl_eval.data.masks import checked_names
from levl_eval.data.places import IMAGENET_FILES, TOPS
from levl_eval.data.tiny_imagenet import tiny_imagenet
from levl_eval.data.types import ClassificationSet


def place(spec: DataSpec, data: str) -> Path:
    """The folder of a set: its root, the published top folder in it, or that folder directly below --data DIR."""
    root, tops = root_of(spec.root, spec.directory, data), TOPS[spec.layout]
    candidates: list[Path] = [*(root / t for t in tops), *(() if spec.root else (Path(data) / t for t in tops)), root]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise UsageError(f"{root}: no such folder; unpack the data set there, or set `root`")


def class_names(spec: DataSpec, data: str) -> list[str] | None:
    """The card's class list, or the lines of the file it names."""
    if not isinstance(spec.classes, str):
        return spec.classes
    path = under(data, spec.classes)
    assert path is not None
    return names_of(path, "a text file with one class a line is expected (field `classes`)")


def _number(text: str, classes: Sequence[str], path: Path, line: int) -> int:
    """A label as its class's number: a number of the list, or a name of it."""
    if text in classes:
        if classes.count(text) > 1:
            raise UsageError(
                f"{path}: line {line}: label {text!r} is the name of {classes.count(text)} classes; use their numbers"
            )
        if text.isascii() and text.isdigit() and int(text) < len(classes) and int(text) != classes.index(text):
            raise UsageError(
                f"{path}: line {line}: label {text} is the name of class {classes.index(text)} and the number of another; "
                "use names that are no numbers"
            )
        return classes.index(text)
    if text.isascii() and text.isdigit() and int(text) < len(classes):
        return int(text)
    if text == str(len(classes)):
        raise UsageError(
            f"{path}: line {line}: label {text} is beyond the {len(classes)} classes 0 to {len(classes) - 1}; do the labels count from 1?"
        )
    raise UsageError(
        f"{path}: line {line}: label {text!r} is none of the {len(classes)} classes (0 to {len(classes) - 1}, or a name)"
    )


def read_labels(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """A label file over a folder of images: lines `IMAGE LABEL`, or a label a line in the order of the sorted file names.

    Labels are numbers from 0 or names of ``classes``. Raises UsageError for a file of the wrong length or a wrong label.
    """
    if spec.images is None or spec.annotations is None:
        raise UsageError("layout labels: fields `images` (a folder) and `annotations` (the label file) must be set")
    folder, path = under(data, spec.images), under(data, spec.annotations)
    assert folder is not None and path is not None
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder (field `images`)")
    rows = [line.rsplit(None, 1) for line in lines_of(path, "lines `IMAGE LABEL` are expected")]
    if not rows:
        raise UsageError(f"{path}: holds no label; lines `IMAGE LABEL` are expected")
    if len({len(r) for r in rows}) > 1:
        odd = next(i for i, r in enumerate(rows, 1) if len(r) != len(rows[0]))
        raise UsageError(
            f"{path}: line {odd} has {len(rows[odd - 1])} columns, the first {len(rows[0])}; use one form throughout"
        )
    if rows and len(rows[0]) == 1:
        files = sorted(p.relative_to(folder).as_posix() for p in list_images(folder, deep=True).files)
        if len(files) != len(rows):
            raise UsageError(f"{path}: {len(rows)} labels for the {len(files)} images of {folder}; a label for each is needed")
        counted_order(files, folder, f"give lines `IMAGE LABEL` in {path.name}, or write the numbers with equally many digits")
        rows = [[f, r[0]] for f, r in zip(files, rows, strict=True)]
    words = list(dict.fromkeys(r[1] for r in rows))
    _sane(path, rows, words)
    if spec.classes is None:
        _alike(path, words)
        numeric = all(w.isascii() and w.isdigit() for w in words)
        strange = next((w for w in words if _number_of_another_form(w)), None)
        if strange is not None or (not numeric and any(w.isascii() and w.isdigit() for w in words)):
            odd_one = strange or next(w for w in words if not w.isdigit())
            raise UsageError(
                f"{path}: label {printable(odd_one)[:60]!r} stands among numbers or is one of another form; "
                "write whole numbers from 0, or set `classes`"
            )
        if numeric and min(map(int, words), default=0) == 1:
            raise UsageError(
                f"{path}: labels run from 1 to {max(map(int, words))}, numbers count from 0; subtract 1, or set `classes` (0 to the last)"
            )
        classes = [str(i) for i in range(1 + max((int(w) for w in words), default=0))] if numeric else sorted(words)
    else:
        classes = list(checked_names(class_names(spec, data) or [], "field `classes`"))
    entries = [(f, folder / f.lstrip("/"), _number(y, classes, path, i)) for i, (f, y) in enumerate(rows, 1)]
    return labelled_set(spec, path.stem, entries, classes, limit, path, f"correct the list, or put the images below {folder}")


def _alike(path: Path, words: list[str]) -> None:
    """Raises UsageError for two labels that would be two classes by the case, or the composition, of their letters alone."""
    spelt: dict[str, str] = {}
    for word in words:
        known = spelt.setdefault(class_spelling(word), word)
        if known != word:
            raise UsageError(
                f"{path}: labels {printable(known)[:60]!r} and {printable(word)[:60]!r} differ in the case or form "
                "of their letters alone: write one of them throughout, or list both in `classes` if they are two classes"
            )


def _number_of_another_form(text: str) -> bool:
    """Whether a label is a number, but not one of plain digits: 1.0, +1, 0x1, nan, digits of other alphabets."""
    if text.isascii() and text.isdigit():
        return False
    try:
        float(text)
    except ValueError:
        return re.fullmatch(r"0[xXbBoO][0-9a-fA-F]+", text) is not None
    return True


def _pairs(rows: list[list[str]], path: Path, form: str) -> list[tuple[str, str]]:
    """Lines of two columns. Raises UsageError naming the first of another number."""
    out = []
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise UsageError(f"{path}: line {number}: expected `{form}`; take the file of the published archive")
        out.append((row[0], row[1]))
    return out


def _sane(path: Path, rows: list[list[str]], words: list[str]) -> None:
    """Raises UsageError for columns in another order or form, and for labels that are missing or no classes."""
    for number, (name, label) in enumerate(rows, 1):
        if label.lower().endswith(SUFFIXES):
            hint = (
                f"`{name} {label}`: expected IMAGE LABEL in this order"
                if not name.lower().endswith(SUFFIXES)
                else "holds no label"
            )
            raise UsageError(f"{path}: line {number}: {hint}; correct the list")
        sign = next((s for s in ",;|" if s in label and label.split(s)[0].strip("\"' ").lower().endswith(SUFFIXES)), None)
        if sign is not None:
            raise UsageError(f"{path}: line {number}: {label!r}: image and label are separated by a space; replace each {sign!r}")
    negative = [w for w in words if w.startswith("-") and w[1:].isdigit()]
    if negative:
        raise UsageError(
            f"{path}: label {negative[0]} stands for no class (a missing label?); take a split whose labels are public"
        )
    huge = [w for w in words if w.isascii() and w.isdigit() and (len(w) > 7 or int(w) > 1_000_000)]
    if huge:
        raise UsageError(f"{path}: label {huge[0][:20]} is no number of a class; numbers count from 0")


def class_folders(spec: DataSpec, root: Path, limit: int | None) -> ClassificationSet | None:
    """ROOT/SPLIT/CLASS/IMAGE where there is such a folder."""
    from levl_eval.data.imagefolder import read_imagefolder

    folder = root / spec.split
    if not folder.is_dir() or not list_classes(folder)[0]:
        return None
    return read_imagefolder(spec.model_copy(update={"root": str(root)}), "", limit)


def _beside(root: Path, *names: str) -> Path | None:
    """The first of the files in a folder or the three above it."""
    folders = (root, *list(root.parents)[:3])
    return next((f / n for n in names for f in folders if (f / n).is_file()), None)


def _kaggle_val(spec: DataSpec, root: Path, limit: int | None, spoken: dict[str, str]) -> ClassificationSet | None:
    """Kaggle's flat validation folder with LOC_val_solution.csv (`ImageId,WNID x y x y ...`)."""
    listed = _beside(root, IMAGENET_FILES[2])
    if spec.split != "val" or listed is None:
        return None
    lines = lines_of(listed, "")
    if not lines or lines[0].split(",")[0].strip() != "ImageId":
        raise UsageError(f"{listed}: line 1: expected the head `ImageId,PredictionString`; take the published file")
    rows = [line.replace(",", " ").split()[:2] for line in lines[1:]]
    classes = sorted(spoken) or sorted({r[1] for r in rows if len(r) == 2})
    entries = [(f"{r[0]}.JPEG", root / "val" / f"{r[0]}.JPEG", _number(r[-1], classes, listed, i)) for i, r in enumerate(rows, 2)]
    entries.sort(key=lambda e: e[0])
    return labelled_set(spec, "imagenet", entries, classes, limit, listed, f"unpack the validation images into {root / 'val'}")


def read_imagenet(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """Class folders named by WordNet id, or Kaggle's flat val with LOC_val_solution.csv.

    Names for prompts come from LOC_synset_mapping.txt or synset_words.txt, where one lies beside them.
    """
    root = place(spec, data)
    listed = _beside(root, *IMAGENET_FILES[:2])
    spoken = dict(line.split(None, 1) for line in lines_of(listed, "") if " " in line) if listed else {}
    dataset = class_folders(spec, root, limit) or _kaggle_val(spec, root, limit, spoken)
    if dataset is None:
        raise UsageError(
            f"{root / spec.split}: holds no class folders; expected {spec.split}/n01440764/*.JPEG (sort the validation images into theirs)"
        )
    names = spoken_classes(dataset.classes, spoken, listed) or dataset.names
    return ClassificationSet("imagenet", spec.split, dataset.images, dataset.labels, dataset.classes, dataset.fingerprint, names)


def read_tiny_imagenet(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """Tiny-ImageNet as published (:func:`tiny_imagenet`), or class folders SPLIT/CLASS. Raises UsageError."""
    root = place(spec, data)
    dataset = tiny_imagenet(spec, root, limit) or class_folders(spec, root, limit)
    if dataset is None:
        raise UsageError(
            f"{root}: holds neither wnids.txt nor class folders {spec.split}/CLASS; unpack tiny-imagenet-200.zip there"
        )
    return dataset


def read_places365(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """places365_{train_standard,val}.txt with categories_places365.txt over their image folders, or class folders (easyformat)."""
    root = place(spec, data)
    lists = {"train": ("places365_train_standard.txt", "places365_train_challenge.txt"), "val": ("places365_val.txt",)}
    listed = next((p for n in lists.get(spec.split, ()) for p in (root / n, root / "filelist" / n) if p.is_file()), None)
    if listed is None:
        dataset = class_folders(spec, root, limit)
        if dataset is None:
            expected = " or ".join(lists.get(spec.split, (spec.split,)))
            raise UsageError(
                f"{root}: holds neither {expected} nor class folders {spec.split}/CLASS; unpack Places365-Standard there"
            )
        return dataset
    categories = listed.parent / "categories_places365.txt"
    pairs = [line.rsplit(None, 1) for line in lines_of(categories, "it lies beside the lists in the published archive")]
    odd = next((i for i, r in enumerate(pairs, 1) if len(r) != 2 or not plain_digits(r[1])), None)
    if odd:
        raise UsageError(f"{categories}: line {odd}: expected `/LETTER/CATEGORY NUMBER`; take the file of the published archive")
    if sorted(int(number) for _, number in pairs) != list(range(len(pairs))):
        raise UsageError(
            f"{categories}: its numbers are not 0 to {len(pairs) - 1}, each once; take the file of the published archive"
        )
    classes = [name.strip("/").split("/", 1)[-1] for name, _ in sorted(pairs, key=lambda r: int(r[1]))]
    folders = (
        ("data_256_standard", "data_256", "data_large_standard", "data_large")
        if spec.split == "train"
        else ("val_256", "val_large")
    )
    if spec.images:
        base = under(data, spec.images) or root
    else:
        base = next((root / f for f in folders if (root / f).is_dir()), root / folders[0])
    rows = _pairs([line.rsplit(None, 1) for line in lines_of(listed, "")], listed, "IMAGE NUMBER")
    entries = [(f.lstrip("/"), base / f.lstrip("/"), _number(y, classes, listed, i)) for i, (f, y) in enumerate(rows, 1)]
    names = [c.replace("/", " ").replace("_", " ") for c in classes]
    where = f"unpack the images into {base}, or set `images`"
    return replace(labelled_set(spec, "places365", entries, classes, limit, listed, where), names=tuple(names))


def read_aircraft(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """data/images_{variant,family,manufacturer}_{train,val,trainval,test}.txt over data/images."""
    root = place(spec, data)
    level = spec.level or "variant"
    many = {"variant": "variants", "family": "families", "manufacturer": "manufacturers"}
    if level not in many:
        raise UsageError(f"aircraft: field `level`: expected {', '.join(many)}, found {level!r}")
    path = root / f"images_{level}_{spec.split}.txt"
    folders = None if path.is_file() else class_folders(spec, root, limit)
    if folders is not None:
        return folders
    lines = [line.split(None, 1) for line in lines_of(path, "unpack fgvc-aircraft-2013b there")]
    rows = _pairs(lines, path, "IMAGE CLASS")
    listed = root / f"{many[level]}.txt"
    classes = names_of(listed, "") if listed.is_file() else sorted({y for _, y in rows})
    entries = [(f"{f}.jpg", root / "images" / f"{f}.jpg", _number(y, classes, path, i)) for i, (f, y) in enumerate(rows, 1)]
    return labelled_set(spec, f"aircraft-{level}", entries, classes, limit, path, f"unpack the images into {root / 'images'}")


def read_pets(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """annotations/{trainval,test}.txt (`IMAGE CLASS-ID SPECIES BREED-ID`) over images/; classes from the file names."""
    root = place(spec, data)
    path = root / "annotations" / f"{spec.split}.txt"
    folders = None if path.is_file() else class_folders(spec, root, limit)
    if folders is not None:
        return folders
    names: dict[int, str] = {}
    rows = []
    for number, line in enumerate(lines_of(path, "unpack annotations.tar.gz there"), 1):
        word = line.split()
        if line.startswith("#"):
            continue
        if len(word) < 2 or not plain_digits(word[1]):
            raise UsageError(f"{path}: line {number}: expected `IMAGE CLASS-ID SPECIES BREED-ID`, found {line!r}")
        breed = word[0].rsplit("_", 1)[0]
        if names.setdefault(int(word[1]), breed) != breed:
            raise UsageError(
                f"{path}: line {number}: class {word[1]} is {printable(breed)[:60]} here "
                f"and {printable(names[int(word[1])])[:60]} in an earlier line; take the published file"
            )
        rows.append((word[0], int(word[1])))
    order = sorted(names)
    entries = [(f"{f}.jpg", root / "images" / f"{f}.jpg", order.index(k)) for f, k in rows]
    classes = [names[k] for k in order]
    return labelled_set(spec, "pets", entries, classes, limit, path, f"unpack images.tar.gz into {root / 'images'}")


def read_sun397(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """ClassName.txt and Partitions/{Training,Testing}_NN.txt (lines /a/abbey/sun_x.jpg) over the images."""
    root = place(spec, data)
    path = next((p / f"{spec.split}.txt" for p in (root / "Partitions", root) if (p / f"{spec.split}.txt").is_file()), None)
    if path is None:
        short = spec.model_copy(update={"split": "train" if spec.split.startswith("Training") else "test"})
        folders = class_folders(spec, root, limit) or class_folders(short, root, limit)
        if folders is None:
            raise UsageError(f"{root}: Partitions/{spec.split}.txt is missing; unpack Partitions.zip there")
        return folders
    listed = next((p for p in (path.parent / "ClassName.txt", root / "ClassName.txt") if p.is_file()), None)
    files = [line.lstrip("/") for line in lines_of(path, "")]
    kinds = [c.strip("/") for c in lines_of(listed, "")] if listed else sorted({str(PurePosixPath(f).parent) for f in files})
    entries = []
    for i, f in enumerate(files, 1):
        kind = str(PurePosixPath(f).parent)
        if kind not in kinds:
            raise UsageError(f"{path}: line {i}: {kind!r} is none of the {len(kinds)} classes of {listed or path}")
        entries.append((f, root / f, kinds.index(kind)))
    classes = [k.split("/", 1)[-1] for k in kinds]  # without the alphabet's folder
    names = [c.replace("/", " ").replace("_", " ") for c in classes]
    where = f"unpack SUN397.tar.gz, so that the images lie below {root}"
    return replace(labelled_set(spec, "sun397", entries, classes, limit, path, where), names=tuple(names))
