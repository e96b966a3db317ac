"""Metrics and their intervals, against SciPy, published numbers, repetition and simulation."""

import numpy as np
import pytest
from scipy import stats

from drexcache import metrics
from drexcache.bootstrap import resample_weights, resampled, standard_error
from drexcache.errors import DrexcacheError
from drexcache.metrics import METRICS, fisher_interval, interval

ERRORS = ["rmse", "mae", "rmae"]
CORRELATIONS = ["pearson", "spearman", "kendall"]


def data(n: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ratings and predictions with ties in both."""
    rng = np.random.default_rng(seed)
    rated = rng.integers(0, 8, size=n) / 7
    return rated, np.round(rated + 0.3 * rng.normal(size=n), 1)


def test_values_by_hand() -> None:
    rated, predicted = [0.0, 0.5, 1.0, 0.5], [0.1, 0.4, 0.6, 0.9]
    absolute = [0.1, 0.1, 0.4, 0.4]
    assert list(METRICS) == ["pearson", "spearman", "kendall", "rmse", "mae", "rmae"]
    assert metrics.mae(rated, predicted) == pytest.approx(0.25)
    assert metrics.rmae(rated, predicted) == pytest.approx(0.5)
    assert metrics.rmse(rated, predicted) == pytest.approx(np.sqrt(sum(e**2 for e in absolute) / 4))
    # 5 pairs are not tied in the ratings, 6 not in the predictions; 4 are concordant, 1 is discordant
    assert metrics.kendall(rated, predicted) == pytest.approx(3 / np.sqrt(5 * 6))


def test_correlations_are_scipys_and_signed() -> None:
    rated, predicted = data()
    for sign in (1, -1):
        assert metrics.pearson(rated, sign * predicted) == pytest.approx(sign * np.corrcoef(rated, predicted)[0, 1])
        assert metrics.spearman(rated, sign * predicted) == pytest.approx(
            sign * np.corrcoef(stats.rankdata(rated), stats.rankdata(predicted))[0, 1]
        )
        assert metrics.kendall(rated, sign * predicted) == pytest.approx(
            sign * stats.kendalltau(rated, predicted).statistic
        )


@pytest.mark.parametrize("name", CORRELATIONS)
def test_constant_values_have_no_correlation(name: str) -> None:
    rated, _ = data()
    almost = np.full(40, 0.1) + np.linspace(0, 1e-16, 40)
    for constant in (np.full(40, 0.5), np.zeros(40), almost):
        assert METRICS[name](rated, constant) is None
        assert METRICS[name](constant, rated) is None
        assert interval(name, rated, constant) == (None, None)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("rated", "predicted", "message"),
    [
        ([0.1, 0.2], [0.1, 0.2], "at least 3 images; found 2"),
        ([0.1, 0.2, 0.3], [0.1, np.nan, np.inf], "predictions that are not finite: 2 of 3"),
        ([0.1, 0.2, np.nan], [0.1, 0.2, 0.3], "ratings that are not finite: 1 of 3"),
        ([0.1, 0.2, 0.3], [0.1, 0.2], r"shapes \(3,\), \(2,\)"),
    ],
)
def test_bad_input_is_one_sentence(name: str, rated: list, predicted: list, message: str) -> None:
    with pytest.raises(DrexcacheError, match=message):
        METRICS[name](rated, predicted)
    with pytest.raises(DrexcacheError, match=message):
        interval(name, rated, predicted)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_pearson_interval_is_scipys(level: float) -> None:
    rated, predicted = data()
    expected = stats.pearsonr(rated, predicted).confidence_interval(level)
    assert interval("pearson", rated, predicted, level=level) == pytest.approx(expected)


def test_fisher_intervals_by_hand() -> None:
    # The published r = .958 of 2,880 images: about +-.003
    assert fisher_interval("pearson", 0.958, 2880) == pytest.approx((0.9549, 0.9609), abs=5e-5)
    # z = atanh(.5) = 0.549306, s = sqrt(1.125 / 50) = 0.15, 1.959964 * 0.15 = 0.293995
    assert fisher_interval("spearman", 0.5, 53) == pytest.approx((np.tanh(0.255311), np.tanh(0.843301)), abs=1e-6)
    # s = sqrt(0.437 / 50) = 0.093488, 1.959964 * 0.093488 = 0.183233
    assert fisher_interval("kendall", 0.5, 54) == pytest.approx((np.tanh(0.366073), np.tanh(0.732539)), abs=1e-6)
    assert fisher_interval("pearson", 0.9, 3) == (-1.0, 1.0)
    assert fisher_interval("pearson", 1.0, 30) == (1.0, 1.0)


@pytest.mark.parametrize("groups", [None, [str(i // 4) for i in range(40)]])
@pytest.mark.parametrize("name", METRICS)
def test_resamples_are_what_repeating_the_images_gives(name: str, groups: list[str] | None) -> None:
    rated, predicted = data()
    weights = next(resample_weights(40, 25, seed=3, groups=groups))
    expected = [
        METRICS[name](np.repeat(rated, row.astype(int)), np.repeat(predicted, row.astype(int))) for row in weights
    ]
    assert resampled(name, rated, predicted, weights) == pytest.approx(np.array(expected), abs=1e-12)


def test_a_resample_without_variance_is_nan_inside_and_left_out() -> None:
    weights = np.array([[3.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    for name in CORRELATIONS:
        values = resampled(name, np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.7, 0.9]), weights)
        assert np.isnan(values[0])
        assert values[1] > 0.9
    assert standard_error(np.array([np.nan, 1.0, 3.0]), units=5) == pytest.approx(np.sqrt(5 / 4))


def test_groups_are_drawn_whole_and_blocks_hold_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [str(i // 4) for i in range(40)]
    whole = np.concatenate(list(resample_weights(40, 30, seed=1, groups=groups)))
    assert (whole.reshape(30, 10, 4) == whole.reshape(30, 10, 4)[:, :, :1]).all()
    assert (whole.sum(axis=1) == 40).all()
    monkeypatch.setattr("drexcache.bootstrap.WEIGHTS_AT_ONCE", 7 * 40)
    blocks = list(resample_weights(40, 30, seed=1))
    assert [len(block) for block in blocks] == [7, 7, 7, 7, 2]
    with pytest.raises(DrexcacheError, match="at least 2 groups; found 1"):
        next(resample_weights(4, 10, groups=["a"] * 4))


@pytest.mark.parametrize("name", ERRORS)
def test_error_intervals_agree_with_scipys_bootstrap(name: str) -> None:
    rated, predicted = data(400)
    low, high = interval(name, rated, predicted, n_boot=4000)
    oracle = stats.bootstrap(
        (rated, predicted),
        METRICS[name],
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="BCa",
        rng=0,
    ).confidence_interval
    width = oracle.high - oracle.low
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=0.08 * width)


@pytest.mark.parametrize("name", METRICS)
def test_perfect_predictions(name: str) -> None:
    rated, _ = data()
    best = 1.0 if name in CORRELATIONS else 0.0
    for groups in (None, [str(i // 4) for i in range(40)]):
        assert [METRICS[name](rated, rated), *interval(name, rated, rated, groups=groups)] == pytest.approx([best] * 3)


def test_the_same_seed_gives_the_same_interval() -> None:
    rated, predicted = data()
    assert interval("mae", rated, predicted, seed=5) == interval("mae", rated, predicted, seed=5)
    assert interval("mae", rated, predicted, seed=5) != interval("mae", rated, predicted, seed=6)


def coverage(name: str, sets: int, n: int, per_group: int = 0) -> float:
    """Share of simulated sets whose interval holds the true value; bivariate normal, r = .8."""
    rng = np.random.default_rng(0)
    r, spread = 0.8, 0.6  # y = r x + .6 e: both of variance 1, error y - x of variance .04 + .36
    truth = {
        "pearson": r,
        "spearman": 6 / np.pi * np.arcsin(r / 2),  # of the bivariate normal: Pearson 1907
        "kendall": 2 / np.pi * np.arcsin(r),  # Greiner 1909
        "rmse": np.sqrt(0.4),
        "mae": np.sqrt(0.4) * np.sqrt(2 / np.pi),
        "rmae": np.sqrt(np.sqrt(0.4) * np.sqrt(2 / np.pi)),
    }[name]
    groups = [str(i // per_group) for i in range(n)] if per_group else None
    held = 0
    for seed in range(sets):
        x, noise = rng.normal(size=n), rng.normal(size=n)
        if per_group:  # images of a group are alike in half of their variance
            for values in (x, noise):
                shared = np.repeat(rng.normal(size=n // per_group), per_group)
                values[:] = np.sqrt(0.5) * values + np.sqrt(0.5) * shared
        low, high = interval(name, x, r * x + spread * noise, seed=seed, n_boot=300, groups=groups)
        held += low <= truth <= high
    return held / sets


@pytest.mark.parametrize("name", METRICS)
def test_intervals_cover(name: str) -> None:
    # 300 sets: a true 95% gives 91 to 98.5% all but once in 500 times
    assert 0.91 <= coverage(name, 300, 60) <= 0.985


@pytest.mark.parametrize("name", ["pearson", "mae"])
def test_group_intervals_cover_where_images_are_alike(name: str) -> None:
    assert 0.9 <= coverage(name, 300, 120, per_group=4) <= 0.985


@pytest.mark.thorough
@pytest.mark.parametrize("name", METRICS)
def test_intervals_cover_closely(name: str) -> None:
    # 94 to 96%, and two standard errors of a simulation of 3,000 sets
    assert 0.932 <= coverage(name, 3000, 150) <= 0.968
