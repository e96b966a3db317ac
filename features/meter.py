"""Where the time of an extraction goes, and so what bounds it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = ("decode", "model", "write")


class Meter:
    """Seconds of the run spent waiting for decoded images ("decode"), in the models, and writing.

    Decoding and writing go on in threads beside the models: of decoding only the time counts that the models had to
    wait for it, so that on a GPU the share of "decode" is the share of time that the GPU stood idle for it.

    >>> meter = Meter()
    >>> with meter("model"):
    ...     time.sleep(0.01)
    >>> meter.bottleneck(), meter.shares()
    ('model', {'decode': 0.0, 'model': 1.0, 'write': 0.0})
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.elapsed = 0.0

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time of the ``with`` block for this stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started

    def start(self) -> None:
        """Begin to count ``elapsed``."""
        self.elapsed = -time.perf_counter()

    def stop(self) -> None:
        """``elapsed`` is now the time since `start`, in seconds."""
        self.elapsed += time.perf_counter()

    def bottleneck(self) -> str:
        """The stage that took most of the time."""
        return max(self.seconds, key=lambda stage: self.seconds[stage])

    def shares(self) -> dict[str, float]:
        """Stage -> its share of the time counted."""
        whole = sum(self.seconds.values()) or 1.0
        return {stage: seconds / whole for stage, seconds in self.seconds.items()}
