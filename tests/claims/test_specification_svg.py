"""The chart of a specification curve: well-formed, escaped, with a column a specification and a row of dots a varied choice."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from levl_eval.report.specification import Specification, specification_curve_svg


def rows(count: int) -> list[Specification]:
    return [
        Specification(
            k / 2 - 3, k / 2 - 4, k / 2 - 2, "supported" if k > 8 else "undecided" if k > 3 else "contradicted",
            (("task", "gqa"), ("<lr> & \"rate\"", str(k % 3)), ("depth", "1" if k % 2 else "2")),
        )
        for k in range(count)
    ]  # fmt: skip


def test_a_curve():
    text = specification_curve_svg(rows(12), 'of "a" & <b>', (0.0, 1.0))
    root = ET.fromstring(text)
    circles = [e for e in root.iter() if e.tag == "circle"]
    assert sum(c.get("class") == "c5" for c in circles) == 24  # two choices vary; the task does not and has no rows
    assert [sum(c.get("class") == k for c in circles) for k in ("c0", "c1", "c2")] == [3, 4, 5]
    points = [(float(c.get("cx")), float(c.get("cy"))) for c in circles if c.get("class") != "c5"]
    assert points == sorted(points) and [y for _, y in points] == sorted((y for _, y in points), reverse=True)
    width, height = map(float, root.get("viewBox").split()[2:])
    assert all(0 <= float(c.get("cx")) <= width and 0 <= float(c.get("cy")) <= height for c in circles)
    assert "<lr>" not in text and root.get("aria-label") == 'of "a" & <b>'
    assert specification_curve_svg([], "none") == ""


def test_many_specifications_stay_narrow_and_one_is_drawn():
    assert float(ET.fromstring(specification_curve_svg(rows(400), "many")).get("viewBox").split()[2]) < 1_500
    assert ET.fromstring(specification_curve_svg(rows(1), "one")) is not None
