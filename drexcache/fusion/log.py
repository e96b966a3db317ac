"""The log of a training as a CSV to plot: epoch, loss, learning rate, and validation where rows were kept aside."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from drexcache.files import write_file
from drexcache.fusion.estimator import AttentionFusionRegressor


def write_log(head: AttentionFusionRegressor, path: str | Path) -> None:
    """Write a row per epoch of a fitted fusion head; a correlation that is undefined stays empty.

    Raises
    ------
    DrexcacheError : the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(head.log_[0]))
    writer.writeheader()
    for row in head.log_:
        shown = {key: "" if value is None else f"{value:.6g}" for key, value in row.items()}
        writer.writerow(shown | {"epoch": row["epoch"]})
    write_file(path, text.getvalue())
