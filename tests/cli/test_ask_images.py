"""`levl-eval ask` opens its image as data sets do: the same pixels, or the same words and exit code 2."""

from __future__ import annotations

import pytest

from levl_eval.cli import main
from levl_eval.core.errors import LevlError
from levl_eval.core.text import printable
from levl_eval.data.rgb import open_rgb
from levl_eval.engines.vlm import api
from tests.data.odd_files import ODD, make


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("odd")
    make(out, "images")
    return out


class Echo:
    """In place of a saved model: answers with the image it was given."""

    def answers(self, image, questions):
        return [f"{image.size} {image.getpixel((0, 0))}" for _ in questions]


@pytest.mark.parametrize("odd", [o for o in ODD if o.kind == "images"], ids=lambda o: o.key)
def test_ask_opens_images_as_data_sets_do(odd, folder, monkeypatch, capsys):
    monkeypatch.setattr(api, "load", lambda *args, **more: Echo())
    path = odd.path(folder)
    assert main(["ask", "--model", "m", str(path), "What?"]) == (2 if odd.words else 0)
    out, err = capsys.readouterr()
    if not odd.words:
        assert out == "{} {}\n".format(*odd.gives)
        return
    with pytest.raises(LevlError) as e:
        open_rgb(path)
    assert not out and err == f"levl-eval: {printable(str(e.value))}\n"


@pytest.mark.parametrize(("name", "words"), [("", "IMAGE is empty"), ("~nobody-here/a.png", "~nobody-here/a.png: no such image")])
def test_ask_names_what_it_was_given(name, words, capsys):
    assert main(["ask", "--model", "m", name, "What?"]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1
