"""A report's first words: which regressor, how sure, and what to know before believing it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from drexcache.metrics import higher_is_better
from drexcache.studies.comparison import ALPHA, Comparison, Pair
from drexcache.studies.reporting.figures import SYMBOLS
from drexcache.studies.reporting.results import Evidence, Result
from drexcache.studies.reporting.tables import number

MOST_NAMED = 3  # in a sentence; all stand in the tables


@dataclass(frozen=True)
class Summary:
    """headline : one sentence. sentences : one per dataset and one on transfer. leader : regressor to show first."""

    headline: str
    sentences: list[str]
    leader: str


def summarise(evidence: Evidence, comparison: Comparison) -> Summary:
    """Say what the verdicts amount to; nothing here is decided by anything but the verdicts of `compare`.

    The leader has no verdict against it and the best mean value inside the datasets (where there are none, of
    all cells); it is only called better where a verdict says so.
    """
    ranked = _ranked(evidence)
    tested = [pair for pair in comparison.pairs if pair.p_holm is not None]
    in_play = [name for name in ranked if any(name in (pair.first, pair.second) for pair in tested)]
    unbeaten = [name for name in in_play if not any(_loser(pair) == name for pair in tested)]
    leader = (unbeaten or ranked)[0]
    if in_play:
        headline = _headline(unbeaten, [name for name in in_play if name not in unbeaten], tested)
    else:
        headline = _alone(evidence, leader)
    inside = [_dataset(evidence, test, comparison.pairs) for test in evidence.datasets if _inside(evidence, test)]
    undefined = sorted({name for pair in comparison.pairs if pair.p_holm is None for name in _undefined(pair)})
    untold = [f"{_and(undefined)} cannot be compared: the predictions are constant."] if undefined else []
    return Summary(headline, [*inside, *_transfer(evidence, leader), *_certainty(tested), *untold], leader)


def leaders(evidence: Evidence) -> list[Result]:
    """The best result inside each dataset; where there are none, the best of each cell."""
    cells: dict[tuple[str, str, str], list[Result]] = {}
    for result in _headline_results(evidence):
        cells.setdefault(result.cell, []).append(result)
    return [_best(own) for own in cells.values()]


def _headline_results(evidence: Evidence) -> list[Result]:
    return [result for result in evidence.results if result.inside] or evidence.results


def _ranked(evidence: Evidence) -> list[str]:
    """Regressors by their mean value, best first; those without one last."""
    means = {}
    for name in evidence.regressors:
        values = [result.value for result in _headline_results(evidence) if result.regressor == name]
        known = [value for value in values if value is not None]
        sign = -1 if higher_is_better(evidence.results[0].metric) else 1
        means[name] = sign * statistics.fmean(known) if known else float("inf")
    return sorted(means, key=lambda name: means[name])


def _best(results: Sequence[Result]) -> Result:
    sign = 1 if higher_is_better(results[0].metric) else -1
    return max(results, key=lambda one: float("-inf") if one.value is None else sign * one.value)


def _loser(pair: Pair) -> str | None:
    return {"better": pair.second, "worse": pair.first}.get(pair.verdict)


def _undefined(pair: Pair) -> list[str]:
    return [name for name, value in ((pair.first, pair.first_value), (pair.second, pair.second_value)) if value is None]


def _alone(evidence: Evidence, name: str) -> str:
    """The only one that has a value, or the only one."""
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


def _headline(unbeaten: Sequence[str], beaten: Sequence[str], tested: Sequence[Pair]) -> str:
    """Whom the verdicts single out."""
    if not unbeaten:
        return "No regressor is best everywhere: each is worse than another in some comparison."
    if not beaten:
        return f"Nothing separates {_and(unbeaten)}: every difference is within noise."
    wins = [pair for pair in tested if _loser(pair) in beaten]
    if len(unbeaten) == 1:
        against = [pair for pair in tested if unbeaten[0] in (pair.first, pair.second)]
        won = [pair for pair in wins if pair in against]
        return _ahead(_quoted(unbeaten[0]), len(won), len(against))
    return f"{_and(unbeaten)} lead, and nothing separates them; {_lost(beaten, tested)}."


def _ahead(name: str, won: int, compared: int) -> str:
    """As sure as the share of comparisons that it won."""
    if won == compared:
        return f"{name} is the best: better in " + (f"all {won} comparisons." if won > 1 else "the only comparison.")
    if 2 * won >= compared:
        return f"{name} is the best choice: better in {won} of {compared} comparisons, worse in none."
    return f"{name} is ahead by little: better in {won} of {compared} comparisons, within noise in the others."


def _lost(beaten: Sequence[str], tested: Sequence[Pair]) -> str:
    if len(beaten) > MOST_NAMED:
        return f"{len(beaten)} others are worse in some comparison"
    return _joined([_beaten(one, tested) for one in beaten])


def _beaten(name: str, tested: Sequence[Pair]) -> str:
    own = [pair for pair in tested if name in (pair.first, pair.second)]
    lost = sum(_loser(pair) == name for pair in own)
    return f"{_quoted(name)} is worse" + ("" if lost == len(own) else f" in {lost} of {len(own)} comparisons")


def _inside(evidence: Evidence, test: str) -> list[Result]:
    return [result for result in evidence.results if result.inside and result.test == test]


def _dataset(evidence: Evidence, test: str, pairs: Sequence[Pair]) -> str:
    """The leader inside one dataset and what is known about each of the others."""
    results = _inside(evidence, test)
    first, ranked = _best(results), _ranked(evidence)
    others = []
    for one in sorted(results, key=lambda one: ranked.index(one.regressor)):
        if one is first:
            continue
        ours = {first.regressor, one.regressor}
        pair = next((p for p in pairs if {p.first, p.second} == ours and (p.kind, p.train, p.test) == one.cell), None)
        value = "undefined" if one.value is None else number(one.value)
        verdict = f" ({_verdict(pair, first.regressor)})" if pair else ""
        others.append(f"{_quoted(one.regressor)} {value}{verdict}")
    left = len(others) - MOST_NAMED
    told = others[:MOST_NAMED] + [f"{left} more in the table"] * (left > 0)
    return (
        f"{test} ({len(first.ids):,} images): " + "; ".join([f"{_quoted(first.regressor)}, {_of(first)}", *told]) + "."
    )


def _verdict(pair: Pair, leader: str) -> str:
    if pair.verdict == "within noise":
        return "within noise" + (f", about {pair.needed:,} images would tell" if pair.needed else "")
    if pair.verdict in ("the same", "undefined"):
        return {"the same": "no difference at all", "undefined": "constant predictions"}[pair.verdict]
    return "worse" if _loser(pair) != leader else "better by the paired test"


def _transfer(evidence: Evidence, leader: str) -> list[str]:
    """How much of the leader's score is left on datasets it was not trained on."""
    own = [result for result in evidence.results if result.regressor == leader and result.value is not None]
    across = [result for result in own if result.kind == "cross"]
    home = {result.test: result.value for result in own if result.inside and result.value is not None}
    matched = [result for result in across if result.test in home]
    if not matched:
        return []
    metric = SYMBOLS[matched[0].metric]
    here = statistics.fmean(home[result.test] for result in matched)
    there = statistics.fmean(result.value for result in matched if result.value is not None)
    sign = 1 if higher_is_better(matched[0].metric) else -1
    weakest = min(matched, key=lambda result: sign * (result.value or 0.0))
    return [
        f"On a dataset it was not trained on, {_quoted(leader)} has a mean {metric} of {number(there)} instead of "
        f"{number(here)}; weakest is {weakest.title}, {_of(weakest)}."
    ]


def _certainty(tested: Sequence[Pair]) -> list[str]:
    if not tested:
        return []
    if len(tested) == 1:
        verdict = "beyond noise" if _loser(tested[0]) else "within noise"
        return [f"The difference is {verdict}: p = {tested[0].p_holm:.2g} on the same images."]
    clear = sum(pair.verdict in ("better", "worse") for pair in tested)
    return [
        f"{clear} of {len(tested)} differences are beyond noise: p below {ALPHA:g} on the same images, after Holm's "
        f"correction for {len(tested)} comparisons."
    ]


def _of(result: Result) -> str:
    metric = SYMBOLS[result.metric]
    if result.value is None:
        return f"{metric} {result.score}"
    return f"{metric} = {result.score}" + (f", {result.share}" if result.share else "")


def _and(names: Sequence[str]) -> str:
    """Names in a sentence; of many, the first.

    >>> _and(["ridge", "svr, only dino"]), _and("abcde")
    ('ridge and “svr, only dino”', 'a and 4 others')
    """
    if len(names) > MOST_NAMED:
        return f"{_quoted(names[0])} and {len(names) - 1} others"
    return _joined([_quoted(name) for name in names])


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _quoted(name: str) -> str:
    """The name, in quotation marks where it would fall apart in a sentence."""
    return f"“{name}”" if "," in name or ":" in name else name
