"""Ctrl-C that never cuts a write: a training stops at once, everything else is finished first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interruption:
    """A context in which Ctrl-C sets ``asked``, or raises KeyboardInterrupt where that is allowed.

    >>> with Interruption() as interruption:
    ...     signal.raise_signal(signal.SIGINT)
    >>> interruption.asked
    True
    """

    def __init__(self) -> None:
        self.asked = False
        self._allowed = False
        self._before: Any = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # no other thread may handle signals
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Here Ctrl-C may cut."""
        self._allowed = True
        try:
            yield
        finally:
            self._allowed = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._allowed:
            raise KeyboardInterrupt
