"""The summary that opens a report: which regressor is best, how certain that is, and how it transfers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from drexcache.errors import several
from drexcache.metrics import higher_is_better
from drexcache.scores import number
from drexcache.studies.comparison import ALPHA, Comparison, Pair
from drexcache.studies.reporting.drawing import SYMBOLS
from drexcache.studies.reporting.evidence import INSIDE, Evidence, Result

MOST_NAMED = 3  # regressors in a sentence; the tables list all


@dataclass(frozen=True)
class Findings:
    """headline : one sentence. sentences : one per dataset, then the others. leader : the regressor to show first."""

    headline: str
    sentences: list[str]
    leader: str


def summarise(evidence: Evidence, comparison: Comparison) -> Findings:
    """Put the verdicts of `compare` into words; nothing is called better without such a verdict.

    The headline is about the scores within the datasets, or about all scores if there are none within. The leader is
    the regressor with the best mean among those that no verdict calls worse.
    """
    means = _means(evidence)
    pairs = [pair for pair in comparison.pairs if pair.kind in INSIDE] or comparison.pairs
    tested = [pair for pair in pairs if pair.p_holm is not None]
    in_play = [name for name in means if any(name in (pair.first, pair.second) for pair in tested)]
    unbeaten = [name for name in in_play if not any(_loser(pair) == name for pair in tested)]
    leader = (unbeaten or in_play or list(means))[0]
    if not in_play:
        headline = _alone(evidence, leader)
    elif not unbeaten:
        headline = _mixed(leader, means, tested, evidence)
    elif len(in_play) > len(unbeaten) > MOST_NAMED:
        headline = _of_many(leader, in_play, means, tested, evidence)
    else:
        headline = _led(unbeaten, [name for name in in_play if name not in unbeaten], tested)
    datasets = [test for test in evidence.images if _inside(evidence, test)]
    sentences = [_dataset(evidence, test, list(means), comparison.pairs) for test in datasets]
    sentences += [*_transfer(evidence, leader), *_certainty(comparison.pairs)]
    constant = sorted({name for pair in comparison.pairs if pair.p_holm is None for name in _undefined(pair)})
    if constant:
        sentences.append(f"{_and(constant)} cannot be compared: the predictions are constant.")
    return Findings(headline, sentences, leader)


def leaders(evidence: Evidence) -> list[Result]:
    """The best result within each dataset, or the best of each cell if there are none within."""
    cells: dict[tuple[str, str, str], list[Result]] = {}
    for result in _headline_results(evidence):
        cells.setdefault(result.cell, []).append(result)
    return [_best(own) for own in cells.values()]


def _headline_results(evidence: Evidence) -> list[Result]:
    return [result for result in evidence.results if result.inside] or evidence.results


def _means(evidence: Evidence) -> dict[str, float]:
    """Regressor -> mean value, best first; regressors without a value last."""
    values: dict[str, list[float]] = {name: [] for name in evidence.regressors}
    for result in _headline_results(evidence):
        values[result.regressor] += [] if result.value is None else [result.value]
    sign = -1 if higher_is_better(evidence.results[0].metric) else 1
    means = {name: statistics.fmean(own) if own else float("nan") for name, own in values.items()}
    return dict(sorted(means.items(), key=lambda item: sign * item[1] if values[item[0]] else float("inf")))


def _best(results: Sequence[Result]) -> Result:
    sign = 1 if higher_is_better(results[0].metric) else -1
    return max(results, key=lambda one: float("-inf") if one.value is None else sign * one.value)


def _loser(pair: Pair) -> str | None:
    return {"better": pair.second, "worse": pair.first}.get(pair.verdict)


def _undefined(pair: Pair) -> list[str]:
    return [name for name, value in ((pair.first, pair.first_value), (pair.second, pair.second_value)) if value is None]


def _alone(evidence: Evidence, name: str) -> str:
    """The headline for a regressor without a rival: the only one, or the only one with a value."""
    results = [result for result in _headline_results(evidence) if result.regressor == name]
    if len(results) == 1:
        said = f"{_quoted(name)} predicts the ratings of {results[0].title} with {_of(results[0])}"
        return f"{said}; there is nothing to compare it with."
    known = [result.value for result in results if result.value is not None]
    metric = SYMBOLS[results[0].metric]
    if not known:
        return f"{_quoted(name)} says the same of every image: its {metric} is undefined."
    said = f"{_quoted(name)} reaches {metric} from {number(min(known), digits=2)} to {number(max(known), digits=2)}"
    return f"{said} on {len(results)} test sets; there is nothing to compare it with."


def _led(unbeaten: Sequence[str], beaten: Sequence[str], tested: Sequence[Pair]) -> str:
    """The headline for a few regressors: those that no verdict calls worse."""
    if not beaten:
        return f"Nothing separates {_and(unbeaten)}: every difference is within noise."
    if len(unbeaten) > 1:
        return f"{_and(unbeaten)} lead, and nothing separates them; {_lost(beaten, tested)}."
    name, against = _quoted(unbeaten[0]), _of_pairs(tested, unbeaten[0])
    won, compared = sum(_loser(pair) is not None for pair in against), len(against)
    if won == compared:
        return f"{name} is the best: better in " + (f"all {won} comparisons." if won > 1 else "the only comparison.")
    return f"{name} is ahead: better in {won} of {compared} comparisons, within noise in the others."


def _of_many(
    leader: str, in_play: Sequence[str], means: dict[str, float], tested: Sequence[Pair], evidence: Evidence
) -> str:
    """The headline for many regressors, such as an ablation's: the leader and how many it beats."""
    behind = {_loser(pair) for pair in _of_pairs(tested, leader)} - {None}
    left = len(in_play) - 1 - len(behind)
    better = f"better than {len(behind)} of the {len(in_play) - 1} others" if behind else "better than none for certain"
    return f"{_quoted(leader)} leads with {_mean(leader, means, evidence)}: {better}, within noise of {left}."


def _mixed(leader: str, means: dict[str, float], tested: Sequence[Pair], evidence: Evidence) -> str:
    """The headline if every regressor loses somewhere: which has the best mean, and which one beats it where."""
    lost = [pair for pair in _of_pairs(tested, leader) if _loser(pair) == leader]
    rival = lost[0].second if lost[0].first == leader else lost[0].first
    more = f" and in {several(len(lost) - 1, 'more comparison')}" if len(lost) > 1 else ""
    return (
        f"{_quoted(leader)} has the best mean, {_mean(leader, means, evidence)}, but no regressor is best everywhere: "
        f"it is worse than {_quoted(rival)} on {lost[0].test}{more}."
    )


def _mean(name: str, means: dict[str, float], evidence: Evidence) -> str:
    """ "r = 0.871 on average over 6 test sets"."""
    sets = len({result.cell for result in _headline_results(evidence)})
    over = f" on average over {sets} test sets" if sets > 1 else ""
    return f"{SYMBOLS[evidence.results[0].metric]} = {number(means[name])}{over}"


def _of_pairs(tested: Sequence[Pair], name: str) -> list[Pair]:
    return [pair for pair in tested if name in (pair.first, pair.second)]


def _lost(beaten: Sequence[str], tested: Sequence[Pair]) -> str:
    if len(beaten) > MOST_NAMED:
        return f"{len(beaten)} others are worse in some comparison"
    parts = []
    for name in beaten:
        own = _of_pairs(tested, name)
        lost = sum(_loser(pair) == name for pair in own)
        parts.append(
            f"{_quoted(name)} is worse" + ("" if lost == len(own) else f" in {lost} of {len(own)} comparisons")
        )
    return _joined(parts)


def _inside(evidence: Evidence, test: str) -> list[Result]:
    return [result for result in evidence.results if result.inside and result.test == test]


def _dataset(evidence: Evidence, test: str, ranked: Sequence[str], pairs: Sequence[Pair]) -> str:
    """The best regressor within one dataset, and the verdict on each of the others."""
    results = sorted(_inside(evidence, test), key=lambda one: ranked.index(one.regressor))
    first = _best(results)
    told = [f"{_quoted(first.regressor)}, {_of(first)}"]
    others = [one for one in results if one is not first]
    for one in others[:MOST_NAMED]:
        ours = {first.regressor, one.regressor}
        pair = next((p for p in pairs if {p.first, p.second} == ours and (p.kind, p.train, p.test) == one.cell), None)
        value = "undefined" if one.value is None else number(one.value)
        told.append(f"{_quoted(one.regressor)} {value}" + (f" ({_verdict(pair, first.regressor)})" if pair else ""))
    if len(others) > MOST_NAMED:
        told.append(f"{len(others) - MOST_NAMED} more in the table")
    return f"{test} ({several(len(first.ids), 'image')}): {'; '.join(told)}."


def _verdict(pair: Pair, leader: str) -> str:
    if pair.verdict == "within noise":
        return "within noise" + (f", about {pair.needed:,} images would tell" if pair.needed else "")
    if pair.verdict in ("the same", "undefined"):
        return {"the same": "no difference at all", "undefined": "constant predictions"}[pair.verdict]
    return "worse" if _loser(pair) != leader else "better by the paired test"


def _transfer(evidence: Evidence, leader: str) -> list[str]:
    """How the leader scores on datasets it was not trained on, compared with its own."""
    own = [result for result in evidence.of(leader) if result.value is not None]
    home = {result.test: result.value for result in own if result.inside and result.value is not None}
    matched = [
        (result, result.value)
        for result in own
        if result.kind == "cross" and result.value is not None and result.test in home
    ]
    if not matched:
        return []
    metric = own[0].metric
    here = statistics.fmean(home[result.test] for result, _ in matched)
    there = statistics.fmean(value for _, value in matched)
    weakest, _ = min(matched, key=lambda one: one[1] if higher_is_better(metric) else -one[1])
    return [
        f"On a dataset it was not trained on, {_quoted(leader)} has a mean {SYMBOLS[metric]} of {number(there)} "
        f"instead of {number(here)}; weakest is {weakest.title}, {_of(weakest)}."
    ]


def _certainty(pairs: Sequence[Pair]) -> list[str]:
    tested = [pair for pair in pairs if pair.p_holm is not None]
    if not tested:
        return []
    if len(tested) == 1:
        verdict = "beyond noise" if _loser(tested[0]) else "within noise"
        return [f"The difference is {verdict}: p = {tested[0].p_holm:.2g} on the same images."]
    inside = [pair for pair in tested if pair.kind in INSIDE]
    across = [pair for pair in tested if pair.kind not in INSIDE]
    counts = [
        f"{sum(_loser(pair) is not None for pair in own)} of {len(own)} {where}"
        for own, where in (
            (inside, "differences inside the datasets"),
            (across, "across them" if inside else "differences"),
        )
        if own
    ]
    return [
        f"{' and '.join(counts)} are beyond noise: p below {ALPHA:g} on the same images, after Holm's correction for "
        "that many comparisons."
    ]


def _of(result: Result) -> str:
    metric = SYMBOLS[result.metric]
    if result.value is None:
        return f"{metric} {result.score}"
    return f"{metric} = {result.score}" + (f", {result.share}" if result.share else "")


def _and(names: Sequence[str]) -> str:
    """Join names for a sentence; of many, only the first is named.

    >>> _and(["ridge", "svr, only dino"]), _and("abcde")
    ('ridge and “svr, only dino”', 'a and 4 others')
    """
    if len(names) > MOST_NAMED:
        return f"{_quoted(names[0])} and {len(names) - 1} others"
    return _joined([_quoted(name) for name in names])


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _quoted(name: str) -> str:
    """The name, in quotation marks if it has a comma or colon that would break the sentence."""
    return f"“{name}”" if "," in name or ":" in name else name
