"""Writing in a thread of its own, in order, a few batches behind the computation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class WriteBehind:
    """Does jobs one after the other in one thread; what a job raises is raised in the caller, at the latest at the end.

    After a job has failed none is done any more: what a failed fsync lost must not be vouched for by a later commit.
    Leaving the ``with`` block waits for the jobs that were handed over, also after Ctrl-C: they are few and short.

    >>> done = []
    >>> with WriteBehind() as behind:
    ...     for number in range(5):
    ...         behind.submit(lambda number=number: done.append(number))
    >>> done
    [0, 1, 2, 3, 4]
    """

    def __init__(self, most: int = 2) -> None:
        self._most, self._failed = most, False
        self._waiting: deque[Future[None]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=True)
        if kind is None:
            while self._waiting:
                self._waiting.popleft().result()

    def submit(self, job: Callable[[], None]) -> None:
        """Hand over one job; waits while too many are still to be done."""
        self._waiting.append(self._pool.submit(self._do, job))
        while len(self._waiting) > self._most or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def _do(self, job: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            job()
        except BaseException:
            self._failed = True
            raise
