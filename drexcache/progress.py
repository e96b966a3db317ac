"""Progress: a bar on a terminal and in a notebook, a line a minute elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

MINUTE = 60.0  # seconds between two lines of a log
LATELY = 64  # latest steps, or groups of steps, from which the pace is estimated

quiet = ContextVar("quiet", default=False)  # whether nobody wants to see how far the work is

Show = Callable[[int, int, str], None]
"""Called with steps done, total steps, and what is being done."""


@contextmanager
def step_bar(name: str, unit: str) -> Iterator[Show]:
    """A context with a callback (steps done, total steps, what comes next) that draws a bar on stderr, or logs lines.

    A log gets a line a minute even if a step takes longer, to show that the work continues.
    """
    if quiet.get():
        yield lambda done, total, label: None
        return
    if sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel"):  # a notebook draws a bar, too
        with _bar(name, unit) as show:
            yield show
        return
    pace, ended = Pace(unit), threading.Event()

    def tell() -> None:
        while not ended.wait(MINUTE):
            print(f"{name}: {pace.line(time.monotonic())}", file=sys.stderr, flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield lambda done, total, label: pace.note(time.monotonic(), done, total, label)
    finally:
        ended.set()
        teller.join()


class Pace:
    """The state of the work, and the remaining time at the pace of the latest steps.

    The time before the first noted step, such as loading weights, is not part of the pace.

    >>> pace = Pace("training", started=0)
    >>> pace.note(300, 0, 120, "svr, art → maps")
    >>> pace.note(900, 30, 120, "svr, maps → art")
    >>> pace.line(960)
    'training 31 of 120 (svr, maps → art), 16 minutes gone, about 29 left'
    """

    def __init__(self, unit: str, started: float | None = None) -> None:
        self.unit, self.started = unit, time.monotonic() if started is None else started
        self.total, self.label = 0, ""
        self.steps: deque[tuple[float, int]] = deque(maxlen=LATELY)  # when, and how many were done by then

    def note(self, now: float, done: int, total: int, label: str) -> None:
        """Record that so many steps are done."""
        self.total, self.label = total, label
        if not self.steps or done > self.steps[-1][1]:
            self.steps.append((now, done))

    def line(self, now: float) -> str:
        """The progress as a line of text."""
        minutes = round((now - self.started) / 60)
        gone = f"{minutes} minute{'s' if minutes != 1 else ''} gone"
        if not self.total:
            return f"getting ready, {gone}"
        (first, before), (latest, done) = self.steps[0], self.steps[-1]
        left = ""
        if done > before:
            seconds = (latest - first) / (done - before) * (self.total - done) - (now - latest)
            left = f", about {max(1, round(seconds / 60))} left"
        doing = f" ({self.label})" if self.label else ""
        return f"{self.unit} {min(done + 1, self.total):,} of {self.total:,}{doing}, {gone}{left}"


@contextmanager
def _bar(name: str, unit: str) -> Iterator[Show]:
    from tqdm.auto import tqdm

    form = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
    with tqdm(desc=name, unit=unit, dynamic_ncols=True, leave=False, bar_format=form) as bar:

        def show(done: int, total: int, label: str) -> None:
            if bar.total != total:  # the work begins now: restart the clock
                bar.reset(total)
                bar.initial = bar.n = bar.last_print_n = done
            bar.set_postfix_str(label, refresh=False)
            bar.update(done - bar.n)

        yield show
