"""The winner's score on new images, corrected for the optimism of having picked the best of many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drexcache.bootstrap import Floats, resample_weights, resampled
from drexcache.metrics import higher_is_better

N_BOOT = 500


def corrected(
    metric: str, rated: Floats, predicted: Floats, groups: Sequence[str] | None = None, *, seed: int = 0
) -> tuple[float, float, float]:
    """The expected score of "search, then take the best" on new images, with its 95% interval (BBC-CV).

    The best of many candidates scores too well on the images it was chosen on. So the choice is repeated on
    bootstrap samples of the images: each time the best candidate on the sample is scored on the images that the
    sample left out (Tsamardinos, Greasidou & Borboudakis 2018, Bootstrapping the out-of-sample predictions for
    efficient and accurate cross-validation, Machine Learning 107, 1895-1922). This needs only the candidates'
    out-of-fold predictions and no training, whereas nested cross-validation needs one search per fold.

    Parameters
    ----------
    rated : (n,). predicted : (candidates, repeats, n), out of fold. groups : (n,) names; images with the same
        name (copies of one image) are resampled together.

    >>> rng = np.random.default_rng(0)
    >>> rated, noise = rng.normal(size=100), rng.normal(size=(200, 1, 100))  # 200 candidates of pure noise
    >>> best = max(np.corrcoef(rated, one[0])[0, 1] for one in noise)
    >>> round(float(best), 2), round(corrected("pearson", rated, noise)[0], 2)
    (0.22, -0.07)
    """
    sign = 1.0 if higher_is_better(metric) else -1.0
    weights = np.concatenate(list(resample_weights(len(rated), N_BOOT, seed, groups)))  # (b, n)
    inside = np.stack([sign * _mean_over_repeats(metric, rated, one, weights) for one in predicted])  # (candidates, b)
    chosen = np.where(np.isnan(inside), -np.inf, inside).argmax(axis=0)  # (b,)
    left_out = (weights == 0).astype(np.float64)
    scores = np.full(len(weights), np.nan)
    for candidate in np.unique(chosen):
        mine: NDArray[np.bool_] = chosen == candidate
        scores[mine] = _mean_over_repeats(metric, rated, predicted[candidate], left_out[mine])
    known = scores[np.isfinite(scores)]
    low, high = np.percentile(known, [2.5, 97.5])
    return float(known.mean()), float(low), float(high)


def _mean_over_repeats(metric: str, rated: Floats, predicted: Floats, weights: Floats) -> Floats:
    """One candidate's metric on every resample: predicted (repeats, n), weights (b, n) -> (b,)."""
    return np.mean([resampled(metric, rated, repeat, weights) for repeat in predicted], axis=0)
