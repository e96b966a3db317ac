"""search: find the settings and feature blocks with which each regressor predicts unseen images best."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from optuna import get_all_study_names
from optuna.storages import BaseStorage

from drexcache.cache import FeatureMatrix
from drexcache.errors import DrexcacheError, nearest, several
from drexcache.files import naming, refuse_output
from drexcache.metrics import METRICS, higher_is_better
from drexcache.studies.evaluation import comparable, different_names, kept_together
from drexcache.studies.searching.outcome import SearchResult, conclude
from drexcache.studies.searching.pool import Pool, make_pruner, stack_size
from drexcache.studies.searching.space import SearchSpace, make_space
from drexcache.studies.searching.storage import JOURNAL, STORAGE_ERRORS, open_storage, usable
from drexcache.studies.searching.task import Task, make_task
from drexcache.studies.searching.trials import Direction, SpaceSampler, counted, finished, kept_alive, open_study

ProgressCall = Callable[[int, int, str], None]
LOOK = 1.0  # seconds between two counts of what all processes have done; each costs a database some ten queries


def search(
    matrix: FeatureMatrix, regressors: Sequence[str], out: str | Path, *, total_trials: int, folds: int = 5,
    repeats: int = 1, holdout: bool = False, metric: str = "pearson", seed: int = 42, storage: str | None = None,
    study: str | None = None, narrowed: Mapping[str, Any] | None = None, progress: ProgressCall | None = None,
) -> SearchResult:  # fmt: skip
    """Search the settings and blocks of every regressor and write the results into a folder.

    Every image of the matrix is used for training or for choosing, so pass the training rows only, such as
    ``matrix.where("split", "train")``. A candidate is scored on its out-of-fold predictions. Each regressor has an
    Optuna study of its own, "NAME/REGRESSOR", and an equal share of the trials: a single study would soon stop
    trying the weaker regressors, and comparing their best would not be fair.

    Parameters
    ----------
    matrix : rated images to train on. regressors : names. out : folder; an existing one is continued.
    total_trials : over all regressors and runs, including the trials of earlier runs.
    folds, repeats : k-fold, repeated with other folds. holdout : hold out the first fold only.
    metric : what to optimise. seed : of the regressors and of the search.
    storage : the URL of a database, as Optuna takes it, or of its proxy, ``grpc://HOST:PORT``; any number of processes
        may share it. Default: a journal file in the folder.
    study : its name; default: the dataset's. narrowed : see `drexcache.studies.searching.space.read_narrowed`.
    progress : called with (trials done, total trials, what comes next).

    Raises
    ------
    DrexcacheError : an unknown regressor, setting or metric, a storage that cannot be used, a study made for
        something else (says what differs), fewer trials than are already done, a folder that belongs to another
        search, or no trial that succeeded (gives the first reason).
    Stopped : Ctrl-C or SIGTERM before any trial was finished; after that, the result says that it was interrupted.

    >>> import tempfile
    >>> X = np.random.default_rng(0).normal(size=(40, 3)).astype("f4")
    >>> toy = FeatureMatrix(X, X[:, 0] / 8 + 0.5, [f"{i}.png" for i in range(40)], {"cues": slice(0, 3)}, dataset="toy")
    >>> found = search(toy, ["svr"], tempfile.mkdtemp(), total_trials=3)
    >>> found.best["regressor"], found.best["trials"]
    ('svr', 3)
    """
    regressors = different_names(regressors)
    if metric not in METRICS:
        raise DrexcacheError(f"no metric named {metric}; {nearest(metric, METRICS)}")
    (rated,) = comparable([matrix])
    spaces = [make_space(name, rated, narrowed) for name in regressors]
    same, notes = kept_together(rated)
    task = make_task(rated, same, folds=folds, repeats=repeats, holdout=holdout, metric=metric, seed=seed)
    refuse_output(out)
    folder, name = Path(out), study or matrix.dataset
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    opened = open_storage(storage, folder)
    with usable(storage or folder / JOURNAL):
        _require_one_search(folder, name, [] if storage else get_all_study_names(opened))
        pools = _pools(task, spaces, opened, name, total_trials, folder)
        before = sum(len(finished(pool.study)) for pool in pools)
        with (
            kept_alive(lambda: [trial for pool in pools for trial, _ in pool.members]),
            Interruption() as interruption,
        ):
            _run(pools, interruption, progress)
        found = conclude(task, pools, folder, notes, interrupted=interruption.asked)
        return replace(found, new=found.finished - before)


def shares(spaces: Sequence[SearchSpace], total: int, done: Sequence[int]) -> list[int]:
    """The number of trials per regressor, including those already done, as even as possible; they add up to ``total``.

    No regressor gets more trials than it has candidates.

    >>> from drexcache.regressors import Choice, Range
    >>> endless = SearchSpace("svr", ("dino",), settings={"C": Range(0.1, 10.0)})
    >>> shares([SearchSpace("mean", ("dino",)), endless, endless], 10, [0, 0, 0])
    [1, 5, 4]
    """
    given = list(done)
    while sum(given) < total:
        open_ones = [i for i, space in enumerate(spaces) if given[i] < space.size]
        if not open_ones:
            break
        given[min(open_ones, key=lambda i: given[i])] += 1
    return given


def _require_one_search(folder: Path, name: str, studies: Sequence[str]) -> None:
    """Refuse a folder with the results of a search of another name, which would be overwritten."""
    known = list(studies)
    with suppress(OSError, ValueError, KeyError, TypeError):  # no best.json, or a broken one that will be replaced
        known.append(json.loads((folder / "best.json").read_bytes())["study"])
    others = {one.rpartition("/")[0] for one in known if isinstance(one, str)} - {name}
    if others:
        raise DrexcacheError(f"{folder}: holds the search {min(others)}; give {name} another folder")


def _pools(
    task: Task, spaces: Sequence[SearchSpace], storage: BaseStorage, name: str, total: int, folder: Path
) -> list[Pool]:
    """A pool for every space, with its study, its share of the trials, and a seeded sampler and pruner."""
    direction: Direction = "maximize" if higher_is_better(task.metric) else "minimize"
    studies = [
        open_study(storage, f"{name}/{space.regressor}", direction, _made_for(task, space), space) for space in spaces
    ]
    totals = shares(spaces, total, [counted(study) for study in studies])
    if sum(totals) > total:
        raise DrexcacheError(
            f"{folder}: {several(sum(totals), 'trial is', 'trials are')} done already and --total-trials counts all of "
            f"them; give {sum(totals)} or more"
        )
    for study, space in zip(studies, spaces, strict=True):
        study.sampler = SpaceSampler(space, space.defaults(task.matrix), task.seed)
        study.pruner = make_pruner(task)
    return [
        Pool(study, space, task, share, folder, stack_size(space, task))
        for study, space, share in zip(studies, spaces, totals, strict=True)
    ]


def _made_for(task: Task, space: SearchSpace) -> dict[str, Any]:
    """What two runs must have in common to belong to one search."""
    matrix = task.matrix
    return {
        "dataset": matrix.dataset, "target": matrix.target, "images": len(matrix), "rows": _digest(matrix),
        "fingerprint": {name: matrix.fingerprints.get(name, "") for name in space.blocks},
        "space": space.describe(), "folds": int(task.folds.max()) + 1, "repeats": len(task.folds),
        "holdout": task.held == 1, "metric": task.metric, "seed": task.seed,
    }  # fmt: skip


class Interruption:
    """A context in which Ctrl-C or SIGTERM sets ``asked``, and raises KeyboardInterrupt only inside ``allowed()``.

    So training stops at once, but a write is always finished. asked : the number of the signal, else 0.

    >>> with Interruption() as interruption:
    ...     signal.raise_signal(signal.SIGINT)
    >>> interruption.asked == signal.SIGINT
    True
    """

    def __init__(self) -> None:
        self.asked = 0
        self._allowed = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # no other thread may handle signals
            self._before = {one: signal.signal(one, self._handle) for one in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if handler is not None:  # None: a handler that was not set from Python
                signal.signal(number, handler)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """A context that a signal may interrupt."""
        self._allowed = True
        try:
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._allowed = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.asked = signum
        if self._allowed:
            raise KeyboardInterrupt


def _run(pools: Sequence[Pool], interruption: Interruption, progress: ProgressCall | None) -> None:
    """Advance every pool in turn until all have their trials, waiting for those that other processes work on."""
    total, look = sum(pool.total for pool in pools), 0.0
    try:
        for pool in pools:
            pool.wait()  # gives up the trials that dead processes left behind
        while not interruption.asked:
            worked = False
            for pool in pools:
                if progress and time.monotonic() >= look:
                    look = time.monotonic() + LOOK
                    progress(sum(len(finished(p.study)) for p in pools), total, _label(pool))
                if pool.refill():
                    with interruption.allowed():
                        pool.train()
                    pool.report()
                    worked = True
            if not worked:
                waiting = [pool.wait() for pool in pools]  # every pool, so that all orphans are given up
                if not any(waiting):
                    break
                time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    except STORAGE_ERRORS:
        for pool in pools:
            pool.members = []  # the storage cannot be updated; other processes will notice the missing heartbeat
        raise
    finally:
        for pool in pools:
            pool.leave()


def _label(pool: Pool) -> str:
    values = [trial.values[0] for trial in finished(pool.study) if trial.state.name == "COMPLETE"]
    best = (max if pool.study.direction.name == "MAXIMIZE" else min)(values) if values else None
    return pool.space.regressor + (f", best {pool.task.metric} {best:.3f}" if best is not None else "")


def _digest(matrix: FeatureMatrix) -> str:
    """SHA-256 over the images and their ratings, regardless of their order."""
    lines = sorted(
        f"{image}\t{rating!r}" for image, rating in zip(matrix.ids, np.asarray(matrix.y).tolist(), strict=True)
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
