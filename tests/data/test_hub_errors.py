"""What the hub refuses is told apart, with the remedy; one organisation under two names is found in a cache filled under either."""

from __future__ import annotations

import datasets
import pytest
from huggingface_hub import constants, errors

from levl_eval.cards import DataSpec, HubSource
from levl_eval.cards.registry import recipe_card, task_card
from levl_eval.core.errors import UsageError
from levl_eval.core.hub import hub
from levl_eval.data import hub_tables
from levl_eval.data.hub_tables import names_of
from levl_eval.data.readers import read_questions
from tests.data import small_sets as small


class Response:
    """As much of an HTTP response as errors look at."""

    headers: dict[str, str] = {}  # noqa: RUF012
    request = None

    def __init__(self, status: int) -> None:
        self.status_code = status


def http(kind: type[Exception], status: int, words: str) -> Exception:
    made = kind.__new__(kind)
    Exception.__init__(made, words)
    made.response = Response(status)  # type: ignore[attr-defined]
    return made


def caused(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


GATED = http(errors.GatedRepoError, 403, "403 Client Error. Cannot access gated repo")
CASES = {
    "gated": (GATED, "is gated: accept its terms"),
    "gated, wrapped": (caused(datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub."), GATED), "is gated"),
    "missing": (http(errors.RepositoryNotFoundError, 404, "404 Client Error. Repository Not Found"), "no such repository on the hub"),
    "missing, wrapped": (
        datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed."),
        "no such repository",
    ),
    "limited": (http(errors.HfHubHTTPError, 429, "429 Client Error: Too Many Requests"), "limits requests .429.: wait"),
    "refused": (http(errors.HfHubHTTPError, 401, "401 Client Error: Unauthorized"), "refuses access .401.: log in"),
    "down": (http(errors.HfHubHTTPError, 503, "503 Server Error"), "the hub fails .503.: try again"),
    "no configuration": (ValueError("BuilderConfig 'x' not found. Available: ['y']"),
                         "has no such configuration.*Available.*`hub.questions`"),
    "no split": (ValueError('Unknown split "train". Should be one of [\'test\'].'), "has no such split.*`hub.split`"),
    "no revision": (http(errors.RevisionNotFoundError, 404, "404 Client Error"), "has no such revision"),
    "offline": (errors.OfflineModeIsEnabled("Cannot reach https://huggingface.co: offline mode is enabled."),
                "hub cannot be reached and its cache"),
    "not cached": (ConnectionError("Couldn't reach 'a/b' on the Hub (LocalEntryNotFoundError)"), "hub cannot be reached"),
    "other": (RuntimeError("one\n\x1b[31mtwo"), "cannot be loaded .RuntimeError: one"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_failures_are_told_apart(name):
    error, words = CASES[name]
    with pytest.raises(UsageError, match=f"data: a/b: .*{words}") as e, hub("data: a/b"):
        raise error
    assert str(e.value).isprintable()


def test_the_new_organisations_name_comes_first_and_a_cached_one_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    both = ["lmms-lab-encoder/POPE", "lmms-lab/POPE"]
    assert names_of("lmms-lab/POPE") == names_of("lmms-lab-encoder/POPE") == both and names_of("a/b") == ["a/b"]
    repo = small.pope_repository(tmp_path / "POPE")
    datasets.load_dataset(str(repo), cache_dir=str(tmp_path / "cache"))
    (made,) = (p for p in (tmp_path / "cache").iterdir() if p.is_dir())
    for filled, asked in (("lmms-lab-encoder", "lmms-lab"), ("lmms-lab", "lmms-lab-encoder")):
        made = made.rename(tmp_path / "cache" / f"{filled}___pope")
        assert names_of("lmms-lab/POPE")[0] == f"{filled}/POPE"
        for name in (asked, filled):
            spec = DataSpec(layout="pope", hub=HubSource(repo=f"{name}/POPE", split="test"))
            assert len(read_questions(spec, "hub").questions) == 6 * small.N, (filled, name)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (GATED, CASES["missing"][0], "lmms-lab-encoder/POPE: is gated"),
        (CASES["missing"][0], GATED, "lmms-lab/POPE: is gated"),
        (CASES["offline"][0], CASES["not cached"][0], "lmms-lab-encoder/POPE or lmms-lab/POPE: the hub cannot be reached"),
        (CASES["missing"][0], CASES["limited"][0], "lmms-lab/POPE: the hub limits requests"),
    ],
)  # fmt: skip
def test_of_two_names_the_one_that_matters_is_told(first, second, words, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    answers = iter((first, second))

    def refuse(*a, **k):
        raise next(answers)

    monkeypatch.setattr(hub_tables, "table_of_repository", refuse)
    with pytest.raises(UsageError, match=words):
        read_questions(task_card("pope").data, "hub")


def test_a_hub_cache_without_a_network_is_told_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        UsageError, match="VQAv2-FewShot.*cannot be reached and its cache holds no copy; give a local directory, or fill"
    ):
        read_questions(recipe_card("vqa-train").data[1], "hub")
