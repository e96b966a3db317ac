"""compare: which of two regressors is better on the same images, or how many images it would take to tell."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from drexcache.bootstrap import Floats, image_loss, resample_weights, resampled, standard_error
from drexcache.errors import DrexcacheError, nearest, several
from drexcache.metrics import CORRELATIONS, METRICS, higher_is_better
from drexcache.scores import Entry, Table, number, p_text, render, score_entry, told_apart, train_to_test, write_records
from drexcache.studies.comparison.pairing import Paired, paired
from drexcache.studies.comparison.significance import ALPHA, holm, images_needed, paired_t_p, t_p, williams_p
from drexcache.studies.evaluation import FEW_GROUPS, Predictions

if TYPE_CHECKING:
    import pandas as pd

# Regressors that have no seed, or scores that do not depend on it.
NO_SEED = ("mean", "ridge", "elastic-net", "pls", "kernel-ridge", "svr", "neighbours", "gaussian-process")
ROUNDING = 1e-5  # of predictions on [0, 1]: closer ones are the same


@dataclass(frozen=True)
class Pair:
    """Two regressors on the same n images of one cell.

    first_value, second_value : the metric, mean over seeds and repeats; difference : first minus second, with
        its 95% interval (low, high) by the paired bootstrap.
    first_seed_sd, second_seed_sd : standard deviation over seeds, None with one seed; the interval and p include it.
    p : under the null hypothesis of no difference; p_holm : corrected for the number of comparisons.
    verdict : of the first: "better", "worse", "within noise", "the same" or "undefined".
    needed : images needed to tell, if the verdict is within noise.
    """

    kind: str
    train: str
    test: str
    first: str
    second: str
    metric: str
    n: int
    first_value: float | None
    second_value: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    first_seed_sd: float | None = None
    second_seed_sd: float | None = None
    p: float | None = None
    p_holm: float | None = None
    verdict: str = "undefined"
    needed: int | None = None

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        if self.verdict == "undefined":
            return "undefined (constant predictions)"
        if self.verdict == "the same":
            return "no difference at all"
        if self.verdict != "within noise":
            return f"{self.first if self.verdict == 'better' else self.second} is better"
        if self.needed is None:
            return "within noise: you would need more than a million images to tell"
        return f"within noise: you would need about {several(self.needed, 'image')} to tell"

    @property
    def difference_entry(self) -> Entry:
        """The difference with its interval, faint if not significant, empty if undefined."""
        entry = score_entry(self.difference, self.low, self.high, sign=True, missing="")
        return replace(entry, faint=self.verdict not in ("better", "worse"))


@dataclass(frozen=True)
class Comparison:
    """All compared pairs, and notes on what was compared."""

    pairs: list[Pair]
    notes: list[str]

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a row per pair and the fields of `Pair`; undefined values are NaN."""
        import pandas as pd

        return pd.DataFrame([astuple(pair) for pair in self.pairs], columns=[field.name for field in fields(Pair)])

    def to_csv(self, path: str | Path) -> None:
        """Write one line per pair."""
        write_records(path, [field.name for field in fields(Pair)], [astuple(pair) for pair in self.pairs])

    def markdown(self) -> str:
        """A markdown table with a line per pair, the verdict last; pairs whose metric is undefined are listed below."""
        return render(self.tables(), self.caveats())

    def _repr_html_(self) -> str:
        return render(self.tables(), self.caveats(), "html")

    def latex(self) -> str:
        """The same table in LaTeX, with booktabs."""
        return render(self.tables(), self.caveats(), "latex")

    def tables(self) -> list[Table]:
        """A table of the pairs whose metric is defined, or none."""
        defined = [pair for pair in self.pairs if pair.difference is not None]
        seeds = any(pair.first_seed_sd is not None or pair.second_seed_sd is not None for pair in defined)
        headers = [
            "train → test", "pair", "images", "first", "second", "difference [95% interval]", "p (Holm)", "verdict",
        ]  # fmt: skip
        body: list[list[Entry | str]] = [
            [
                train_to_test(pair.train, pair.test, pair.kind), f"{pair.first} − {pair.second}", str(pair.n),
                score_entry(pair.first_value), score_entry(pair.second_value), pair.difference_entry,
                p_text(pair.p_holm), pair.sentence,
                *[", ".join(number(sd, missing="?") for sd in (pair.first_seed_sd, pair.second_seed_sd))] * seeds,
            ]
            for pair in defined
        ]  # fmt: skip
        return [Table("", [*headers, *["SD over seeds"] * seeds], body)] if body else []

    def caveats(self) -> list[str]:
        """A sentence for each pair whose metric is undefined, then the notes."""
        undefined = [
            f"{train_to_test(pair.train, pair.test, pair.kind)}: {pair.first} − {pair.second} is {pair.sentence}"
            for pair in self.pairs
            if pair.difference is None
        ]
        return [*undefined, *self.notes]


def compare(
    predictions: Predictions | pd.DataFrame, metric: str = "pearson", *, regressors: Sequence[str] | None = None,
    against: str | None = None, kind: str | None = None, match: bool = False, n_boot: int = 2000, seed: int = 0,
) -> Comparison:  # fmt: skip
    """Compare every two regressors on the images that both predicted, cell by cell.

    The interval of a difference comes from a paired bootstrap over images (over groups, if the predictions have
    10 or more): both regressors are scored on the same resamples. Its p comes from Student's t of
    difference / standard error; errors without groups use the paired t test of the images' losses instead.
    With several seeds, the variance of a mean over so many of them is added to that over images, with degrees of
    freedom by Welch & Satterthwaite.
    Pearson and Spearman must also pass Williams' test for dependent correlations, and p is the larger of the two:
    on ranks and with uneven errors, Williams' test alone reports a difference in 7 to 18% of cases without one.
    In our simulations of 40 and 150 images, with even, uneven and heavy-tailed errors, the false alarm rate was 0
    to 4% for correlations and 3 to 6% for errors; for ranks of fewer than 100 images the intervals are rather wide.

    All p are corrected by Holm's method (1979, Scand. J. Statist. 6, 65-70) over all pairs of the call. Below 0.05
    the verdict is "better" or "worse". Otherwise `needed` is the number of images at which a difference of the
    observed size would be found with 80% probability:
    n * ((z(1 - 0.05 / pairs / 2) + z(0.8)) / z(1 - p / 2))^2, to two digits, z(q) a normal quantile.
    If the true difference is smaller than the observed one, more images are needed.

    The metric is averaged over seeds and repeats; its standard deviation over seeds is reported separately.

    Parameters
    ----------
    predictions : as `drexcache.studies.evaluate` returns them, or a data frame with the same columns.
    regressors : only these. against : compare all others with this one only; default: every two.
    kind : only cells of this kind, such as "in-domain"; the correction then counts only their pairs.
    match : if the regressors predicted different images, compare only those that all predicted.

    Raises
    ------
    DrexcacheError : no cell with two regressors, an unknown regressor or metric, different images without `match`,
        an image with different ratings, or fewer than 10 images in common.
    """
    if metric not in METRICS:
        raise DrexcacheError(f"no metric named {metric}; {nearest(metric, METRICS)}")
    if not isinstance(predictions, Predictions):
        predictions = Predictions.from_pandas(predictions)
    if against is not None and against not in predictions.regressors:
        raise DrexcacheError(f"no predictions of {against}; {nearest(against, predictions.regressors)}")
    pairs, notes = [], []
    for cell in paired(predictions, regressors, kind, match):
        names = list(cell.predicted)
        if against is None:
            chosen = list(combinations(names, 2))
        else:
            chosen = [(name, against) for name in names if name != against and against in names]
        notes += cell.notes
        pairs += _pairs(cell, chosen, metric, n_boot, seed)
    if not pairs:
        raise DrexcacheError(f"nothing to compare: no other regressor predicts a test set of {against}")
    alone = dict.fromkeys(name for pair in pairs for name in _of_one_seed(pair))
    if alone:
        notes.append(f"{', '.join(alone)}: how far seeds alone move scores is unknown; evaluate with several --seed")
    return Comparison(_with_verdicts(pairs), notes)


def join(files: Mapping[str, Predictions]) -> Predictions:
    """Join the predictions of several files; a regressor that is in more than one gets the file's label.

    files : label -> predictions.
    """
    return Predictions(told_apart({label: one.runs for label, one in files.items()}))


def _of_one_seed(pair: Pair) -> list[str]:
    """Those of its two regressors that another seed could change, but that have one seed alone."""
    both = ((pair.first, pair.first_seed_sd), (pair.second, pair.second_seed_sd))
    plain = {name: re.split(r", | \(", name.rpartition(": ")[2])[0] for name, _ in both}  # "a.csv: ridge, only dino"
    return [name for name, sd in both if sd is None and pair.difference is not None and plain[name] not in NO_SEED]


def _pairs(cell: Paired, chosen: Sequence[tuple[str, str]], metric: str, n_boot: int, seed: int) -> list[Pair]:
    """The chosen pairs of a cell, without corrected p and verdict."""
    groups = cell.groups if len(set(cell.groups)) >= FEW_GROUPS else None
    units = len(set(groups)) if groups is not None else len(cell.rated)
    values = {name: _values(cell, name, metric) for name in cell.predicted}
    defined = {name: own for name, own in values.items() if own is not None}
    drawn: dict[str, list[Floats]] = {name: [] for name in defined}
    for weights in resample_weights(len(cell.rated), n_boot, seed, groups):
        for name in defined:  # the same resamples for all regressors make the bootstrap paired
            resamples = [resampled(metric, cell.rated, one, weights) for one in cell.predicted[name]]
            drawn[name].append(np.mean(resamples, axis=0))
    means = {name: statistics.fmean(own) for name, own in defined.items()}
    pairs = []
    for first, second in chosen:
        pair = Pair(
            kind=cell.kind, train=cell.train, test=cell.test, first=first, second=second, metric=metric,
            n=len(cell.rated), first_value=means.get(first), second_value=means.get(second),
        )  # fmt: skip
        if first in means and second in means:
            difference = np.concatenate(drawn[first]) - np.concatenate(drawn[second])
            spreads = [_seed_sd(cell.seeds[name], values[name]) for name in (first, second)]
            pair = replace(pair, first_seed_sd=spreads[0], second_seed_sd=spreads[1])
            pair = _tested(pair, cell, means[first] - means[second], standard_error(difference, units), units)
        pairs.append(pair)
    return pairs


def _values(cell: Paired, name: str, metric: str) -> list[float] | None:
    """The metric of each of the regressor's runs; None if it is undefined for any."""
    if metric in CORRELATIONS and cell.constant[name]:
        return None
    values = [METRICS[metric](cell.rated, one) for one in cell.predicted[name]]
    defined = [value for value in values if value is not None]
    return defined if len(defined) == len(values) else None


def _tested(pair: Pair, cell: Paired, difference: float, error: float, units: int) -> Pair:
    """The pair with its difference, interval and p; ``error``: the difference's standard error over images."""
    first, second = cell.predicted[pair.first], cell.predicted[pair.second]
    if first.shape == second.shape and np.allclose(first, second, rtol=0, atol=ROUNDING):
        return replace(pair, difference=0.0, low=0.0, high=0.0, p=1.0)
    counts = [len(set(cell.seeds[name])) for name in (pair.first, pair.second)]
    spreads = [(sd or 0.0) for sd in (pair.first_seed_sd, pair.second_seed_sd)]
    seeds = [(sd**2 / count, count - 1) for sd, count in zip(spreads, counts, strict=True) if sd]
    error, degrees = _with_seeds(error, units - 1, seeds)
    reach = -float(special.stdtrit(degrees, ALPHA / 2)) * error
    pair = replace(pair, difference=difference, low=difference - reach, high=difference + reach)
    p = float(t_p(difference / error, degrees)) if error > 0 else float(difference == 0)
    if pair.metric not in CORRELATIONS and units == pair.n:
        losses = [image_loss(pair.metric, cell.rated, one).mean(axis=0) for one in (first, second)]
        by_image = paired_t_p(*losses) if np.ptp(losses[0] - losses[1]) > 0 else p
        p = max(p, by_image) if seeds else by_image
    if pair.metric in ("pearson", "spearman"):
        mutual = _mutual(first, second, pair.metric)
        p = max(p, float(williams_p(pair.first_value or 0.0, pair.second_value or 0.0, mutual, pair.n)))
    return replace(pair, p=p)


def _with_seeds(error: float, degrees: float, seeds: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """A standard error and its degrees of freedom with the variances of two means over seeds, and theirs, added."""
    variances = [(error**2, degrees), *seeds]
    total = sum(variance for variance, _ in variances)
    if not seeds or total == 0:
        return error, degrees
    return math.sqrt(total), total**2 / sum(variance**2 / own for variance, own in variances)


def _mutual(first: Floats, second: Floats, metric: str) -> float:
    """Mean correlation between the runs of two regressors, (runs, n) each."""
    if metric == "spearman":
        from scipy.stats import rankdata

        first, second = rankdata(first, axis=1), rankdata(second, axis=1)
    a, b = (runs - runs.mean(axis=1, keepdims=True) for runs in (first, second))
    a, b = (runs / np.sqrt((runs**2).sum(axis=1, keepdims=True)) for runs in (a, b))
    return float(np.clip((a @ b.T).mean(), -1, 1))


def _seed_sd(seeds: Sequence[int], values: Sequence[float] | None) -> float | None:
    """The metric's standard deviation over seeds, after averaging over repeats."""
    if values is None or len(set(seeds)) < 2:
        return None
    by_seed: dict[int, list[float]] = {}
    for seed, value in zip(seeds, values, strict=True):
        by_seed.setdefault(seed, []).append(value)
    return statistics.stdev(statistics.fmean(own) for own in by_seed.values())


def _with_verdicts(pairs: Sequence[Pair]) -> list[Pair]:
    """All pairs with their corrected p and verdict."""
    tested = [pair for pair in pairs if pair.p is not None]
    corrected = iter(holm([pair.p for pair in tested if pair.p is not None]))
    done = []
    for pair in pairs:
        if pair.p is None or pair.difference is None:
            done.append(pair)
            continue
        p_holm = next(corrected)
        verdict, needed = "within noise", None
        if p_holm < ALPHA:
            verdict = "better" if (pair.difference > 0) == higher_is_better(pair.metric) else "worse"
        elif pair.low == pair.high:
            verdict = "the same"
        else:
            needed = images_needed(pair.p, pair.n, len(tested))
        done.append(replace(pair, p_holm=p_holm, verdict=verdict, needed=needed))
    return done
