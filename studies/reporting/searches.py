"""The results of a search, read from its folder: best candidates, trials and parameter importances."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drexcache.errors import DrexcacheError
from drexcache.files import run_id
from drexcache.metrics import METRICS
from drexcache.scores import read_records, score_entry

HEADERS = ["regressor", "trials", "pruned", "failed", "score [95% interval]", "nested estimate", "blocks", "settings"]
TABLES = ("results.md", "results.csv", "trials.csv", "importance.csv")


@dataclass(frozen=True)
class Search:
    """The results of one search.

    metric : the one optimised. trials : regressor -> (number, score) of the complete trials, in order.
    importance : regressor -> parameter -> share of the scores' variance. rows : texts under `HEADERS`.
    """

    folder: Path
    dataset: str
    metric: str
    trials: dict[str, list[tuple[int, float]]]
    importance: dict[str, dict[str, float]]
    rows: list[list[str]]


def read_search(folder: str | Path) -> Search:
    """Read best.json, results.csv, trials.csv and importance.csv from a search's folder.

    Raises
    ------
    DrexcacheError : no such folder, or a file in it that is missing or invalid.
    """
    folder = Path(folder)
    if not (folder / "best.json").is_file():
        raise DrexcacheError(f"{folder}: no best.json, which drexcache search writes there; give its output folder")
    best = _best(folder / "best.json")
    _require_one_run(folder, best.get("files"))
    columns = {"regressor": str, "trial": int, "state": str, "score": float}
    trials = read_records(folder / "trials.csv", columns, {"score": float})
    complete = trials[trials.state == "complete"].sort_values("trial").groupby("regressor", sort=False)
    importance = read_records(folder / "importance.csv", {"regressor": str, "parameter": str, "importance": float})
    return Search(
        folder=folder,
        dataset=str(best["dataset"]),
        metric=str(best["metric"]),
        trials={name: list(zip(own.trial, own.score, strict=True)) for name, own in complete},
        importance={
            name: dict(zip(own.parameter, own.importance, strict=True))
            for name, own in importance.groupby("regressor", sort=False)
        },
        rows=_rows(folder / "results.csv"),
    )


def _best(path: Path) -> dict[str, Any]:
    try:
        best = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DrexcacheError(f"{path}: cannot be read: {error}") from error
    if not isinstance(best, dict) or str(best.get("metric")) not in METRICS or "dataset" not in best:
        raise DrexcacheError(f"{path}: not what drexcache search writes: expected a dataset and a metric it knows")
    return best


def _require_one_run(folder: Path, written: Any) -> None:
    """Refuse tables from a different run than best.json, as left by a search that was killed while writing them."""
    for name in TABLES if isinstance(written, dict) else ():
        if (folder / name).is_file() and run_id((folder / name).read_bytes()) != written.get(name):
            raise DrexcacheError(
                f"{folder / name}: not what was written together with best.json; run the same drexcache search again"
            )


def _rows(path: Path) -> list[list[str]]:
    """One row per regressor, best first."""
    texts = dict.fromkeys(["regressor", "trials", "pruned", "failed", "blocks", "settings"], str)
    scores = dict.fromkeys(["score", "low", "high", "nested", "nested_low", "nested_high"], float)
    return [
        [
            row.regressor, row.trials, row.pruned, row.failed,
            str(score_entry(row.score, row.low, row.high, missing="")),
            str(score_entry(row.nested, row.nested_low, row.nested_high, missing="")),
            row.blocks, _settings(path, row.Index, row.settings),
        ]
        for row in read_records(path, {**texts, **scores}, scores).itertuples()
    ]  # fmt: skip


def _settings(path: Path, line: int, text: str) -> str:
    """Format the JSON in the table as "C 2.18, gamma 5.1e-05"."""
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DrexcacheError(f"{path}: line {line}: settings should be JSON, names with values, found {text!r}")
    parts = (f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in found.items())
    return ", ".join(parts) or "defaults"
