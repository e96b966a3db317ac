"""The numbers behind figures: the calibration line with its intervals, and points spread by their density."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from drexcache.bootstrap import Floats


@dataclass(frozen=True)
class Band:
    """A least-squares line of rated on predicted with 95% intervals, (k,) each.

    at : predictions. line : mean rating there. mean, single : how far the interval of that mean, and of a
    single image's rating, reach from it.
    """

    at: Floats
    line: Floats
    mean: Floats
    single: Floats


def calibration_band(rated: Floats, predicted: Floats, steps: int = 40) -> Band | None:
    """The calibration line over the range of the predictions; None where these are constant.

    Intervals of simple linear regression with Student's t, as in Draper & Smith (1998), Applied Regression
    Analysis, 3rd ed., sections 1.4 and 3.1.

    >>> band = calibration_band(np.array([0.0, 1, 2, 3]), np.array([0.0, 2, 4, 6]))
    >>> band.line[[0, -1]].tolist(), round(float(band.mean.max()), 6)
    ([0.0, 3.0], 0.0)
    """
    n = len(predicted)
    centred = predicted - predicted.mean()
    square = float(centred @ centred)
    if n < 3 or np.ptp(predicted) <= 1e-12 * np.abs(predicted).max():
        return None
    slope = float(centred @ rated) / square
    error = np.sqrt(((rated - rated.mean() - slope * centred) ** 2).sum() / (n - 2))
    at = np.linspace(predicted.min(), predicted.max(), steps)
    variance = 1 / n + (at - predicted.mean()) ** 2 / square
    t = stats.t.ppf(0.975, n - 2)
    line = rated.mean() + slope * (at - predicted.mean())
    return Band(at, line, t * error * np.sqrt(variance), t * error * np.sqrt(1 + variance))


def spread_out(values: Floats) -> Floats:
    """Offsets (n,) on [-1, 1] that show where values are dense: a violin made of points.

    The places inside the violin follow the golden ratio's multiples, which are even and the same every time.

    >>> spread_out(np.array([1.0, 1.0])).round(2).tolist()
    [-1.0, 0.24]
    """
    n = len(values)
    order = np.argsort(np.argsort(values, kind="stable"))
    even = np.asarray(2 * ((order * 0.6180339887498949) % 1.0) - 1, dtype=np.float64)
    if n < 3 or np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return even
    at = np.linspace(values.min(), values.max(), 200)
    density = np.interp(values, at, stats.gaussian_kde(values)(at))
    return np.asarray(even * density / density.max(), dtype=np.float64)
