"""Where a search keeps its trials: any number of processes share a study, and its number of trials is exact."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna import Study, Trial
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from drexcache.errors import DrexcacheError
from drexcache.studies.searching.servers import open_database, open_proxy, reason

JOURNAL = "trials.journal"
MADE_FOR, ERROR = "made for", "error"  # user attributes: of a study, of a trial whose candidate could not be trained
Direction = Literal["minimize", "maximize"]
DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
STORAGE_ERRORS = (SQLAlchemyError, StorageInternalError)  # of a server that is gone, or refuses


class _Journal(JournalFileBackend):
    """Optuna's journal, made durable once per finished trial instead of once per line (some 20 a trial)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(str(path))
        self._drop_torn_line()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append one line per record; what finishes a trial is on the disk when this returns."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self.path.open("ab") as file:
            # held by the kernel: a killed process lets go at once, where Optuna's own lock would keep others for 30 s
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(text.encode())
            file.flush()
            if any("values" in log for log in logs):
                os.fsync(file.fileno())

    def _drop_torn_line(self) -> None:
        """A full disk can leave half a line, after which nothing could be read."""
        with self.path.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            data = file.read()
            file.truncate(data.rfind(b"\n") + 1)


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The storage at a URL, a database's or ``grpc://HOST:PORT``; by default a journal file in the folder.

    Raises
    ------
    DrexcacheError : a storage that cannot be reached, or is none of Optuna's.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with usable(url or folder / JOURNAL):
            if url is None:
                return JournalStorage(_Journal(folder / JOURNAL))
            return open_proxy(url) if url.startswith("grpc://") else open_database(url)
    except (ImportError, ValueError, OSError, KeyError, RuntimeError) as error:
        raise _unusable(url or folder / JOURNAL, error) from error


@contextmanager
def usable(place: str | Path) -> Iterator[None]:
    """A context in which a storage that is gone, or refuses, is told in one sentence."""
    try:
        yield
    except STORAGE_ERRORS as error:
        raise _unusable(place, error) from error


def _unusable(place: str | Path, error: BaseException) -> DrexcacheError:
    return DrexcacheError(f"{without_password(str(place))}: the storage of trials cannot be used: {reason(error)}")


def open_study(storage: BaseStorage, name: str, direction: Direction, made_for: Mapping[str, Any]) -> Study:
    """The study of that name, new or old.

    Raises
    ------
    DrexcacheError : it was made for something else; the message says what differs.
    """
    study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
    if MADE_FOR not in study.user_attrs:
        study.set_user_attr(MADE_FOR, dict(made_for))
    # read again: another process may have been quicker
    lines = _differences(study.user_attrs[MADE_FOR], made_for)
    if lines:
        raise DrexcacheError(
            f"the study {name} was made for something else: {'; '.join(lines)} (study -> now); "
            "choose another folder or --study name, or search as before"
        )
    return study


def claim(study: Study, distributions: dict[str, BaseDistribution], total: int) -> Trial | None:
    """A new running trial, or None where the study has its total.

    Exact with any number of processes, because the storage gives every trial a number of its own: a trial counts
    only if fewer than ``total`` trials with lower numbers do, whatever the others see at that moment.
    """
    if counted(study) >= total:
        return None
    trial = study.ask(distributions)
    before = [other for other in study.get_trials(deepcopy=False) if other.number < trial.number]
    if sum(not is_void(other) for other in before) < total:
        return trial
    give_up(study, trial.number)
    return None


def counted(study: Study) -> int:
    """Trials that count towards the total: all but those that were given up."""
    return sum(not is_void(trial) for trial in study.get_trials(deepcopy=False))


def finished(study: Study) -> list[FrozenTrial]:
    """Trials that have a result: a score, a reason for being pruned, or a reason for having failed."""
    return [trial for trial in study.get_trials(deepcopy=False, states=DONE) if not is_void(trial)]


def is_void(trial: FrozenTrial) -> bool:
    """Whether a trial was given up without a result: its process died, was interrupted, or came too late."""
    return trial.state is TrialState.FAIL and ERROR not in trial.user_attrs


def give_up(study: Study, number: int) -> None:
    """End a trial without a result; another will take its place."""
    try:
        study.tell(number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):  # another process was quicker
        return


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    """What differs, key by key, as "key: old -> new"."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return [] if old == new else [f"{where}: {_short(old)} -> {_short(new)}"]
    keys = dict.fromkeys([*old, *new])
    return [line for key in keys for line in _differences(old.get(key), new.get(key), f"{where} {key}".strip())]


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == 64 else text  # a fingerprint


def without_password(url: str) -> str:
    """A URL to show: without the secret of ``postgresql://user:secret@host/db`` or of ``...?password=secret``."""
    scheme, found, rest = re.sub(r"([?&]\w*password)=[^&]*", r"\1", url).partition("://")
    if not found or "@" not in rest:
        return scheme + found + rest
    user, _, place = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}@{place}"
