"""ablate: what each part of the features contributes: each block and tap alone, all but one, and the ways to fuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from drexcache.cache import FeatureMatrix
from drexcache.errors import DrexcacheError, counted, listed
from drexcache.regressors import make_regressor
from drexcache.scores import NAMES, NOTE_ENDS, Entry, ScoreTable, Table, p_text, score_entry
from drexcache.studies.comparison.verdicts import Comparison, Pair, compare
from drexcache.studies.evaluation import Predictions, Progress, evaluate, kept_together


@dataclass(frozen=True)
class Variant:
    """One line of an ablation.

    name : such as "only dino"; "" for everything. parts : block -> the taps it keeps. settings : the regressor's
    settings that change. one_arm : whether all columns form one block.
    """

    name: str
    parts: dict[str, list[str]]
    settings: dict[str, Any] = field(default_factory=dict)
    one_arm: bool = False

    def features(self, matrix: FeatureMatrix) -> FeatureMatrix:
        """The columns that remain; each block keeps its name, and with it its arm."""
        chosen = matrix.select([tap for taps in self.parts.values() for tap in taps])
        blocks = {
            name: slice(chosen.blocks[taps[0]].start, chosen.blocks[taps[-1]].stop) for name, taps in self.parts.items()
        }
        if self.one_arm:
            blocks = {"all": slice(0, chosen.X.shape[1])}
        prints = {name: matrix.fingerprints.get(name.split("/")[0], "") for name in blocks}
        return replace(chosen, blocks=blocks, taps={}, fingerprints=prints)

    def make(self, name: str, matrix: FeatureMatrix, seed: int) -> Any:
        """The regressor of that name with the changed settings."""
        return make_regressor(name, matrix, seed).set_params(**self.settings)


@dataclass(frozen=True)
class Ablation:
    """Scores and predictions of all variants, which can be compared with "everything".

    A variant is listed under the regressor's name and its own, such as "ridge, only dino"; "everything" under the
    regressor's name alone. columns : that name -> the number of features.
    """

    scores: ScoreTable
    predictions: Predictions
    columns: dict[str, int]

    def compare(self, metric: str = "pearson") -> dict[str, Comparison]:
        """Regressor -> its variants compared with everything, p corrected for their number."""
        names = [name for name in self.columns if ", " not in name]
        variants = {name: [own for own in self.columns if own == name or own.startswith(name + ", ")] for name in names}
        return {name: compare(self.predictions, metric, regressors=own, against=name) for name, own in variants.items()}

    def tables(self, metric: str = "pearson") -> list[Table]:
        """A table per regressor, with each variant's score, its difference to everything and a verdict."""
        return [self._table(name, comparison, metric) for name, comparison in self.compare(metric).items()]

    def _table(self, name: str, comparison: Comparison, metric: str) -> Table:
        body: list[list[Entry | str]] = [["everything", str(self.columns[name]), self._score(name, metric), "", "", ""]]
        for pair in comparison.pairs:
            line: list[Entry | str] = [
                pair.first.removeprefix(f"{name}, "),
                str(self.columns[pair.first]),
                self._score(pair.first, metric),
            ]
            body.append([*line, pair.difference_entry, p_text(pair.p_holm), _verdict(pair)])
        pair = comparison.pairs[0]
        title = f"**{name} on {pair.test}, {pair.n} images ({pair.kind})**"
        headers = [
            "features",
            "columns",
            f"{NAMES[metric]} [95% interval]",
            "difference to everything",
            "p (Holm)",
            "verdict",
        ]
        return Table(title, headers, body)

    def _score(self, name: str, metric: str) -> Entry:
        (mean,) = self.scores.select(regressor=name, metric=metric, group="", calibrated=False).means().itertuples()
        return score_entry(mean.value, mean.low, mean.high)


def ablate(
    matrix: FeatureMatrix, regressors: Sequence[str], *, folds: int = 5, repeats: int = 1, seeds: Sequence[int] = (42,),
    split: str | None = None, level: str = "tap", progress: Progress | None = None,
) -> Ablation:  # fmt: skip
    """Score regressors on all features, on every block and tap alone, and on all features but one block or tap.

    A fusion head is also tried with all columns as one arm ("concatenated") and with fixed weights ("averaged").
    With the blocks of the recipe `drex` these are the rows of the DReX paper's ablation (arXiv 2511.16991). All
    variants share folds and seeds, so that they can be compared image by image.

    matrix : one dataset. regressors : names. level : "tap", or "block" for whole blocks only. The other parameters
    are as in `drexcache.studies.evaluate`.

    Raises
    ------
    DrexcacheError : the features are a single tap, so nothing can be left out; and as `drexcache.studies.evaluate`.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, blocks = rng.normal(size=(60, 5)).astype("f4"), {"a": slice(0, 2), "b": slice(2, 5)}
    >>> toy = FeatureMatrix(X, 0.5 + X[:, 0] / 9 + X[:, 4] / 9, [str(i) for i in range(60)], blocks, dataset="toy")
    >>> found = ablate(toy, ["ridge"])
    >>> [line[:2] for line in found.tables()[0].body]
    [['everything', '5'], ['only a', '2'], ['only b', '3']]
    """
    (matrix,) = listed(matrix, "matrix", FeatureMatrix)
    same, notes = kept_together(matrix)  # once, from all features, so that all variants share their folds
    matrix = replace(matrix, hashes=same)
    names = dict.fromkeys(listed(regressors, "regressors"))
    lines = {name: variants(matrix, make_regressor(name, matrix), level) for name in names}
    if not lines:
        raise DrexcacheError("name one or more regressors to ablate; found none")
    if min(map(len, lines.values())) < 2:
        only = "one tap of one block" if level == "tap" else "one block"
        raise DrexcacheError(f"{matrix.dataset}: the features are {only}: there is nothing to leave out")
    total, done = sum(map(len, lines.values())), 0
    found = Ablation(ScoreTable(), Predictions(), {})
    for name, own in lines.items():
        usual: list[str] = []  # the notes on all features; those of the variants repeat them with other numbers
        strange: list[str] = []
        for variant in own:
            label = f"{name}, {variant.name}" if variant.name else name
            features = variant.features(matrix)
            scores, predictions = evaluate(
                [features], [name], folds=folds, repeats=repeats, seeds=seeds, split=split, near_copies=False,
                make=variant.make, progress=_part(progress, label, done, total),
            )  # fmt: skip
            usual = usual if variant.name else [*scores.notes, *notes]
            strange += [variant.name] if set(scores.notes) - set(usual) else []
            found.scores.rows += [replace(row, regressor=label, note=NOTE_ENDS.join(usual)) for row in scores.rows]
            found.predictions.runs += [replace(run, regressor=label) for run in predictions.runs]
            found.columns[label] = features.X.shape[1]
            done += 1
        if strange:
            far = f"predictions of {name} lie far outside the ratings' range for {counted(strange)}, too"
            note = f"{matrix.dataset}: {far}"
            found.scores.rows[-1] = replace(found.scores.rows[-1], note=NOTE_ENDS.join([*usual, note]))
    return found


def variants(matrix: FeatureMatrix, estimator: Any, level: str = "tap") -> list[Variant]:
    """The variants to try, "everything" first, without those whose features repeat an earlier one's."""
    blocks = {name: _taps(matrix, name) for name in matrix.blocks}
    wanted: dict[str, dict[str, list[str]]] = {"": blocks}
    wanted |= {f"only {name}": {name: taps} for name, taps in blocks.items()}
    single = [(name, tap) for name, taps in blocks.items() for tap in taps] if level == "tap" else []
    wanted |= {f"only {tap}": {name: [tap]} for name, tap in single}
    for name in blocks:
        wanted[f"without {name}"] = {other: taps for other, taps in blocks.items() if other != name}
    for name, tap in single:
        fewer = {**blocks, name: [other for other in blocks[name] if other != tap]}
        wanted[f"without {tap}"] = {block: own for block, own in fewer.items() if own}
    found: dict[tuple[str, ...], Variant] = {}
    for label, parts in wanted.items():
        key = tuple(tap for own in parts.values() for tap in own)
        if key and key not in found:
            found[key] = Variant(label, parts)
    if not hasattr(estimator, "fixed_average") or len(blocks) < 2:
        return list(found.values())
    other_ways = [Variant("concatenated", blocks, one_arm=True), Variant("averaged", blocks, {"fixed_average": True})]
    return [*found.values(), *other_ways]


def _taps(matrix: FeatureMatrix, block: str) -> list[str]:
    """A block's taps, "block/tap", or the block itself if it has none."""
    return [tap for tap in matrix.taps if tap.startswith(block + "/")] or [block]


def _part(progress: Progress | None, label: str, before: int, total: int) -> Progress | None:
    """The progress of one variant, reported as a part of the whole ablation."""
    if progress is None:
        return None
    return lambda done, own, _: progress(before * own + done, total * own, label)


def _verdict(pair: Pair) -> str:
    return pair.verdict if pair.verdict in ("better", "worse") else pair.sentence
