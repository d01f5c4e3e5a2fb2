"""Fine-grained classification sets as they unpack: Food-101, DTD, CUB-200-2011, GTSRB, Oxford Flowers, Stanford Cars.

Each reader also takes plain class folders ROOT/SPLIT/CLASS/IMAGE, into which many people unpack these sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.files import lines_of
from levl_eval.core.text import plain_digits, printable
from levl_eval.data.classification import class_folders, place
from levl_eval.data.entries import Entry, labelled_set
from levl_eval.data.listing import list_classes, list_images
from levl_eval.data.types import ClassificationSet

Reader = Callable[[DataSpec, Path, int | None], ClassificationSet]


def _or_folders(spec: DataSpec, data: str, limit: int | None, listed: str, read: Reader) -> ClassificationSet:
    """The set by its published lists where ``listed`` is there, else as class folders. Raises UsageError where neither is."""
    root = place(spec, data)
    if (root / listed).exists():
        return read(spec, root, limit)
    folders = class_folders(spec, root, limit)
    if folders is None:
        raise UsageError(
            f"{root / listed}: is missing, and so are class folders {spec.split}/CLASS; unpack the published archive there"
        )
    return folders


def _spoken(classes: Sequence[str]) -> tuple[str, ...]:
    return tuple(c.replace("_", " ").replace("-", " ").strip() for c in classes)


def bird_names(classes: Sequence[str]) -> tuple[str, ...]:
    """CUB-200-2011's classes, such as ``001.Black_footed_Albatross``, in words."""
    return _spoken([c.split(".", 1)[-1] for c in classes])


def _numbered(text: str, path: Path, line: int) -> int:
    """A number from 1. Raises UsageError naming file and line."""
    if not plain_digits(text) or int(text) < 1:
        raise UsageError(
            f"{path}: line {line}: expected a number from 1, found {printable(text)[:60]!r}; take the published file"
        )
    return int(text)


def _of_list(spec: DataSpec, root: Path, name: str, listed: Path, ending: str, limit: int | None) -> ClassificationSet:
    """A list of CLASS/IMAGE over images/."""
    rows = [line.strip() for line in lines_of(listed, "a line CLASS/IMAGE each")]
    odd = next((i for i, r in enumerate(rows, 1) if r.count("/") != 1), None)
    if odd is not None:
        raise UsageError(f"{listed}: line {odd}: expected CLASS/IMAGE; take the published file")
    classes = sorted({r.split("/")[0] for r in rows})
    entries: list[Entry] = [(f"{r}{ending}", root / "images" / f"{r}{ending}", classes.index(r.split("/")[0])) for r in rows]
    dataset = labelled_set(spec, name, entries, classes, limit, listed, f"unpack the images into {root / 'images'}")
    return replace(dataset, names=_spoken(classes))


def read_food101(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """meta/{train,test}.txt (CLASS/ID a line) over images/CLASS/ID.jpg."""
    listed = f"meta/{spec.split}.txt"
    return _or_folders(spec, data, limit, listed, lambda s, root, n: _of_list(s, root, "food101", root / listed, ".jpg", n))


def read_dtd(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """labels/{train,val,test}N.txt (CLASS/IMAGE.jpg a line) of partition N, the first being the usual one, over images/."""
    listed = f"labels/{spec.split}.txt"
    return _or_folders(spec, data, limit, listed, lambda s, root, n: _of_list(s, root, "dtd", root / listed, "", n))


def read_cub(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """CUB_200_2011: images.txt, image_class_labels.txt, train_test_split.txt (1: training), classes.txt."""

    def read(spec: DataSpec, root: Path, limit: int | None) -> ClassificationSet:
        if spec.split not in ("train", "test"):
            raise UsageError(f"field `data.split`: expected train or test, found {spec.split!r}")
        tables = {}
        for name in ("images", "image_class_labels", "train_test_split", "classes"):
            path = root / f"{name}.txt"
            rows = [line.split(None, 1) for line in lines_of(path, "it is part of CUB_200_2011.tgz")]
            odd = next((i for i, r in enumerate(rows, 1) if len(r) != 2 or not plain_digits(r[0])), None)
            if odd is not None:
                raise UsageError(f"{path}: line {odd}: expected `NUMBER VALUE`; take the published file")
            tables[name] = {int(k): v.strip() for k, v in rows}
            if len(tables[name]) < len(rows) or (name != "classes" and tables[name].keys() != tables["images"].keys()):
                raise UsageError(f"{path}: does not number each image of images.txt once; take the published files")
            if name == "train_test_split" and not set(tables[name].values()) <= {"0", "1"}:
                raise UsageError(f"{path}: holds another value than 0 and 1; take the published file")
        classes = [tables["classes"][k] for k in sorted(tables["classes"])]
        wanted, entries = "1" if spec.split == "train" else "0", list[Entry]()
        for k, image in tables["images"].items():
            if tables["train_test_split"].get(k) == wanted:
                label = _numbered(tables["image_class_labels"].get(k, ""), root / "image_class_labels.txt", k)
                if label > len(classes):
                    raise UsageError(
                        f"{root / 'image_class_labels.txt'}: image {k}: class {label} is beyond the {len(classes)} of classes.txt"
                    )
                entries.append((image, root / "images" / image, label - 1))
        dataset = labelled_set(
            spec, "cub", entries, classes, limit, root / "images.txt", f"unpack the images into {root / 'images'}"
        )
        return replace(dataset, names=bird_names(classes))

    return _or_folders(spec, data, limit, "images.txt", read)


def read_gtsrb(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """Training/NNNNN/*.ppm (also GTSRB/Training, GTSRB/Final_Training/Images),
    or the test images with GT-final_test.csv (Filename;...;ClassId)."""

    def read_test(spec: DataSpec, root: Path, limit: int | None) -> ClassificationSet:
        path = root / "GT-final_test.csv"
        rows = [line.split(";") for line in lines_of(path, "it is GTSRB_Final_Test_GT.zip's")]
        head = [c.strip() for c in rows[0]] if rows else []
        if "Filename" not in head or "ClassId" not in head:
            raise UsageError(
                f"{path}: columns Filename and ClassId are expected, separated by semicolons; take the published file"
            )
        name, label = head.index("Filename"), head.index("ClassId")
        places = ("GTSRB/Final_Test/Images", "Final_Test/Images", "GTSRB/Test")
        folder = next((root / d for d in places if (root / d).is_dir()), root / places[0])
        last = max((int(r[label]) for r in rows[1:] if len(r) == len(head) and plain_digits(r[label].strip())), default=0)
        classes = [f"{k:05d}" for k in range(max(43, last + 1))]
        entries: list[Entry] = []
        for k, row in enumerate(rows[1:], 2):
            if len(row) != len(head) or not plain_digits(row[label].strip()):
                raise UsageError(f"{path}: line {k}: has another form than its head; take the published file")
            entries.append((row[name].strip(), folder / row[name].strip(), int(row[label])))
        return labelled_set(spec, "gtsrb", entries, list(classes), limit, path, f"unpack the images into {folder}")

    if spec.split == "test":
        return _or_folders(spec, data, limit, "GT-final_test.csv", read_test)
    root = place(spec, data)
    places = ("GTSRB/Training", "GTSRB/Final_Training/Images", "Final_Training/Images", "Training")
    folder = next((root / d for d in places if (root / d).is_dir()), None)
    if folder is None:
        folders = class_folders(spec, root, limit)
        if folders is None:
            raise UsageError(f"{root / places[0]}: no such folder; unpack GTSRB-Training_fixed.zip there")
        return folders
    classes, left_out = list_classes(folder)
    entries = [(f"{c}/{p.name}", p, k) for k, c in enumerate(classes) for p in list_images(folder / c).files]
    return labelled_set(spec, "gtsrb", entries, list(classes), limit, folder, "unpack the archive again", left_out=left_out)


def _mat(path: Path) -> dict[str, object]:
    """A MATLAB file (version 5). Raises UsageError: it is missing or cannot be read, or SciPy is not installed."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; it is part of the published set")
    try:
        from scipy.io import loadmat
    except ImportError as e:
        raise UsageError(f"{path}: MATLAB files are read by SciPy; install levl-eval[depth], or take --data hub") from e
    try:
        content: dict[str, object] = loadmat(path, squeeze_me=True)
    except Exception as e:  # whatever the library raises of a damaged file
        raise UsageError(f"{path}: cannot be read as a MATLAB file ({type(e).__name__}); download it again") from e
    return content


def _numbers(content: dict[str, object], field: str, path: Path) -> list[int]:
    values = content.get(field)
    try:
        return [int(v) for v in values]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise UsageError(f"{path}: field {field!r} holds no list of numbers; take the published file") from None


def read_flowers(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """Oxford Flowers: setid.mat (trnid, valid, tstid), imagelabels.mat, jpg/image_NNNNN.jpg."""

    def read(spec: DataSpec, root: Path, limit: int | None) -> ClassificationSet:
        fields = {"train": "trnid", "val": "valid", "test": "tstid"}
        if spec.split not in fields:
            raise UsageError(f"field `data.split`: expected {', '.join(fields)}, found {spec.split!r}")
        chosen = _numbers(_mat(root / "setid.mat"), fields[spec.split], root / "setid.mat")
        labels = _numbers(_mat(root / "imagelabels.mat"), "labels", root / "imagelabels.mat")
        classes = [str(k) for k in range(1, max(labels, default=0) + 1)]
        if chosen and max(chosen) > len(labels):
            raise UsageError(f"{root / 'setid.mat'}: names image {max(chosen)} of {len(labels)}; take both files of one release")
        entries: list[Entry] = [(f"image_{i:05d}.jpg", root / "jpg" / f"image_{i:05d}.jpg", labels[i - 1] - 1) for i in chosen]
        return labelled_set(
            spec, "flowers102", entries, classes, limit, root / "setid.mat", f"unpack 102flowers.tgz into {root / 'jpg'}"
        )

    return _or_folders(spec, data, limit, "setid.mat", read)


def read_cars(spec: DataSpec, data: str, limit: int | None = None) -> ClassificationSet:
    """Stanford Cars: devkit/cars_meta.mat, devkit/cars_train_annos.mat or cars_test_annos_withlabels.mat, cars_train/ or cars_test/."""

    def read(spec: DataSpec, root: Path, limit: int | None) -> ClassificationSet:
        if spec.split not in ("train", "test"):
            raise UsageError(f"field `data.split`: expected train or test, found {spec.split!r}")
        name = "cars_train_annos.mat" if spec.split == "train" else "cars_test_annos_withlabels.mat"
        path = next((p for p in (root / "devkit" / name, root / name) if p.is_file()), root / "devkit" / name)
        names = _mat(root / "devkit" / "cars_meta.mat").get("class_names")
        rows = _mat(path).get("annotations")
        folder = root / f"cars_{spec.split}"
        try:
            classes = [str(c) for c in names]  # type: ignore[attr-defined]
            entries: list[Entry] = [(str(r["fname"]), folder / str(r["fname"]), int(r["class"]) - 1) for r in rows]  # type: ignore[attr-defined]
        except (TypeError, ValueError, KeyError, IndexError, LevlError):
            raise UsageError(f"{path}: holds no annotations with fname and class; take the published file") from None
        beyond = next((e[0] for e in entries if not 0 <= e[2] < len(classes)), None)
        if beyond is not None:
            raise UsageError(f"{path}: image {printable(beyond)[:100]} is of a class beyond the {len(classes)} of cars_meta.mat")
        return labelled_set(spec, "stanford-cars", entries, classes, limit, path, f"unpack the images into {folder}")

    return _or_folders(spec, data, limit, "devkit", read)
