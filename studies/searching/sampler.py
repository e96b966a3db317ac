"""How a search proposes candidates: the defaults first, then at random, then by Optuna's TPE."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from drexcache.studies.searching.space import SearchSpace
from drexcache.studies.searching.storage import is_void

STARTUP = 10  # trials before the model of the space takes over
RECENT, BEST = 50, 25  # trials that the model sees: its time per trial must not grow with the study
ATTEMPTS = 50


class SpaceSampler(BaseSampler):
    """Multivariate TPE, with a generator of its own for every trial, so that a continued study goes on as if never cut.

    The seed comes from the study's seed and the trial's number, which the storage gives to one process only: any
    number of processes may share a study. Nothing is kept in the storage but plain JSON. Candidates without a block,
    and those that were tried before, are drawn again.

    seed : of the study. start : parameters of trial 0.
    """

    def __init__(self, space: SearchSpace, start: dict[str, Any], seed: int) -> None:
        self.space, self.start, self.seed = space, start, seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All of it: every trial has every parameter."""
        return self.space.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parameters of a new trial."""
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        if all(is_void(other) for other in others if other.number < trial.number):
            return self.start
        tried = {_key(other.params) for other in others} if math.isfinite(self.space.size) else set()
        tpe = TPESampler(n_startup_trials=STARTUP, seed=self._seed(trial.number), multivariate=True, constant_liar=True)
        view = _Recent(study.study_name, study._storage)
        view.sampler = tpe
        params: dict[str, Any] = {}
        for _ in range(ATTEMPTS):
            params = tpe.sample_relative(view, trial, search_space)
            for name, distribution in search_space.items():
                if name not in params:
                    params[name] = tpe.sample_independent(view, trial, name, distribution)
            if self.space.allows(params) and _key(params) not in tried:
                return params
        return params if self.space.allows(params) else self.start

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never needed: `sample_relative` gives every parameter."""
        raise AssertionError(f"{param_name} is no parameter of the space")

    def _seed(self, number: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.seed}:{number}".encode()).digest()[:4])


class _Recent(Study):
    """A study that shows its best and its latest trials only.

    TPE's time per trial grows with the trials that it sees, and older ones beyond the best hardly move its densities.
    """

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy=deepcopy, states=states, use_cache=use_cache)
        old: Sequence[FrozenTrial] = [trial for trial in trials[:-RECENT] if trial.state is TrialState.COMPLETE]
        sign = -1 if self.direction.name == "MAXIMIZE" else 1
        return sorted(old, key=lambda trial: sign * trial.values[0])[:BEST] + trials[-RECENT:]


def _key(params: dict[str, Any]) -> tuple:
    return tuple(sorted(params.items(), key=lambda item: item[0]))
