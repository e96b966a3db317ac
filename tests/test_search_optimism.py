"""The corrected score of a winner: no bonus for having been chosen, checked where the truth is known."""

import numpy as np
import pytest

from drexcache import metrics
from drexcache.studies.searching.optimism import corrected


def test_one_candidate_has_nothing_to_correct() -> None:
    rng = np.random.default_rng(0)
    rated = rng.normal(size=200)
    predicted = rated + rng.normal(size=200)
    score, low, high = corrected("pearson", rated, predicted[None, None])
    assert score == pytest.approx(metrics.pearson(rated, predicted), abs=0.02)
    assert low < score < high


@pytest.mark.parametrize("metric", ["pearson", "spearman", "rmse", "mae"])
def test_the_best_of_many_equals_is_worth_what_each_is_worth(metric: str) -> None:
    """50 candidates of the same true quality: the winner's own score is too good, the corrected one is right."""
    winners, estimates, truths = [], [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        rated = rng.normal(size=100)
        predicted = rated + rng.normal(size=(50, 1, 100))
        scores = [metrics.METRICS[metric](rated, one[0]) for one in predicted]
        winners.append((max if metrics.higher_is_better(metric) else min)(scores))
        estimates.append(corrected(metric, rated, predicted)[0])
        truths.append(np.mean(scores))
    truth, sign = np.mean(truths), 1 if metrics.higher_is_better(metric) else -1
    optimism = sign * (np.mean(winners) - truth)
    assert optimism > 0.04
    assert abs(np.mean(estimates) - truth) < 0.35 * optimism


def test_a_real_winner_keeps_its_score() -> None:
    rng = np.random.default_rng(1)
    rated = rng.normal(size=300)
    good, bad = rated + 0.5 * rng.normal(size=(1, 1, 300)), rng.normal(size=(30, 1, 300))
    score = corrected("pearson", rated, np.concatenate([bad, good]))[0]
    assert score == pytest.approx(metrics.pearson(rated, good[0, 0]), abs=0.01)


def test_copies_are_drawn_together() -> None:
    """Copies on both sides would let a candidate be scored on what it was chosen by."""
    rng = np.random.default_rng(2)
    rated, predicted = rng.normal(size=50), rng.normal(size=(100, 1, 50))
    twice = np.concatenate([rated, rated]), np.concatenate([predicted, predicted], axis=2)
    groups = [str(i % 50) for i in range(100)]
    apart, together = corrected("pearson", *twice)[0], corrected("pearson", *twice, groups)[0]
    assert together == pytest.approx(corrected("pearson", rated, predicted)[0], abs=0.05)
    assert apart > together + 0.03
