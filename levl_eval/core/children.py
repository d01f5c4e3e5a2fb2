"""Worker processes that `multiprocessing` or torch's DataLoader starts: they leave Ctrl-C to the process they work for and end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait


def begin_child(number: int = 0) -> None:
    """In a worker, before its work: Ctrl-C is its parent's to answer, and where that is gone (kill -9 included) it ends too.

    A worker that outlived its parent would wait for work for ever, with the parent's locks, which it has inherited.
    number: of the worker, as DataLoader gives it. Nothing happens in a process that is no worker.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def process_pool(count: int) -> Iterator[ProcessPoolExecutor]:
    """``count`` worker processes for as long as the body lasts; work that has not begun by then is dropped."""
    pool = ProcessPoolExecutor(count, initializer=begin_child)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
