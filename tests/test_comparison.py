"""compare: published examples, SciPy's bootstrap, and simulation of false alarms, coverage and power."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from drexcache.cache import FeatureMatrix
from drexcache.errors import DrexcacheError
from drexcache.metrics import METRICS, mae, pearson
from drexcache.regressors import make_regressor
from drexcache.studies import compare, evaluate
from drexcache.studies.comparison.significance import holm, images_needed, williams_p
from drexcache.studies.comparison.verdicts import Pair, join
from drexcache.studies.evaluation.predictions import Predictions, Run


def run(name: str, rated: np.ndarray, predicted: np.ndarray, seed: int = 1, repeat: int = 0) -> Run:
    ids = [f"{i:04}.png" for i in range(len(rated))]
    return Run(name, "cross", "art", "maps", seed, repeat, ids, np.zeros(len(rated), dtype=np.intp), rated, predicted)


def simulated(
    rng: np.random.Generator, n: int, first: float = 0.5, second: float = 0.5, even: bool = True
) -> Predictions:
    """Two regressors whose errors have those sizes and half their variance in common.

    Not `even`: larger errors at both ends of the scale, where Williams' test alone finds too much.
    """
    rated = rng.uniform(-1, 1, size=n)
    size = 1.0 if even else 0.3 + 1.5 * np.abs(rated)
    common = rng.normal(size=n)
    one, other = (0.7 * rated + s * size * np.sqrt(0.5) * (common + rng.normal(size=n)) for s in (first, second))
    return Predictions([run("one", rated, one), run("other", rated, other)])


def quick(name: str, matrix: FeatureMatrix, seed: int) -> object:
    """That regressor, with fewer steps where it takes many."""
    estimator, fewer = make_regressor(name, matrix, seed), {"min_steps": 0, "seeds": 2}
    last = {key: key.rpartition("__")[2] for key in estimator.get_params()}
    return estimator.set_params(**{key: fewer[name] for key, name in last.items() if name in fewer})


def only(predictions: Predictions, metric: str = "pearson", **options: int) -> Pair:
    (pair,) = compare(predictions, metric, **options).pairs  # type: ignore[arg-type]
    return pair


def test_williams_is_steigers_example() -> None:
    # Steiger 1980, p. 246: r = .5 and .4, r12 = .1, n = 103; T2 = .89 by hand from the formula with |R| = .62
    by_hand = 0.1 * np.sqrt(102 * 1.1 / (2 * 102 / 100 * 0.62 + 0.45**2 * 0.9**3))
    assert by_hand == pytest.approx(0.8913, abs=1e-4)
    assert williams_p(0.5, 0.4, 0.1, 103) == pytest.approx(2 * stats.t.sf(by_hand, 100))
    assert williams_p(0.4, 0.5, 0.1, 103) == pytest.approx(williams_p(0.5, 0.4, 0.1, 103))
    assert williams_p([0.5, 0.5], [0.4, 0.5], [0.1, 1.0], 103) == pytest.approx([0.3749, 1.0], abs=1e-4)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("metric", METRICS)
def test_the_difference_and_its_interval(metric: str) -> None:
    predictions = simulated(np.random.default_rng(1), 150, 0.3, 0.6)
    rated, one, other = predictions.runs[0].rated, *(run.predicted for run in predictions.runs)
    function = METRICS[metric]
    pair = only(predictions, metric)
    assert pair.difference == pytest.approx(function(rated, one) - function(rated, other))  # type: ignore[operator]
    oracle = stats.bootstrap(
        (rated, one, other), lambda y, a, b: function(y, a) - function(y, b),  # type: ignore[operator]
        paired=True, vectorized=False, n_resamples=800, method="percentile", rng=0,
    ).standard_error  # fmt: skip
    assert pair.difference is not None
    assert pair.low is not None
    assert pair.high is not None
    assert (pair.high - pair.low) / 2 == pytest.approx(stats.t.ppf(0.975, 149) * oracle, rel=0.1)
    assert (pair.low + pair.high) / 2 == pytest.approx(pair.difference)
    assert pair.verdict == "better"
    assert pair.sentence == "one is better"
    turned = only(Predictions(predictions.runs[::-1]), metric)
    assert (turned.difference, turned.verdict, turned.sentence) == (
        -pair.difference,
        "worse",
        "one is better",
    )


def test_errors_are_tested_by_the_paired_t_test_of_their_losses() -> None:
    predictions = simulated(np.random.default_rng(2), 40, 0.5, 0.6)
    rated, one, other = predictions.runs[0].rated, *(run.predicted for run in predictions.runs)
    assert only(predictions, "mae").p == pytest.approx(stats.ttest_rel(abs(one - rated), abs(other - rated)).pvalue)
    assert only(predictions, "rmse").p == pytest.approx(
        stats.ttest_rel((one - rated) ** 2, (other - rated) ** 2).pvalue
    )


def test_a_correlation_must_pass_both_tests() -> None:
    predictions = simulated(np.random.default_rng(2), 80, even=False)
    rated, one, other = predictions.runs[0].rated, *(run.predicted for run in predictions.runs)
    matrix = np.corrcoef([rated, one, other])
    pair = only(predictions)
    williams = williams_p(matrix[0, 1], matrix[0, 2], matrix[1, 2], 80)
    assert pair.difference is not None
    assert pair.high is not None
    paired = 2 * stats.t.sf(abs(pair.difference) / (pair.high - pair.difference) * stats.t.ppf(0.975, 79), 79)
    assert pair.p == pytest.approx(max(float(williams), paired))


@pytest.mark.parametrize("metric", ["pearson", "mae"])
def test_the_variance_between_seeds_is_in_the_interval_and_in_p(metric: str) -> None:
    rng = np.random.default_rng(5)
    rated = rng.uniform(size=80)
    plain = run("plain", rated, rated + 0.1 * rng.normal(size=80))
    seeds = [
        run("noisy", rated, rated + size * rng.normal(size=80), seed) for seed, size in enumerate((0.05, 0.1, 0.3))
    ]
    one_run = [replace(one, seed=0, repeat=one.seed) for one in seeds]  # the same predictions as repeats of one seed
    pair, without = (only(Predictions([plain, *own]), metric) for own in (seeds, one_run))
    assert pair.difference == without.difference and without.second_seed_sd is None
    over_images = (without.high - without.difference) / stats.t.ppf(0.975, 79)
    between = pair.second_seed_sd**2 / 3
    total = over_images**2 + between
    degrees = total**2 / (over_images**4 / 79 + between**2 / 2)
    assert pair.high - pair.difference == pytest.approx(np.sqrt(total) * stats.t.ppf(0.975, degrees))
    assert pair.p >= 2 * stats.t.sf(abs(pair.difference) / np.sqrt(total), degrees) - 1e-12
    assert pair.p > without.p


def test_regressors_without_a_seed_need_no_others() -> None:
    found = simulated(np.random.default_rng(0), 30)
    for names, said in ((("ridge", "a.csv: svr, only dino"), []), (("ridge", "fusion"), ["fusion: how far seeds "])):
        runs = [replace(one, regressor=name) for one, name in zip(found.runs, names, strict=True)]
        notes = compare(Predictions(runs)).notes
        assert [note[:22] for note in notes] == said


def test_a_constant_column_is_never_a_difference() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 12)).astype("f4")
    y = 0.5 + 0.1 * X[:, 0] + 0.1 * np.tanh(X[:, 7]) + 0.02 * rng.normal(size=60)
    ids = [f"{i}.png" for i in range(60)]
    plain = FeatureMatrix(X, y, ids, {"a": slice(0, 6), "b": slice(6, 12)}, dataset="toy")
    wider = replace(plain, X=np.insert(X, 12, 0.0, axis=1), blocks={"a": slice(0, 6), "b": slice(6, 13)})
    for name in ("ridge", "pls", "svr", "gaussian-process", "fusion", "best"):
        runs = []
        for label, matrix in (("all", wider), ("without", plain)):
            found = evaluate([matrix], [name], folds=3, make=quick, near_copies=False)[1].runs
            runs += [replace(run, regressor=label) for run in found]
        assert only(Predictions(runs)).verdict in ("the same", "within noise"), name


def test_seeds_and_repeats_are_averaged_and_their_spread_stands_apart() -> None:
    rng = np.random.default_rng(3)
    rated = rng.uniform(size=60)
    scores: dict[tuple[int, int], float] = {}
    runs = [run("plain", rated, rated + 0.1 * rng.normal(size=60))]
    for seed in (1, 2, 3):
        for repeat in (0, 1):
            predicted = rated + 0.1 * seed * rng.normal(size=60)
            runs.append(run("noisy", rated, predicted, seed, repeat))
            scores[seed, repeat] = mae(rated, predicted)
    pair = only(Predictions(runs), "mae")
    assert pair.second_value == pytest.approx(np.mean(list(scores.values())))
    assert pair.second_seed_sd == pytest.approx(
        np.std([(scores[seed, 0] + scores[seed, 1]) / 2 for seed in (1, 2, 3)], ddof=1)
    )
    assert pair.first_seed_sd is None
    text = compare(Predictions(runs), "mae").markdown()
    assert "| SD over seeds   |" in text
    assert f"| ?, {pair.second_seed_sd:.3f} " in text


def test_the_same_predictions() -> None:
    predictions = simulated(np.random.default_rng(0), 30)
    twin = replace(predictions.runs[0], regressor="twin")
    for metric in METRICS:
        pair = only(Predictions([predictions.runs[0], twin]), metric)
        assert (pair.difference, pair.low, pair.high, pair.p, pair.sentence) == (
            0,
            0,
            0,
            1,
            "no difference at all",
        )


def test_constant_predictions_are_undefined_and_never_nan(tmp_path: Path) -> None:
    predictions = simulated(np.random.default_rng(0), 30)
    flat = run("flat", predictions.runs[0].rated, np.full(30, 0.5))
    result = compare(Predictions([*predictions.runs, flat]), "spearman")
    assert [pair.verdict for pair in result.pairs][1:] == ["undefined", "undefined"]
    assert "- art → maps: one − flat is undefined (constant predictions)" in result.markdown()
    result.to_csv(tmp_path / "pairs.csv")
    text = (tmp_path / "pairs.csv").read_text(encoding="utf-8")
    assert "nan" not in (text + result.markdown()).lower()
    with (tmp_path / "pairs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["first"], row["second"], row["p"] == "") for row in rows] == [
        ("one", "other", False), ("one", "flat", True), ("other", "flat", True),
    ]  # fmt: skip
    errors = only(Predictions([predictions.runs[0], flat]), "rmse")
    assert errors.second_value == pytest.approx(np.sqrt(np.mean((flat.rated - 0.5) ** 2)))
    assert errors.p_holm is not None


def test_holm_is_over_all_pairs_of_the_call() -> None:
    predictions = simulated(np.random.default_rng(5), 100, 0.5, 0.62)
    alone = only(predictions)
    third = run("third", predictions.runs[0].rated, np.random.default_rng(6).normal(size=100))
    among = compare(Predictions([*predictions.runs, third]))
    assert alone.p_holm == alone.p
    assert [pair.p_holm for pair in among.pairs] == holm([pair.p for pair in among.pairs if pair.p is not None])
    assert among.pairs[0].p == alone.p
    assert compare(Predictions([*predictions.runs, third]), regressors=["one", "other"]).pairs == [alone]


def test_the_markdown_table() -> None:
    text = compare(simulated(np.random.default_rng(4), 50)).markdown()
    lines = text.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        "train → test", "pair", "images", "first", "second", "difference [95% interval]", "p (Holm)",
        "verdict",
    ]  # fmt: skip
    assert [cell.strip() for cell in lines[2].split("|")[1:4]] == ["art → maps", "one − other", "50"]
    assert "within noise: you would need about " in lines[2]
    assert lines[-1] == "- one, other: how far seeds alone move scores is unknown; evaluate with several --seed"


def test_different_images_are_compared_only_when_asked() -> None:
    first, second = simulated(np.random.default_rng(0), 60).runs
    fewer = replace(
        second,
        ids=second.ids[20:],
        fold=second.fold[20:],
        rated=second.rated[20:],
        predicted=second.predicted[20:],
    )
    both = Predictions([first, fewer])
    with pytest.raises(DrexcacheError, match=r"art → maps: 40 images match of 60 \(one\), 40 \(other\); ask"):
        compare(both)
    matched = compare(both, match=True)
    assert matched.notes[0] == "art → maps: 40 images match of 60 (one), 40 (other); only those are compared"
    assert (matched.pairs[0].n, matched.pairs[0].first_value) == (
        40,
        pearson(first.rated[20:], first.predicted[20:]),
    )


def test_the_order_of_images_in_a_file_does_not_matter() -> None:
    first, second = simulated(np.random.default_rng(0), 60).runs
    mixed = np.random.default_rng(1).permutation(60)
    turned = replace(
        second,
        ids=[second.ids[i] for i in mixed],
        rated=second.rated[mixed],
        predicted=second.predicted[mixed],
    )
    assert compare(Predictions([first, turned])) == compare(Predictions([first, second]))


def test_two_files_with_the_same_regressor() -> None:
    old, new = simulated(np.random.default_rng(0), 30), simulated(np.random.default_rng(0), 30)
    new.runs[1] = replace(new.runs[1], regressor="newest")
    assert join({"monday": old, "today": new}).regressors == ["monday: one", "other", "today: one", "newest"]
    assert join({"monday": old, "today": Predictions([new.runs[1]])}).regressors == ["one", "other", "newest"]


def test_what_cannot_be_compared_is_one_sentence() -> None:
    first, second = simulated(np.random.default_rng(0), 30).runs
    rerated = replace(second, rated=second.rated + np.where(np.arange(30) == 7, 0.25, 0))
    elsewhere = replace(second, test="logos")
    short = [
        replace(one, ids=one.ids[:9], fold=one.fold[:9], rated=one.rated[:9], predicted=one.predicted[:9])
        for one in (first, second)
    ]
    for runs, options, message in (
        ([first, second], {"metric": "auc"}, "no metric named auc; there are: pearson"),
        ([first, second], {"regressors": ["svr"]}, "no predictions of svr; there are: one, other"),
        ([first], {}, "nothing to compare: .* regressors: one"),
        ([], {}, "regressors: none"),
        ([first, elsewhere], {}, "no two regressors predict the same test set"),
        (
            [first, rerated],
            {},
            r"maps: image 0007.png is rated .* \(1 image differs\); these are not the same",
        ),
        (short, {}, "needs 10 images in common; 9 images match of 9"),
    ):
        with pytest.raises(DrexcacheError, match=message):
            compare(Predictions(list(runs)), **options)


def test_images_of_a_group_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    groups = [str(i // 10) for i in range(200)]
    rated = rng.uniform(size=200)
    one, other = (rated + size * np.repeat(rng.normal(size=20), 10) for size in (0.1, 0.2))
    runs = [run("one", rated, one), run("other", rated, other)]
    plain, grouped = only(Predictions(runs)), only(Predictions([replace(r, group=groups) for r in runs]))
    assert plain.low is not None
    assert plain.high is not None
    assert grouped.low is not None
    assert grouped.high is not None
    assert grouped.high - grouped.low > 1.3 * (plain.high - plain.low)


def alarms(metric: str, sets: int, n: int, even: bool) -> tuple[float, float]:
    """Shares of sets without a true difference: with a verdict, and with zero inside the interval."""
    rng = np.random.default_rng(0)
    pairs = [only(simulated(rng, n, even=even), metric, n_boot=300, seed=k) for k in range(sets)]
    inside = [pair.low <= 0 <= pair.high for pair in pairs if pair.low is not None and pair.high is not None]
    return float(np.mean([pair.verdict != "within noise" for pair in pairs])), float(np.mean(inside))


@pytest.mark.parametrize("metric", ["pearson", "spearman", "rmse"])
def test_false_alarms_stay_below_five_percent(metric: str) -> None:
    found, inside = alarms(metric, 300, 80, even=metric != "pearson")
    assert found <= 0.083  # 5% of 300 sets: more in less than 1 of 100 simulations
    assert inside >= 0.917


@pytest.mark.thorough
@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("metric", METRICS)
def test_false_alarms_and_coverage_over_a_thousand_sets(metric: str, even: bool) -> None:
    found, inside = alarms(metric, 1000, 150, even)
    assert found <= 0.06
    assert 0.935 <= inside <= 0.975


@pytest.mark.thorough
@pytest.mark.parametrize("metric", METRICS)
def test_coverage_of_a_true_difference(metric: str) -> None:
    rng = np.random.default_rng(0)
    one, other = (
        np.mean([METRICS[metric](run.rated, run.predicted) for run in runs])
        for runs in zip(*(simulated(rng, 20_000, 0.4, 0.5).runs for _ in range(10)), strict=True)
    )
    true = one - other
    pairs = [only(simulated(rng, 150, 0.4, 0.5), metric, n_boot=300, seed=k) for k in range(1000)]
    held = [pair.low <= true <= pair.high for pair in pairs if pair.low is not None and pair.high is not None]
    assert 0.93 <= np.mean(held) <= 0.975


def test_the_images_needed_are_what_finds_the_difference_four_times_in_five() -> None:
    assert images_needed(0.0455, 100, 1) == pytest.approx(100 * (2.8016 / 2) ** 2, rel=0.03)  # p of z = 2
    assert images_needed(1.0, 100, 1) is None
    assert images_needed(0.99, 1000, 1) is None  # above a million
    assert images_needed(0.2, 100, 10) > images_needed(0.2, 100, 1)  # type: ignore[operator]
    rng = np.random.default_rng(0)
    # the typical p of this difference with 50 images: that of the mean z of many sets
    pairs = [only(simulated(rng, 50, 0.5, 0.7), "mae", n_boot=2) for _ in range(200)]
    z = [stats.norm.isf((pair.p or 0) / 2) * np.sign(pair.difference or 0) for pair in pairs]
    needed = images_needed(2 * stats.norm.sf(abs(np.mean(z))), 50, 1)
    assert needed is not None
    assert 50 < needed < 300
    found = [only(simulated(rng, needed, 0.5, 0.7), "mae", n_boot=2).verdict == "better" for _ in range(200)]
    assert 0.7 <= np.mean(found) <= 0.9


def test_all_against_one() -> None:
    first, second = simulated(np.random.default_rng(0), 60).runs
    third = replace(second, regressor="third", predicted=second.predicted + 0.01 * first.predicted)
    elsewhere = replace(first, test="logos"), replace(second, test="logos")
    everything = Predictions([first, second, third, *elsewhere])
    found = compare(everything, against="other")
    assert [(pair.first, pair.second, pair.test) for pair in found.pairs] == [
        ("one", "other", "maps"), ("third", "other", "maps"), ("one", "other", "logos"),
    ]  # fmt: skip
    corrected = holm([pair.p for pair in found.pairs if pair.p is not None])  # by three comparisons, not by four
    assert [pair.p_holm for pair in found.pairs] == corrected
    assert [(pair.first, pair.test) for pair in compare(everything, against="third").pairs] == [
        ("one", "maps"), ("other", "maps"),
    ]  # fmt: skip
    with pytest.raises(DrexcacheError, match="no predictions of svr; there are: one, other, third"):
        compare(everything, against="svr")
    alone = Predictions([first, second, replace(third, test="photos")])
    with pytest.raises(DrexcacheError, match="no other regressor predicts a test set of third"):
        compare(alone, against="third")


def test_latex_for_a_paper() -> None:
    text = compare(simulated(np.random.default_rng(4), 50)).latex()
    lines = text.splitlines()
    assert lines[:3] == [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\begin{tabular}{llllllll}"]
    assert r"art $\rightarrow$ maps" in text
    assert r"one $-$ other" in text
    assert lines[-1] == "% one, other: how far seeds alone move scores is unknown; evaluate with several --seed"
