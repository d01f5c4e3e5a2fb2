"""Values of JSON are narrowed to what they are, or refused in one line that says where."""

from __future__ import annotations

import pytest

from levl_eval.core.json_types import as_list, as_number, as_object, as_text, object_at


def test_what_fits_is_handed_back():
    assert as_object({"a": [1]}, "f") == {"a": [1]}
    assert as_list([1, "x"], "f") == [1, "x"]
    assert as_text("x", "f") == "x"
    assert as_number(3, "f") == 3.0


@pytest.mark.parametrize(
    ("reader", "value", "found"),
    [
        (as_object, [], "a list"), (as_object, {1: 2}, "an object"), (as_list, "x", "text"), (as_text, None, "nothing"),
        (as_text, 3, "a number"), (as_number, True, "true or false"), (as_number, "3", "text"),
    ],
)  # fmt: skip
def test_what_does_not_is_refused_with_its_place(reader, value, found):
    with pytest.raises(ValueError, match=f"^q.json, entry 3: expected .*, found {found}$"):
        reader(value, "q.json, entry 3")


def test_an_object_inside_is_found_or_empty():
    value = {"a": {"b": {"c": 1}}, "d": None, "e": [1]}
    assert object_at(value, "a", "b") == {"c": 1} and object_at(value) == value
    assert object_at(value, "d", "x") == object_at(value, "e") == object_at(value, "a", "b", "c") == object_at(None, "a") == {}
