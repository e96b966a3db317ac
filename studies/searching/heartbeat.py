"""Which running trials belong to a process that is gone."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from optuna import Study, Trial
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, TrialState

WORKER, BEAT = "worker", "last sign of life"  # user attributes of a running trial
EVERY, GRACE = 20.0, 120.0  # seconds between two signs of life, and without one until a process is taken for dead
UNSIGNED = 15.0  # the same for a trial that was never signed: its process died within milliseconds of making it


def sign(trial: Trial) -> None:
    """Say that this process has the trial and is alive."""
    trial.set_user_attr(WORKER, f"{socket.gethostname()}:{os.getpid()}")
    trial.set_user_attr(BEAT, time.time())


@contextmanager
def beating(running: dict[int, Trial]) -> Iterator[None]:
    """Keep saying so of all these trials, which may come and go, while the context lasts."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(EVERY):
            for trial in list(running.values()):
                if over.is_set():  # a storage that hangs takes its time for each sign
                    return
                try:
                    trial.set_user_attr(BEAT, time.time())
                except (OptunaError, OSError, RuntimeError):  # it has just ended, or the storage is away for a moment
                    continue

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def elsewhere(study: Study, mine: Sequence[int]) -> tuple[list[int], list[int]]:
    """Numbers of the running trials that are not mine: (of living processes, of dead ones)."""
    alive: list[int] = []
    dead: list[int] = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.number not in mine:
            (dead if _is_orphan(trial) else alive).append(trial.number)
    return alive, dead


def _is_orphan(trial: FrozenTrial) -> bool:
    """Its process is gone from this machine, or has given no sign for too long."""
    host, _, process = str(trial.user_attrs.get(WORKER, "")).rpartition(":")
    if host == socket.gethostname() and not _exists(int(process)):
        return True
    started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    silent = time.time() - float(trial.user_attrs.get(BEAT, started))
    return silent > (GRACE if BEAT in trial.user_attrs else UNSIGNED)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
