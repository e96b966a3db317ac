"""The trials of a study: proposed, claimed by one process each, kept alive, and given up when their process is gone.

This does three things that Optuna does not: its heartbeat works only inside ``Study.optimize`` and on databases, its
``MaxTrialsCallback`` lets several processes overshoot, and it does not store its sampler's random state.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from textwrap import shorten
from typing import Any, Literal

import optuna
from optuna import Study, Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from drexcache.errors import DrexcacheError
from drexcache.studies.searching.space import SearchSpace

Direction = Literal["minimize", "maximize"]
MADE_FOR, ERROR = "made for", "error"  # user attributes: of a study, of a trial whose candidate could not be trained
WORKER, BEAT = "worker", "last sign of life"  # user attributes of a running trial
EVERY, GRACE = 20.0, 120.0  # seconds between two heartbeats, and without one before a process is presumed dead
UNSIGNED = timedelta(seconds=15)  # grace for a trial without a heartbeat: its process died just after creating it
DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
ELSEWHERE = "search as before, or choose another folder"
DRAWS = 50  # to propose a candidate that is allowed and new


def open_study(
    storage: BaseStorage, name: str, direction: Direction, made_for: Mapping[str, Any],
    space: SearchSpace,
) -> Study:  # fmt: skip
    """Create the study of that name, or load the one that exists.

    Raises
    ------
    DrexcacheError : it was made for something else (says what differs), or holds something that no search writes.
    """
    study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
    if [one.name for one in study.directions] != [direction.upper()]:
        raise DrexcacheError(f"the study {name} was made to {study.directions[0].name.lower()} its score; {ELSEWHERE}")
    if MADE_FOR not in study.user_attrs:
        study.set_user_attr(MADE_FOR, dict(made_for))
    # read it back: another process may have been quicker
    lines = _differences(study.user_attrs[MADE_FOR], made_for)
    if lines:
        raise DrexcacheError(
            f"the study {name} was made for something else: {'; '.join(lines)} (study -> now); {ELSEWHERE}"
        )
    for trial in study.get_trials(deepcopy=False):
        if not _is_sound(trial, space):
            raise DrexcacheError(f"the study {name}: trial {trial.number} is not as a search writes it; {ELSEWHERE}")
    return study


def _is_sound(trial: FrozenTrial, space: SearchSpace) -> bool:
    """Whether everything read from a trial is what a search writes: a journal may be damaged, or a stranger's."""
    attributes, distributions = trial.user_attrs, space.distributions
    proposed = _proposed(trial)
    numbers = [*(trial.values or []), *trial.intermediate_values.values()]
    return (
        (trial.distributions == distributions or not trial.state.is_finished() or is_void(trial))
        and isinstance(proposed, dict)
        and space.allows(proposed)
        and all(name in distributions and _fits(distributions[name], value) for name, value in proposed.items())
        and all(_is_number(value) for value in (*numbers, attributes.get(BEAT, 0.0)))
        and all(isinstance(step, int) for step in trial.intermediate_values)
        and len(trial.values or []) == (trial.state is TrialState.COMPLETE or trial.state is TrialState.PRUNED)
        and re.fullmatch(r"[^\n]*:\d{1,9}", str(attributes.get(WORKER, ":0"))) is not None
        and isinstance(attributes.get(ERROR, ""), str)
        and str(attributes.get(ERROR, "")).isprintable()
        and not any(key.startswith("constraint") for key in trial.system_attrs)
    )


def _proposed(trial: FrozenTrial) -> Any:
    """All parameters of a trial, including those proposed but not yet set, which the sampler keeps in attributes."""
    relative = [value for key, value in sorted(trial.system_attrs.items()) if key.startswith("tpe:relative_params")]
    try:
        return {**json.loads("".join(relative) or "{}"), **trial.system_attrs.get("fixed_params", {}), **trial.params}
    except (TypeError, ValueError, RecursionError):
        return None


def _fits(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return _is_number(value) and distribution.low <= value <= distribution.high


def _is_number(value: Any) -> bool:
    """Whether it is a finite number that NumPy can hold."""
    limit = 2**63 if isinstance(value, int) else sys.float_info.max
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < limit


def claim(study: Study, distributions: dict[str, BaseDistribution], total: int) -> Trial | None:
    """A new running trial of this process, or None if the study has its total.

    The total is exact with any number of processes: the storage numbers the trials uniquely, and a trial counts
    only if fewer than ``total`` trials with lower numbers do, whatever the other processes see at that moment.
    """
    while counted(study) < total:
        trial = study.ask(distributions)
        before = [other for other in study.get_trials(deepcopy=False) if other.number < trial.number]
        if sum(not is_void(other) for other in before) >= total:
            give_up(study, trial.number)
            return None
        try:
            trial.set_user_attr(WORKER, _this_process())
            trial.set_user_attr(BEAT, time.time())
        except UpdateFinishedTrialError:  # another process thought this one dead, and will replace the trial
            continue
        return trial
    return None


def give_up(study: Study, number: int) -> None:
    """End a trial without a result; another will take its place."""
    try:
        study.tell(number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):  # another process was quicker
        return


def is_void(trial: FrozenTrial) -> bool:
    """Whether a trial was given up without a result: its process died, was interrupted, or came too late."""
    return trial.state is TrialState.FAIL and ERROR not in trial.user_attrs


def counted(study: Study) -> int:
    """The number of trials that count towards the total: all but those that were given up."""
    return sum(not is_void(trial) for trial in study.get_trials(deepcopy=False))


def finished(study: Study) -> list[FrozenTrial]:
    """The trials that have a result: completed, pruned, or failed for a reason."""
    return [trial for trial in study.get_trials(deepcopy=False, states=DONE) if not is_void(trial)]


@contextmanager
def kept_alive(running: Callable[[], Sequence[Trial]]) -> Iterator[None]:
    """A context during which the trials that ``running`` lists get regular heartbeats."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(EVERY):
            for trial in running():
                if over.is_set():  # each write to a hanging storage takes a while
                    return
                try:
                    trial.set_user_attr(BEAT, time.time())
                except (OptunaError, OSError, RuntimeError):  # the trial just ended, or the storage is briefly away
                    continue

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def elsewhere(study: Study, mine: Sequence[int]) -> tuple[list[int], list[int]]:
    """Numbers of the running trials that are not mine, as (those of live processes, those of dead ones)."""
    alive: list[int] = []
    dead: list[int] = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.number not in mine:
            (dead if _is_orphan(trial) else alive).append(trial.number)
    return alive, dead


def _is_orphan(trial: FrozenTrial) -> bool:
    """Whether the trial's process is gone from this machine, or has sent no heartbeat for too long."""
    host, _, process = str(trial.user_attrs.get(WORKER, "")).rpartition(":")
    if host == socket.gethostname() and not _exists(int(process)):
        return True
    if BEAT in trial.user_attrs:
        return abs(time.time() - trial.user_attrs[BEAT]) > GRACE
    return trial.datetime_start is None or abs(datetime.now() - trial.datetime_start) > UNSIGNED


def _this_process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


class SpaceSampler(BaseSampler):
    """Optuna's TPE, reseeded for every trial, so that a resumed study continues as if never interrupted.

    The seed comes from the study's seed and the trial's number, which is unique, so any number of processes can
    share a study. Candidates without a block, and those already tried, are redrawn.

    defaults : parameters of the first trial. seed : of the study.
    """

    def __init__(self, space: SearchSpace, defaults: dict[str, Any], seed: int) -> None:
        self.space, self.defaults, self.seed = space, defaults, seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space: every trial has every parameter."""
        return self.space.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parameters of a new trial."""
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        if all(is_void(other) for other in others if other.number < trial.number):
            return self.defaults
        tried = [other.params for other in others] if math.isfinite(self.space.size) else []
        tpe = TPESampler(seed=self.seed_of(trial.number))
        params: dict[str, Any] = {}
        for _ in range(DRAWS):
            params = tpe.sample_relative(study, trial, search_space)
            for name, distribution in search_space.items():
                if name not in params:
                    params[name] = tpe.sample_independent(study, trial, name, distribution)
            if self.space.allows(params) and params not in tried:
                return params
        return params if self.space.allows(params) else self.defaults

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never called: `sample_relative` gives every parameter."""
        raise AssertionError(f"{param_name} is no parameter of the space")

    def seed_of(self, number: int) -> int:
        """The seed of the trial with that number."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}:{number}".encode()).digest()[:4])


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The differences, key by key, as "key: old -> new"."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return [] if old == new else [f"{where}: {_short(old)} -> {_short(new)}"]
    keys = dict.fromkeys([*old, *new])
    return [line for key in keys for line in _differences(old.get(key), new.get(key), f"{where} {key}".strip())]


def _short(value: Any) -> str:
    text = "none" if value is None else " ".join(str(value).split())
    return text[:12] if len(text) == 64 else shorten(text, 80)  # a fingerprint
