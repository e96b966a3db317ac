"""How far the work is: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from drexcache.cli import say

MINUTE = 60.0  # seconds between two lines of a log


@contextmanager
def step_bar(name: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
    """A callback (steps done, steps in all, what comes next) that draws a bar on stderr, or writes lines to a log.

    A log gets a line a minute even while one step takes longer, so that a person sees that the work goes on.
    """
    if sys.stderr.isatty():
        with _bar(name, unit) as show:
            yield show
        return
    started, latest, ended = time.monotonic(), (0, 0, ""), threading.Event()

    def remember(done: int, total: int, label: str) -> None:
        nonlocal latest
        latest = done, total, label

    def tell() -> None:
        while not ended.wait(MINUTE):
            say(f"{name}: {_so_far(*latest, unit, time.monotonic() - started)}")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield remember
    finally:
        ended.set()
        teller.join()


@contextmanager
def _bar(name: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
    from tqdm import tqdm

    with tqdm(desc=name, unit=unit, dynamic_ncols=True, leave=False) as bar:

        def show(done: int, total: int, label: str) -> None:
            bar.total = total
            bar.set_postfix_str(label, refresh=False)
            bar.update(done - bar.n)

        yield show


def _so_far(done: int, total: int, label: str, unit: str, seconds: float) -> str:
    """Where the work stands after so many seconds.

    >>> _so_far(30, 120, "svr, art → maps", "training", 600)
    'training 31 of 120 (svr, art → maps), 10 minutes gone, about 30 left'
    >>> _so_far(0, 0, "", "training", 70)
    'getting ready, 1 minute gone'
    """
    minutes = round(seconds / 60)
    gone = f"{minutes} minute{'s' if minutes != 1 else ''} gone"
    if not total:
        return f"getting ready, {gone}"
    left = f", about {max(1, round(seconds * (total - done) / done / 60))} left" if done else ""
    return f"{unit} {min(done + 1, total)} of {total} ({label}), {gone}{left}"
