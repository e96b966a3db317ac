"""The ledger: a line of JSON per evaluation, ablation or search, beside its output, as a record of past runs."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from drexcache.cache import FeatureMatrix
from drexcache.errors import DrexcacheError, several
from drexcache.files import lock, read_regular
from drexcache.metrics import higher_is_better
from drexcache.scores import ScoreTable, number, train_to_test

NAME = "drexcache-runs.jsonl"
SHOWN_CELLS = 12  # cells of a run to show in its summary
KINDS = {"scores": dict, "caches": dict, "files": str, "regressors": str}  # of the entries of a record's lists
SCORE: dict[str, type | tuple[type, ...]] = {
    "regressor": str,
    "train": str,
    "test": str,
    "metric": str,
    "value": (int, float, type(None)),
}


def append(out: str | Path, kind: str, **fields: Any) -> Path:
    """Add a run to the ledger in its output's folder; returns the ledger's path.

    Several processes can do this at once; they write one after the other. When it returns, the line is on the disk; on
    a full disk none is written. If a power cut left an incomplete line, it is ended first, so that it does not spoil
    this one.

    Parameters
    ----------
    out : the output file or folder. kind : "evaluate", "ablate" or "search".
    fields : anything that JSON can represent. By convention ``command`` (the command line), ``caches``
        (`caches_of`), ``regressors`` (names), ``settings``, ``scores`` (`scores_of`) and ``files`` (paths written,
        stored relative to the ledger's folder, so that it can be moved). ``when`` (UTC) and ``version`` are added.

    Raises
    ------
    DrexcacheError : the ledger cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = append(f"{folder}/scores.csv", "evaluate", regressors=["ridge"])
    ...     entries, notes = read(folder)
    >>> entries[0]["kind"], entries[0]["regressors"], notes
    ('evaluate', ['ridge'], [])
    """
    out = Path(out)
    path = (out if out.is_dir() else out.parent) / NAME
    when = datetime.now(UTC).isoformat(timespec="seconds")
    if "files" in fields:
        fields["files"] = [Path(os.path.relpath(file, path.parent)).as_posix() for file in fields["files"]]
    entry = {"when": when, "version": version("drexcache"), "kind": kind, **fields}
    line = json.dumps(entry, ensure_ascii=False, allow_nan=False, default=str) + "\n"
    try:
        ledger = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            lock(ledger)
            size = os.fstat(ledger).st_size
            torn = size > 0 and os.pread(ledger, 1, size - 1) != b"\n"
            data = (f"\n{line}" if torn else line).encode(errors="backslashreplace")
            if os.write(ledger, data) != len(data):
                os.ftruncate(ledger, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(ledger)
        finally:
            os.close(ledger)
    except OSError as error:
        raise DrexcacheError(f"{path}: this run cannot be written down: {error.strerror}") from error
    return path


def read(folder: str | Path = ".") -> tuple[list[dict[str, Any]], list[str]]:
    """Read all runs of a ledger or of every ledger below a folder, newest first, and a note per line left out.

    Each entry gets ``ledger``, the path of its file; its ``files`` are relative to the current folder.

    Raises
    ------
    DrexcacheError : no such file or folder, or a ledger that cannot be read.
    """
    folder = Path(folder)
    if not folder.exists():
        raise DrexcacheError(f"{folder}: no such file or folder to look for runs in")
    entries: list[dict[str, Any]] = []
    notes: list[str] = []
    for path in sorted(folder.rglob(NAME)) if folder.is_dir() else [folder]:
        try:
            lines = read_regular(path).split(b"\n")
        except OSError as error:
            raise DrexcacheError(f"{path}: cannot be read ({error.strerror or error})") from error
        for at, line in enumerate(lines, 1):
            entry = _entry(line)
            if entry is not None:
                files = [str(path.parent / file) for file in entry.get("files", [])]
                entries.append({**entry, "files": files, "ledger": str(path)})
            elif line.strip():
                notes.append(f"{path}: line {at} is not the whole record of a run and was left out")
    return sorted(entries, key=lambda entry: str(entry["when"]), reverse=True), notes


def select(
    entries: Sequence[Mapping[str, Any]], *, dataset: str | None = None, regressor: str | None = None,
    kind: str | None = None, metric: str | None = None, since: datetime | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """The runs that match, each with only its matching scores.

    dataset : trained or tested on. since : the earliest time; without a time zone it is local.
    """
    chosen = []
    for entry in entries:
        late = since is None or _when(entry) >= since.astimezone(UTC)
        of_dataset = dataset is None or dataset in [cache.get("dataset") for cache in entry.get("caches", ())]
        of_regressor = regressor is None or regressor in entry.get("regressors", ())
        if late and of_dataset and of_regressor and kind in (None, entry["kind"]):
            scores = [
                score
                for score in entry.get("scores", ())
                if dataset in (None, score.get("train"), score.get("test"))
                and regressor in (None, score.get("regressor"))
                and metric in (None, score.get("metric"))
            ]
            chosen.append({**entry, "scores": scores})
    return chosen


def caches_of(matrices: Mapping[str, FeatureMatrix]) -> list[dict[str, Any]]:
    """The caches of a run: path, dataset, images, target and each block's fingerprint. matrices : path -> matrix."""
    return [
        {
            "path": path, "dataset": matrix.dataset, "images": len(matrix), "target": matrix.target,
            "fingerprints": dict(matrix.fingerprints),
        }
        for path, matrix in matrices.items()
    ]  # fmt: skip


def scores_of(table: ScoreTable) -> list[dict[str, Any]]:
    """Every metric of every regressor and cell with its interval, averaged over seeds and repeats."""
    means = table.means()
    means = means[(means.group == "") & ~means.calibrated]
    scores = means[["regressor", "kind", "train", "test", "metric", "value", "low", "high", "n", "runs"]]
    return scores.astype(object).where(scores.notna(), None).to_dict("records")


def summary(entry: Mapping[str, Any], metric: str, width: int) -> list[str]:
    """An entry as lines of text: time, kind and file, then for each train and test set as many of the best as fit."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for score in entry["scores"]:
        cells.setdefault(train_to_test(score["train"], score["test"]), []).append(score)
    when = datetime.fromisoformat(entry["when"]).astimezone().strftime("%Y-%m-%d %H:%M")
    targets = sorted({str(cache["target"]) for cache in entry.get("caches", ()) if cache.get("target")})
    lines = [" ".join([when, entry["kind"], *targets, *entry["files"][:1]])]
    column = min(max(map(len, cells), default=0), width // 3)
    sign = -1 if higher_is_better(metric) else 1
    for where, scores in list(cells.items())[:SHOWN_CELLS]:
        scores.sort(key=lambda one: float("inf") if one["value"] is None else sign * one["value"])
        texts = [f"{one['regressor']} {number(one['value'], missing='undefined')}" for one in scores]
        lines.append(f"  {_cut(where, column):<{column}}  {_fitting(texts, width - column - 4)}")
    if len(cells) > SHOWN_CELLS:
        lines.append(
            f"  and {several(len(cells) - SHOWN_CELLS, 'more pair')} of train and test set "
            "(--dataset chooses, --json has all)"
        )
    return lines


def _entry(line: bytes) -> dict[str, Any] | None:
    """The run recorded in a line; None if the line is not a complete record."""
    try:
        entry = json.loads(line)
        _when(entry)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    whole = isinstance(entry.get("kind"), str) and all(
        isinstance(entry.get(name, []), list) and all(isinstance(one, kind) for one in entry.get(name, []))
        for name, kind in KINDS.items()
    )
    scores = entry.get("scores", []) if whole else []
    whole &= all(name in score and isinstance(score[name], kind) for score in scores for name, kind in SCORE.items())
    return entry if whole else None


def _when(entry: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(entry["when"]).astimezone(UTC)


def _fitting(texts: list[str], width: int) -> str:
    """As many of the texts as fit, at least one, and how many more there are.

    >>> _fitting(["fusion 0.871", "ridge 0.860", "svr 0.851"], 30)
    'fusion 0.871 and 2 more'
    """
    for shown in range(len(texts), 1, -1):
        left = len(texts) - shown
        line = "; ".join(texts[:shown]) + (f" and {left} more" if left else "")
        if len(line) <= width:
            return line
    more = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
    return _cut(texts[0], width - len(more)) + more


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"
