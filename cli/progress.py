"""A bar for work that reports its steps; nothing where the output is not a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def step_bar(name: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
    """A callback (steps done, steps in all, what comes next) that draws a bar on stderr."""
    from tqdm import tqdm

    with tqdm(desc=name, unit=unit, disable=None, dynamic_ncols=True, leave=False) as bar:

        def show(done: int, total: int, label: str) -> None:
            bar.total = total
            bar.set_postfix_str(label, refresh=False)
            bar.update(done - bar.n)

        yield show
