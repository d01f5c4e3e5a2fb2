"""Messages go through the standard logging: a library user steers them, the commands show them on stderr as plain lines."""

from __future__ import annotations

import logging

import pytest

from levl_eval.core import messages
from levl_eval.core.command import guard
from levl_eval.core.progress import Progress


class Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def kept():
    """A library user's handler on our logger."""
    logger, handler = logging.getLogger("levl_eval"), Kept()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_library_users_handler_receives_them(kept, capsys):
    Progress().say("one of 100 %s {}")
    Progress(quiet=True).say("nobody hears this")
    (one,) = kept.records
    assert one.getMessage() == "one of 100 %s {}" and one.levelno == logging.INFO and one.name == "levl_eval"
    assert capsys.readouterr().err == ""


def test_a_message_bears_the_name_of_its_module(kept, capsys, tmp_path):
    from levl_eval.data.fingerprint_cache import FingerprintCache

    (tmp_path / "fingerprints.sqlite").write_bytes(b"no database at all" * 400)
    FingerprintCache(tmp_path).sha256(__file__)
    assert [r.name for r in kept.records] == ["levl_eval.data.fingerprint_cache"] and "damaged" in kept.records[0].getMessage()
    assert capsys.readouterr().err == ""


def test_nothing_is_shown_where_nobody_asked(capsys):
    Progress().say("to whom")
    assert capsys.readouterr() == ("", "")


def test_the_commands_show_plain_lines_on_stderr(kept, capsys):
    root, logger = Kept(), logging.getLogger("levl_eval")
    logging.getLogger().addHandler(root)
    before = list(logger.handlers), logger.level, logger.propagate
    try:

        def call() -> int:
            Progress().say("drawn \x1b[31m 3")
            Progress(quiet=True).say("not this")
            return guard(lambda: Progress().say("one command within another") or 0, False, "levl-eval")

        assert guard(call, False, "levl-eval") == 0
    finally:
        logging.getLogger().removeHandler(root)
    assert capsys.readouterr() == ("", "drawn \\x1b[31m 3\none command within another\n")
    assert len(kept.records) == 2 and not root.records  # the caller's own handler hears them too; the root's does not repeat them
    assert (list(logger.handlers), logger.level, logger.propagate) == before


def test_progress_of_a_stage_is_steered_apart(kept, monkeypatch):
    from levl_eval.core import progress

    clock = iter(range(0, 1000, 30))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with Progress().stage("features", 4) as bar:
        bar.advance(2)
    assert [r.name for r in kept.records] == ["levl_eval.core.progress"]


def test_other_programs_can_ask_for_them(capsys):
    logger = logging.getLogger("levl_eval")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    logger.propagate = False  # pytest's own handlers stand on the root
    try:
        messages.show_messages()
        messages.show_messages()
        Progress().say("once")
        assert capsys.readouterr().err == "once\n"
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
