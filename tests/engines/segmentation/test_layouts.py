"""COCO-Stuff, VOC and Cityscapes folders as they are published; label conventions; missing parts told in one line."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from levl_eval.cards import DataSpec
from levl_eval.core.errors import LevlError, UsageError
from levl_eval.data.check import check
from levl_eval.data.coco_stuff import COARSE, coarse_of, fine_classes
from levl_eval.data.published import images_as_published
from levl_eval.data.readers import read_segmentation
from levl_eval.engines.segmentation.palettes import palette


def put(path, array, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(array))
    if palette:
        image = image.convert("P")
        image.putdata(np.asarray(array).flatten().tolist())
    image.save(path)


PHOTO = np.zeros((2, 3, 3), np.uint8)


def test_coco_stuff_labels_are_those_of_the_toolboxes():
    from levl_eval.core.third_party import repair_mmseg

    repair_mmseg()
    import mmseg.datasets.coco_stuff as reference

    fine = fine_classes()
    assert len(fine) == 171 and len(COARSE) == 27 and {coarse_of(i) for i in fine} == set(range(27))
    assert tuple(fine.values()) == tuple(reference.COCOStuffDataset.METAINFO["classes"])
    # and ADE20K's colours are the toolbox's
    import mmseg.datasets.ade as ade

    assert palette("ade20k", 150).tolist() == ade.ADE20KDataset.METAINFO["palette"]


# The coarse class of labels 0..181 as STEGO evaluates them (github.com/mhamilton723/STEGO, src/data.py, after PiCIE), a letter each.
STEGO = (
    "jlllllllliiiiiihhhhhhhhhhggggggggkkkkkkkkkkffffffffccccccccccddddddddddaaaaaabbbbbbeeeeeeeerrwuuwpzqnmmrrxpprpvpznnnnnw"
    "AoopwvvyuwprqpwyvrzqvrwqvvzvAvyurovApxuvypywzpurrwosssssssAAtty"
)


def test_the_27_coarse_classes_are_those_others_report_on():
    pairs = {(coarse_of(i), STEGO[i - 1]) for i in fine_classes()}
    assert len(STEGO) == 182 and len(pairs) == 27  # the same groups, id by id, whatever their order
    assert len({ours for ours, _ in pairs}) == len({theirs for _, theirs in pairs}) == 27


def test_coco_stuff_fine_and_coarse(tmp_path):
    put(tmp_path / "coco_stuff/images/val2017/1.jpg", PHOTO)
    put(tmp_path / "coco_stuff/stuffthingmaps/val2017/1.png", np.array([[0, 255, 255], [181, 105, 12]], np.uint8))
    spec = {"directory": "coco_stuff", "split": "val2017"}
    fine = read_segmentation(DataSpec(layout="coco-stuff", **spec), str(tmp_path))
    # id 1 person is 0; id 182 wood is the last; id 106 clouds; id 13 stop sign follows 11 fire hydrant
    assert fine.mask("1.jpg").tolist() == [[0, 255, 255], [170, 94, 11]] and fine.classes[94] == "clouds"
    coarse = read_segmentation(DataSpec(layout="coco-stuff-27", **spec), str(tmp_path))
    names = [[coarse.classes[v] if v != 255 else "" for v in row] for row in coarse.mask("1.jpg")]
    assert names == [["person", "", ""], ["solid", "sky", "outdoor"]]
    for file in (tmp_path / "coco_stuff/stuffthingmaps/val2017").iterdir():
        file.unlink()
    put(tmp_path / "coco_stuff/stuffthingmaps/val2017/1_labelTrainIds.png", np.array([[0, 11, 255], [170, 94, 1]], np.uint8))
    assert read_segmentation(DataSpec(layout="coco-stuff", **spec), str(tmp_path)).mask("1.jpg")[0, 1] == 11
    put(tmp_path / "coco_stuff/stuffthingmaps/val2017/2_labelTrainIds.png", np.zeros((2, 3), np.uint8))
    with pytest.raises(UsageError, match="1 masks have no image, first 2"):
        read_segmentation(DataSpec(layout="coco-stuff", **spec), str(tmp_path))


def test_voc_palette_masks_and_list(tmp_path):
    base = tmp_path / "voc/VOCdevkit/VOC2012"
    put(base / "JPEGImages/a.jpg", PHOTO)
    put(base / "SegmentationClass/a.png", np.array([[0, 20, 255], [1, 2, 3]], np.uint8), palette=True)
    spec = DataSpec(layout="voc", directory="voc", split="val")
    with pytest.raises(UsageError, match=r"val\.txt: no such list"):
        read_segmentation(spec, str(tmp_path))
    (base / "ImageSets/Segmentation").mkdir(parents=True)
    (base / "ImageSets/Segmentation/val.txt").write_text("a\n")
    found = read_segmentation(spec, str(tmp_path))
    assert found.mask("a.jpg").tolist() == [[0, 20, 255], [1, 2, 3]] and found.classes[20] == "tvmonitor"
    (base / "ImageSets/Segmentation/val.txt").write_text("a\nb\n")
    with pytest.raises(UsageError, match=r"1 of 2 masks are missing, first .*b\.png"):
        read_segmentation(spec, str(tmp_path))


def test_voc_with_the_masks_of_hariharan_et_al(tmp_path):
    base = tmp_path / "voc/VOCdevkit/VOC2012"
    for name in ("a", "b"):
        put(base / f"JPEGImages/{name}.jpg", PHOTO)
        put(base / f"SegmentationClassAug/{name}.png", np.array([[0, 20, 255], [1, 2, 3]], np.uint8))
    put(base / "SegmentationClass/a.png", np.zeros((2, 3), np.uint8), palette=True)
    (base / "ImageSets/Segmentation").mkdir(parents=True)
    (base / "ImageSets/Segmentation/trainaug.txt").write_text("b\na\n")
    read = read_segmentation(DataSpec(layout="voc", directory="voc", split="trainaug"), str(tmp_path))
    assert read.images.ids == ("b.jpg", "a.jpg") and read.mask("a.jpg").tolist() == [[0, 20, 255], [1, 2, 3]]
    assert [(f.set, f.message) for f in check(tmp_path)] == [("voc/trainaug", "2 pairs, 5 of 21 classes occur")]
    (base / "SegmentationClassAug/b.png").unlink()
    assert "1 of 2 masks are missing" in check(tmp_path)[0].message
    with pytest.raises(UsageError, match=r"SegmentationClassAug: 1 of 2 masks are missing, first .*b\.png"):
        read_segmentation(DataSpec(layout="voc", directory="voc", split="trainaug"), str(tmp_path))


def test_pascal_context_with_and_without_background(tmp_path):
    from levl_eval.core.third_party import repair_mmseg

    repair_mmseg()
    import mmseg.datasets.pascal_context as reference

    base = tmp_path / "pascal_context/VOCdevkit/VOC2010"
    put(base / "JPEGImages/a.jpg", PHOTO)
    put(base / "SegmentationClassContext/a.png", np.array([[0, 59, 255], [1, 2, 3]], np.uint8))
    whole, part = (DataSpec(layout=n, directory="pascal_context", split="val") for n in ("pascal-context", "pascal-context-59"))
    with pytest.raises(UsageError, match=r"val\.txt: no such list; unpack VOC2010's trainval"):
        read_segmentation(whole, str(tmp_path))
    (base / "ImageSets/SegmentationContext").mkdir(parents=True)
    (base / "ImageSets/SegmentationContext/val.txt").write_text("a\n")
    sixty, rest = read_segmentation(whole, str(tmp_path)), read_segmentation(part, str(tmp_path))
    assert sixty.classes == tuple(reference.PascalContextDataset.METAINFO["classes"])
    assert rest.classes == tuple(reference.PascalContextDataset59.METAINFO["classes"])
    assert sixty.mask("a.jpg").tolist() == [[0, 59, 255], [1, 2, 3]] and rest.mask("a.jpg").tolist() == [
        [255, 58, 255],
        [0, 1, 2],
    ]
    assert [(f.level, f.set, f.message) for f in check(tmp_path)] == [
        ("ok", "pascal_context/val", "1 pairs, 5 of 60 classes occur")
    ]
    assert images_as_published("pascal-context-59", "val", "", "test") == 5_105
    put(base / "SegmentationClassContext/a.png", np.array([[0, 60, 255], [1, 2, 3]], np.uint8))
    for spec in (whole, part):
        with pytest.raises(LevlError, match=r"a\.png: label 60"):
            read_segmentation(spec, str(tmp_path)).mask("a.jpg")


def test_cityscapes_ids(tmp_path):
    root = tmp_path / "cityscapes"
    put(root / "leftImg8bit/val/ulm/x_leftImg8bit.png", PHOTO)
    put(root / "gtFine/val/ulm/x_gtFine_labelIds.png", np.array([[7, 0, 33], [26, 255, 11]], np.uint8))
    spec = DataSpec(layout="cityscapes", directory="cityscapes", split="val")
    found = read_segmentation(spec, str(tmp_path))
    assert found.mask("ulm/x_leftImg8bit.png").tolist() == [[0, 255, 18], [13, 255, 2]] and len(found.classes) == 19
    (root / "gtFine/val/ulm/x_gtFine_labelIds.png").rename(root / "gtFine/val/ulm/x_gtFine_labelTrainIds.png")
    assert read_segmentation(spec, str(tmp_path)).mask("ulm/x_leftImg8bit.png")[0, 0] == 7
    with pytest.raises(UsageError, match="no such folder; get leftImg8bit"):
        read_segmentation(spec, str(tmp_path / "nowhere"))


def test_the_devkit_sample_through_the_real_reader(shared, tmp_path):
    sample = shared / "ade20k_sample"
    for kind in ("images", "annotations"):
        (tmp_path / "ade20k" / kind).mkdir(parents=True)
        (tmp_path / "ade20k" / kind / "validation").symlink_to(sample / "sampleData" / kind)
    (tmp_path / "ade20k/objectInfo150.txt").symlink_to(sample / "objectInfo150.txt")
    spec = DataSpec(layout="ade20k", directory="ade20k", split="validation", reduce_zero_label=True)
    found = read_segmentation(spec, str(tmp_path))
    assert len(found.images) == 3 and len(found.classes) == 150 and found.classes[0].startswith("wall")
    for name in found.images.ids:
        mask, image = found.mask(name), found.images.open(name)
        assert mask.shape == (image.height, image.width) and mask[mask != 255].max() < 150 and (mask == 255).any()
    put(tmp_path / "masks/a.png", np.full((2, 3), 151, np.uint8))
    put(tmp_path / "photos/a.png", PHOTO)
    moved = spec.model_copy(update={"annotations": str(tmp_path / "masks"), "images": str(tmp_path / "photos")})
    with pytest.raises(LevlError, match=r"a\.png: label 151 is beyond the 150 classes"):
        read_segmentation(moved, str(tmp_path)).mask("a.png")
