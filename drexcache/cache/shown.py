"""A cache and a matrix as data frames, and what a notebook shows of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from drexcache.cache.format import DONE, FAILED, MISSING
from drexcache.errors import several
from drexcache.shown import ROWS, html_of

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = 4  # of features that are shown
STATES = {MISSING: "missing", DONE: "done", FAILED: "failed"}


class ShownCache:
    """A cache as a table."""

    ids: Any
    targets: Any
    labels: Any
    blocks: Any
    dataset: Any
    status: Any
    failures: Any

    def to_pandas(self) -> pd.DataFrame:
        """A line per image, indexed by its id: its ratings in their own range, its labels, each block's state
        ("done", "failed" or "missing"), and why it failed ("" where it did not)."""
        import pandas as pd

        columns: dict[str, Any] = {name: target.values for name, target in self.targets.items()}
        columns |= self.labels
        for name in self.blocks:
            columns[f"{name} is"] = [STATES[code] for code in self.status(name).tolist()]
        failures = self.failures()
        columns["failure"] = [failures.get(image, "") for image in self.ids]
        return pd.DataFrame(columns, index=pd.Index(self.ids, name="id"))

    def _repr_html_(self) -> str:
        frame = self.to_pandas()
        if not frame["failure"].any():
            del frame["failure"]
        targets = [f"{name} from {target.low:g} to {target.high:g}" for name, target in self.targets.items()]
        blocks = [f"{name} {block.dim}-d" for name, block in self.blocks.items()]
        heading = f"FeatureCache of {self.dataset}: {', '.join([several(len(frame), 'image'), *blocks, *targets])}"
        return html_of(heading, frame.head(ROWS), len(frame))


class ShownMatrix:
    """A matrix as a table."""

    X: np.ndarray
    y: np.ndarray
    ids: Sequence[str]
    blocks: dict[str, slice]
    taps: dict[str, slice]
    labels: dict[str, Sequence[str]]
    dataset: str
    target: str

    def to_pandas(self) -> pd.DataFrame:
        """A DataFrame indexed by image id: ``y`` under the target's name, the labels, and the features.

        Features are float32 columns named "block/tap/number", or "block/number" where a block's taps are not known.

        >>> from drexcache import FeatureMatrix
        >>> m = FeatureMatrix(np.ones((1, 2), "f4"), np.array([0.5]), ["a"], {"cue": slice(0, 2)})
        >>> m.to_pandas().to_dict("index")
        {'a': {'rating': 0.5, 'cue/0': 1.0, 'cue/1': 1.0}}
        """
        return self._frame(len(self.ids), self.X.shape[1])

    @property
    def columns(self) -> list[str]:
        """The d names of the features: "block/tap/number", or "block/number" where a block's taps are not known."""
        names = [""] * self.X.shape[1]
        for part, where in {**self.blocks, **self.taps}.items():
            names[where] = [f"{part}/{number}" for number in range(where.stop - where.start)]
        return names

    def _frame(self, rows: int, width: int) -> pd.DataFrame:
        """The first rows and features."""
        import pandas as pd

        parts = [pd.DataFrame({self.target or "rating": self.y[:rows]})]
        parts.append(pd.DataFrame({name: column[:rows] for name, column in self.labels.items()}))
        parts.append(pd.DataFrame(self.X[:rows, :width], columns=self.columns[:width], copy=True))
        return pd.concat(parts, axis=1).set_axis(pd.Index(self.ids[:rows], name="id"), axis=0)

    def _repr_html_(self) -> str:
        n, d = self.X.shape
        frame = self._frame(ROWS, COLUMNS)
        frame["…"] = "" if d <= COLUMNS else "…"
        blocks = [f"{name} {cols.stop - cols.start}-d" for name, cols in self.blocks.items()]
        counts = f"{several(n, 'image')}, {several(d, 'feature')}"
        heading = f"FeatureMatrix of {self.dataset}: {counts} ({', '.join(blocks)})"
        return html_of(heading, frame if d > COLUMNS else frame.drop(columns="…"), n)
