"""The live table: what is there and what has begun, read-only, for this machine alone."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time

import pytest

import levl_eval
from levl_eval.cli import main
from levl_eval.core.errors import UsageError
from levl_eval.core.progress import Progress
from levl_eval.report.serve import Live, Server, ago, started


@pytest.fixture
def run(world, tmp_path, monkeypatch):
    monkeypatch.setenv("LEVL_CACHE", str(tmp_path / "cache"))

    def once(*backbones):
        settings = ["knn.k=[5]", "knn.main_metric=top1_k5"]
        return levl_eval.evaluate(
            backbones, ["knn"], data=str(world), out=tmp_path / "run", settings=settings, progress=Progress(quiet=True)
        )

    once("random-nano")
    return once


@pytest.fixture
def server(run, tmp_path):
    with Server(Live([tmp_path / "run"])) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path, method="GET", host=None):
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=20)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer


def test_the_table_follows_the_run(server, run, tmp_path):
    status, text, answer = ask(server, "/")
    assert status == 200 and "1 job done, 0 failed" in text and "random-nano" in text and "levljepa-nano" not in text
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'") and "<script" not in text
    run("random-nano", "levljepa-nano")
    assert "2 jobs done" in ask(server, "/")[1] and "levljepa-nano" in ask(server, "/")[1]
    assert ask(server, "/leaderboard.csv")[1].splitlines()[0].startswith("task,metric")
    assert json.loads(ask(server, "/leaderboard.json")[1])
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    ask(server, "/")
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}, "read-only"


def test_what_has_begun_is_told_with_its_last_sign(server, tmp_path):
    out = tmp_path / "run"
    assert started(out) == []
    (out / ".locks").mkdir(exist_ok=True)
    lock = out / ".locks" / "gqa--<b>--123"
    lock.touch()
    os.utime(lock, (time.time() - 7_300,) * 2)
    text = ask(server, "/")[1]
    assert "gqa--&lt;b&gt;--123" in text and "2 hours ago" in text and "<b>" not in text
    (out / "work" / lock.name).mkdir(parents=True)
    (out / "work" / lock.name / "state").touch()
    assert started(out)[0].quiet < 60


def test_nothing_else_is_given_and_no_other_host_is_served(server):
    for path in ("/../../etc/passwd", "/records", "//etc/passwd", "/%2e%2e/x"):
        assert ask(server, path)[0] == 404
    assert ask(server, "/", host="evil.example")[0] == 403
    assert ask(server, "/", host=f"localhost:{server.server_address[1]}")[0] == 200
    assert ask(server, "/", method="POST")[0] == 501 and ask(server, "/", method="HEAD")[1] == ""


def test_a_damaged_record_is_told_and_the_rest_shown(server, tmp_path):
    (tmp_path / "run" / "records" / "zz.json").write_text("{")
    status, text, _ = ask(server, "/")
    assert status == 200 and "random-nano" in text and "zz.json" in text


@pytest.mark.slow
def test_tables_that_are_read_back_keep_the_order_of_the_run(run, tmp_path, capsys):
    run("siglip-nano", "clip-nano", "random-nano")
    assert Live([tmp_path / "run"]).results().backbones == ["siglip-nano", "clip-nano", "random-nano"]
    run("levljepa-nano", "clip-nano")
    assert Live([tmp_path / "run"]).results().backbones == ["siglip-nano", "clip-nano", "levljepa-nano", "random-nano"]


def test_an_empty_run_is_a_page_too(tmp_path):
    (tmp_path / "new").mkdir()
    assert "No job is done yet" in Live([tmp_path / "new"]).page()


def test_bad_words(tmp_path, capsys):
    assert main(["serve", str(tmp_path / "nowhere")]) == 2 and "no such directory" in capsys.readouterr().err
    assert main(["serve", str(tmp_path), "--port", "70000"]) == 2
    with Server(Live([tmp_path])) as first, pytest.raises(UsageError, match="choose another"):
        Server(Live([tmp_path]), port=first.server_address[1])


@pytest.mark.parametrize(("seconds", "text"), [(3, "3 seconds"), (60, "1 minute"), (7_300, "2 hours"), (200_000, "2 days")])
def test_spans(seconds, text):
    assert ago(seconds) == text
