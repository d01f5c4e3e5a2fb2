"""`levl-eval serve DIR...`: the live table of runs, read-only, on this machine.

Every page is made from the records as they are when it is asked for, and again only where they have changed. Nothing is written,
no path of a request becomes a path of the disk, and requests under another host's name are refused, so that no page of the web
can read the table through the reader's own browser.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from urllib.parse import urlsplit

from levl_eval.core.errors import LevlError, UsageError
from levl_eval.core.text import json_text
from levl_eval.records.record import record_files
from levl_eval.report.reading import read_directories
from levl_eval.report.results import Results
from levl_eval.report.tables import all_notes, rows, to_csv
from levl_eval.report.templating import own_file, render
from levl_eval.report.wide import as_json, tables

REFRESH = 10  # seconds after which a page loads itself again
STYLE = Path(__file__).resolve().parent / "report.css"
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Started:
    """A job that has begun and has no result yet. quiet: seconds since its last sign (its lock, or what it keeps to resume from)."""

    name: str
    quiet: float


def started(folder: Path, now: float | None = None) -> list[Started]:
    """The jobs of a run directory that were begun and have no record, those with the latest sign first."""
    at, out = time.time() if now is None else now, []
    for lock in (folder / ".locks").glob("*"):
        if (folder / "records" / f"{lock.name}.json").exists():
            continue
        signs = [lock, *(folder / "work" / lock.name).rglob("*")]
        times = []
        for sign in signs:
            try:
                times.append(sign.stat().st_mtime)
            except OSError:  # gone meanwhile
                continue
        if times:
            out.append(Started(lock.name, max(0.0, at - max(times))))
    return sorted(out, key=lambda s: s.quiet)


class Live:
    """Tables of run directories, made again where a record has changed. reference: as in ``leaderboard``."""

    def __init__(self, folders: Sequence[Path], reference: str | None = None) -> None:
        missing = [f for f in folders if not f.is_dir()]
        if missing:
            raise UsageError(f"{missing[0]}: no such directory; give the --out of a run")
        self.folders, self.reference = list(folders), reference
        self._lock = Lock()  # requests come in threads; tables keep what they have computed
        self._seen: list[tuple[str, int, int]] | None = None
        self._results: Results | None = None

    def _stats(self) -> list[tuple[str, int, int]]:
        out = []
        for folder in self.folders:
            for path in record_files(folder):
                try:
                    s = path.stat()
                except OSError:  # replaced at this moment
                    continue
                out.append((str(path), s.st_size, s.st_mtime_ns))
        return out

    def results(self) -> Results:
        """The records as they are now."""
        stats = self._stats()
        if self._results is None or stats != self._seen:
            read = read_directories(self.folders, empty=True)
            self._results, self._seen = Results(read.records, reference=self.reference, damaged=read.damaged), stats
        return self._results

    def page(self) -> str:
        """HTML of the table, what has failed, and what has begun."""
        with self._lock:
            return self._page()

    def csv(self) -> str:
        """The long table."""
        with self._lock:
            return to_csv(rows(self.results()))

    def json(self) -> str:
        """The wide table."""
        with self._lock:
            return json_text(as_json(self.results())) + "\n"

    def _page(self) -> str:
        results = self.results()
        begun = [(str(f), [(s.name, ago(s.quiet)) for s in started(f)]) for f in self.folders]
        done = sum(r.status == "done" for r in results.records)
        return str(
            render(
                "serve.html.j2", style=own_file(STYLE), refresh=REFRESH, folders=[str(f) for f in self.folders], done=done,
                failed=len(results.records) - done, tables=tables(results) if results.records else [],
                notes=all_notes(results) if results.records else [], begun=begun, now=time.strftime("%H:%M:%S"),
            )
        )  # fmt: skip


def ago(seconds: float) -> str:
    """A span for people."""
    for size, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            n = int(seconds // size)
            return f"{n} {name}{'s' if n > 1 else ''}"
    return f"{int(seconds)} seconds"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        named = self.headers.get("Host") or ""
        host = named if named.endswith("]") else named.rpartition(":")[0] or named  # an IPv6 address contains colons
        if self.server.local and host not in _LOCAL:
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", "This table is shown to localhost alone.\n")
            return
        try:
            page = urlsplit(self.path).path
            if page == "/":
                self._answer(HTTPStatus.OK, "text/html", self.server.live.page())
            elif page == "/leaderboard.csv":
                self._answer(HTTPStatus.OK, "text/csv", self.server.live.csv())
            elif page == "/leaderboard.json":
                self._answer(HTTPStatus.OK, "application/json", self.server.live.json())
            else:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", "There are /, /leaderboard.csv and /leaderboard.json.\n")
        except LevlError as e:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"{e}\n")

    do_HEAD = do_GET

    def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode("utf-8", "backslashreplace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are no news."""


class Server(ThreadingHTTPServer):
    """The table of ``live`` at ``host``:``port`` (0: any free one). Raises UsageError where the port is taken."""

    daemon_threads = True

    def __init__(self, live: Live, host: str = "127.0.0.1", port: int = 0) -> None:
        self.live, self.local = live, host in ("localhost", "127.0.0.1", "::1")
        try:
            super().__init__((host, port), _Handler)
        except OSError as e:
            raise UsageError(f"--port {port}: cannot be listened at on {host} ({e.strerror}); choose another") from e

    @property
    def address(self) -> str:
        """What to open in a browser."""
        host, port = self.server_address[:2]
        return f"http://{host if isinstance(host, str) else host.decode()}:{port}/"
