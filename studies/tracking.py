"""Recording runs in experiment trackers: MLflow, Weights & Biases, TensorBoard, each imported only when used.

Each is configured by its own environment variables: MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME; WANDB_PROJECT and
WANDB_MODE; TENSORBOARD_LOGDIR [runs].
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from drexcache.errors import DrexcacheError

TRACKERS = {"mlflow": "mlflow", "wandb": "wandb", "tensorboard": "torch.utils.tensorboard"}  # name -> module
MAX_TEXT = 500  # characters of a setting; some MLflow stores refuse more


def require(tracker: str) -> None:
    """Import a tracker, so that a missing one is noticed before any work is done.

    Raises
    ------
    DrexcacheError : the tracker is unknown, or its package is not installed.

    >>> require("paper")
    Traceback (most recent call last):
        ...
    drexcache.errors.DrexcacheError: no tracker named 'paper'; there are: mlflow, wandb, tensorboard
    """
    if tracker not in TRACKERS:
        raise DrexcacheError(f"no tracker named {tracker!r}; there are: {', '.join(TRACKERS)}")
    try:
        importlib.import_module(TRACKERS[tracker])
    except ImportError as error:
        raise DrexcacheError(f"{tracker} is not installed: pip install 'drexcache[{tracker}]' ({error})") from error


def track(tracker: str, kind: str, run: Mapping[str, Any], curve: Sequence[Mapping[str, Any]] = ()) -> str:
    """Record a finished run; returns a phrase that says where.

    Parameters
    ----------
    tracker : "mlflow", "wandb" or "tensorboard". kind : the command, such as "evaluate".
    run : its entry in the ledger: command, caches, regressors, settings, scores, files; the files are uploaded, too.
    curve : a row per epoch, with "epoch" and numbers.

    Raises
    ------
    DrexcacheError : the tracker is missing or does not accept the run, whose files are already written.
    """
    require(tracker)
    settings = {key: value for key, value in run.items() if key not in ("scores", "files")}
    send = {"mlflow": _mlflow, "wandb": _wandb, "tensorboard": _tensorboard}[tracker]
    files = [str(file) for file in run.get("files", ()) if Path(file).is_file()]
    try:
        return send(kind, dict(_flat(settings)), dict(_scores(run.get("scores", ()))), curve, files)
    except Exception as error:  # from a server, a disk or the tracker itself
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        written = f"; {', '.join(files)} stand as written" if files else ""
        raise DrexcacheError(f"{tracker} has not recorded this run: {reason}{written}") from error


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str | float]]:
    """Yield nested settings as (dotted name, number or text)."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{_word(key)}".strip("."))
    elif isinstance(value, bool | int | float):
        yield name, value
    elif value is not None:
        yield name, (value if isinstance(value, str) else json.dumps(value, default=str))[:MAX_TEXT]


def _scores(scores: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """Yield each score and the ends of its interval under the name regressor/train to test/metric."""
    for score in scores:
        train, test = _word(score["train"]), _word(score["test"])
        where = test if train == test else f"{train} to {test}"
        name = f"{_word(score['regressor'])}/{where}/{score['metric']}"
        for end, key in (("", "value"), (" low", "low"), (" high", "high")):
            if score.get(key) is not None:
                yield name + end, float(score[key])


def _word(name: object) -> str:
    """A name without the characters that trackers refuse or interpret as folders."""
    return re.sub(r"[^\w\- ]", "_", str(name)) or "_"


def _points(curve: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, float]]]:
    for row in curve:
        yield (
            int(row["epoch"]),
            {f"epochs/{key}": float(x) for key, x in row.items() if key != "epoch" and x is not None},
        )


def _mlflow(
    kind: str, settings: Mapping[str, Any], scores: Mapping[str, float], curve: Sequence[Mapping[str, Any]],
    files: Sequence[str],
) -> str:  # fmt: skip
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # hides messages about the tables it creates
    with mlflow.start_run(run_name=kind, tags={"drexcache": kind}) as run:
        mlflow.log_params(dict(settings))
        mlflow.log_metrics(dict(scores))
        for epoch, values in _points(curve):
            mlflow.log_metrics(values, step=epoch)
        for file in files:
            mlflow.log_artifact(file)
    return f"MLflow run {run.info.run_id} at {mlflow.get_tracking_uri()}"


def _wandb(
    kind: str, settings: Mapping[str, Any], scores: Mapping[str, float], curve: Sequence[Mapping[str, Any]],
    files: Sequence[str],
) -> str:  # fmt: skip
    import wandb

    project = os.environ.get("WANDB_PROJECT", "drexcache")
    with wandb.init(project=project, job_type=kind, config=dict(settings)) as run:
        for epoch, values in _points(curve):
            run.log(values, step=epoch)
        run.summary.update(dict(scores))
        if files:
            artifact = wandb.Artifact(f"{kind}-{run.id}", type=kind)
            for file in files:
                artifact.add_file(file)
            run.log_artifact(artifact)
        return f"Weights & Biases run {run.id} of project {project}, {run.dir}"


def _tensorboard(
    kind: str, settings: Mapping[str, Any], scores: Mapping[str, float], curve: Sequence[Mapping[str, Any]],
    files: Sequence[str],
) -> str:  # fmt: skip
    from torch.utils.tensorboard import SummaryWriter

    folder = Path(os.environ.get("TENSORBOARD_LOGDIR", "runs")) / f"{kind}-{datetime.now():%Y-%m-%d-%H-%M-%S-%f}"
    with SummaryWriter(str(folder)) as writer:
        writer.add_hparams(dict(settings), dict(scores), run_name=".")
        for epoch, values in _points(curve):
            for name, value in values.items():
                writer.add_scalar(name, value, epoch)
        writer.add_text("files", "\n".join(f"- {file}" for file in files))
    return f"TensorBoard files in {folder}"
