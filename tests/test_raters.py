"""Several raters: their mean, how far they agree, and the noise ceiling that follows from it."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import draw
from scipy import stats
from small_datasets import folder_of, refusal, values

from drexcache import open_cache
from drexcache.cache.matrix import FeatureMatrix
from drexcache.cli import main
from drexcache.datasets import raters
from drexcache.datasets.table import read_images
from drexcache.studies import evaluate
from drexcache.studies.evaluation.scoring import noise_ceiling

NAMES = [f"{i:02}.jpg" for i in range(30)]


def rated_by(k: int, n: int = 400, noise: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """True values (n,) of variance 1 and what k raters, each with an offset of their own, said of them (n, k)."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    return truth, truth[:, None] + rng.normal(size=k) + rng.normal(scale=noise, size=(n, k))


@pytest.mark.parametrize("k", [2, 4, 12])
def test_split_halves_agree_with_cronbachs_alpha(k: int) -> None:
    _, ratings = rated_by(k, noise=1.5)
    alpha = k / (k - 1) * (1 - ratings.var(axis=0, ddof=1).sum() / ratings.sum(1).var(ddof=1))
    assert raters.split_half(ratings) == pytest.approx(alpha, abs=0.01)


def test_reliability_is_what_was_simulated() -> None:
    for k, noise in ((3, 1.0), (5, 2.0), (20, 2.0)):  # odd numbers leave one rater out of each split
        known = [raters.split_half(rated_by(k, 2000, noise, seed)[1]) for seed in range(3)]
        assert known == pytest.approx([k / (k + noise**2)] * 3, abs=0.03)


def test_missing_ratings_are_left_out() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=2000)
    ratings = truth[:, None] + rng.normal(size=(2000, 40))
    ratings[rng.random(ratings.shape) > 0.2] = np.nan  # about 8 of 40 raters for each image
    k = np.isfinite(ratings).sum(1).mean()
    assert raters.split_half(ratings) == pytest.approx(k / (k + 1), abs=0.02)
    few = ratings[:9]
    assert raters.split_half(few) is None
    assert raters.split_half(np.ones((50, 4))) is None
    assert raters.split_half(rng.normal(size=(300, 4))) == pytest.approx(0, abs=0.2)


def test_strict_raters_do_not_lower_what_they_rated(tmp_path: Path) -> None:
    """All images are worth the same; each was rated by r3 and by one of two others, of whom r2 is a point lower."""
    rows = [f"{name},{3 if i < 15 else ''},{2 if i >= 15 else ''},3" for i, name in enumerate(NAMES)]
    root = folder_of(tmp_path, *NAMES, ratings="\n".join(["file,r1,r2,r3", *rows]))
    assert set(values(read_images(root, rating_column="r?", value_range=(1, 5)))) == {3.0, 2.5}
    found = values(read_images(root, rating_column="r?", value_range=(1, 5), centre_raters=True))
    assert found == pytest.approx([2.75] * 30)


def test_centred_ratings_stay_in_the_widened_range(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "a.jpg", "b.jpg", ratings="file,r1,r2\na,1,1\nb,9,9\n")
    options = {"value_range": (1, 5), "out_of_range": "widen", "centre_raters": True}
    assert values(read_images(root, rating_column="r?", **options)) == [1.0, 9.0]


def test_centring_needs_single_raters(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "a.jpg", "b.jpg", ratings="file,mos\na.jpg,1\nb.jpg,2\n")
    assert "--centre-raters needs the ratings of single raters" in refusal(root, value_range=(1, 5), centre_raters=True)


def test_errors_give_the_reliability_of_the_means() -> None:
    truth, ratings = rated_by(9, 3000)
    ratings -= ratings.mean(0)
    errors = ratings.std(axis=1, ddof=1) / 3
    assert raters.from_errors(ratings.mean(1), errors) == pytest.approx(0.9, abs=0.01)
    assert raters.from_errors(truth, np.full(3000, 2.0)) == 0.0
    assert raters.from_errors(truth[:9], errors[:9]) is None


def test_the_truth_itself_reaches_the_ceiling_and_no_more() -> None:
    truth, ratings = rated_by(6, 4000, 1.5)
    reliability = raters.split_half(ratings)
    assert reliability is not None
    best = stats.pearsonr(truth, ratings.mean(1)).statistic
    assert raters.ceiling(reliability) == pytest.approx(best, abs=0.01)


def table_of_raters(root: Path) -> dict[str, tuple[Path, dict]]:
    """The same ratings as a column per rater, a line per rating, and means with their deviation."""
    _, ratings = rated_by(4, len(NAMES))
    ratings = np.round(ratings, 3)
    lines = ["file,rater 1,rater 2,rater 3,rater 4"]
    lines += [",".join([name, *map(str, row)]) for name, row in zip(NAMES, ratings, strict=True)]
    (root / "wide.csv").write_text("\n".join(lines))
    lines = ["file,who,rating,split"]
    lines += [f"{name},{k},{row[k]},test" for k in (2, 0, 3, 1) for name, row in zip(NAMES, ratings, strict=True)]
    (root / "long.csv").write_text("\n".join(lines))
    lines = ["file,rating,sd"]
    lines += [f"{name},{row.mean()},{row.std(ddof=1)}" for name, row in zip(NAMES, ratings, strict=True)]
    (root / "sd.csv").write_text("\n".join(lines))
    return {
        "wide": (root / "wide.csv", {"rating_column": "rater *"}),
        "long": (root / "long.csv", {"rater_column": "who"}),
        "sd": (root / "sd.csv", {"error_column": "sd", "raters": 4}),
    }


def test_three_ways_to_write_the_same_ratings(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "p", *NAMES)
    found = {}
    for name, (path, options) in table_of_raters(tmp_path).items():
        found[name] = read_images(images, path, value_range=(-9, 9), **options)
    for other in ("long", "sd"):
        assert values(found[other]) == pytest.approx(values(found["wide"]))
    targets = {name: table.targets["rating"] for name, table in found.items()}
    assert targets["long"].reliability == pytest.approx(targets["wide"].reliability, abs=0.01)
    assert targets["wide"].reliability_from == "split halves of 4 raters, all rated all"
    assert found["long"].labels == {"split": ("test",) * 30}
    # the deviations hold the raters' offsets, too, which halves of the same raters share
    assert targets["sd"].reliability < targets["wide"].reliability
    note = f"wide.csv: reliability {targets['wide'].reliability:.3f} (split halves of 4 raters, all rated all): "
    assert any(note in line for line in found["wide"].notes)


def test_reliability_is_of_the_images_that_are_there(tmp_path: Path) -> None:
    path, options = table_of_raters(tmp_path)["wide"]
    some = folder_of(tmp_path / "some", *NAMES[:20])
    table = read_images(some, path, value_range=(-9, 9), allow_unmatched=True, **options)
    ratings = np.genfromtxt(path, delimiter=",", skip_header=1)[:20, 1:]
    assert table.targets["rating"].reliability == raters.split_half(ratings)


def test_raters_that_cannot_be_read_are_one_sentence(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "p", "a.jpg", "b.jpg")
    pattern = {"rating_column": "r?"}
    for text, options, message in (
        ("file,r1,r2\na,1,x\nb,1,2", pattern, "ratings of raters that are no number: 1 (r2 of a = 'x')"),
        (
            "file,who,rating\na,Ann,1\na,Ann,2",
            {"rater_column": "who"},
            "several ratings of one image by one rater: 1 (Ann of a)",
        ),
        ("file,rating,se\na,1,-1\nb,2,1", {"error_column": "se"}, "errors of ratings that are negative: 1 (a)"),
        ("file,rating,se\na,1,1\nb,2,1", {"raters": 3}, "--raters counts the raters behind --error-column; give both"),
        ("file,r1,r2,se\na,1,1,1", pattern | {"error_column": "se"}, "give one of --rater-column, --error-column"),
        ("file,r1,r2\na,1,9\nb,1,1", pattern | {"value_range": (0, 5)}, "outside the declared range 0..5: 1 (a = 9)"),
        ("file,r1,r2\na,1,2\nb,1,2", {}, "or several with a pattern such as 'rater*'"),
        (
            "file,rating\na,1\nb,2\nb,2\na,2",
            {},
            "rated more than once (by several raters? name their column with --rater-column): 2 (",
        ),
        ("file,rating\na,1\nb,2", {"rater_column": "who"}, "no column 'who' of raters"),
    ):
        (root / "ratings.csv").write_text(text + "\n")
        assert message in refusal(root, **options)
    (root / "ratings.csv").write_text("file,r1,r2\na.jpg,1,\nb.jpg,1,2\n")
    table = read_images(root, rating_column="r?", value_range=(0, 5))
    assert values(table) == [1.0, 1.5]
    assert table.targets["rating"].reliability is None
    assert "how far ratings agree cannot be told" in table.notes[-1]


def test_the_ceiling_of_other_images() -> None:
    rated = np.linspace(0, 1, 100)
    noise = 0.19 * np.var(rated, ddof=1)
    assert noise_ceiling(rated, noise) == pytest.approx(0.9)
    middle = rated[40:60]  # they differ less than their ratings err
    assert noise_ceiling(middle, noise) is None
    assert noise_ceiling(rated, None) is None
    assert noise_ceiling(rated[:1], noise) is None


def test_scores_have_the_ceiling_of_their_images() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3)).astype("f4")
    y = 0.5 + X[:, 0] / 10
    labels = {"kind": ["wide" if abs(x) > 0.7 else "narrow" for x in X[:, 0]]}
    toy = FeatureMatrix(X, y, [str(i) for i in range(80)], {"a": slice(0, 3)}, dataset="toy", labels=labels,
                        noise=0.001)  # fmt: skip
    table, _ = evaluate([toy], ["ridge"], groups="kind")
    rows = {row.group: row for row in table.select(metric="pearson").rows}
    assert rows[""].ceiling == pytest.approx(np.sqrt(1 - 0.001 / np.var(y, ddof=1)))
    assert rows["wide"].ceiling > rows[""].ceiling > rows["narrow"].ceiling
    assert {row.ceiling for row in table.rows if row.metric != "pearson"} == {None}
    plain, _ = evaluate([toy.rows(np.arange(80))], ["ridge"])
    assert plain.select(metric="pearson").rows[0].ceiling == rows[""].ceiling


def test_from_raters_to_shares_on_the_command_line(tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    images, cache = draw(tmp_path / "p", 30), tmp_path / "c.h5"
    amounts = [float(line.split(",")[1]) for line in (images / "ratings.csv").read_text().splitlines()[1:]]
    rng = np.random.default_rng(0)
    said = (np.array(amounts)[:, None] + rng.normal(scale=20, size=(30, 5))).clip(0, 100).round()
    lines = ["file,r1,r2,r3,r4,r5", *(f"{i:03}.png,{','.join(map(str, row))}" for i, row in enumerate(said))]
    (tmp_path / "raters.csv").write_text("\n".join(lines))
    run("extract", images, "--recipe", "classic", "--range", 0, 100, "-o", cache)
    assert open_cache(cache).matrix().noise is None
    run("cache", "rate", cache, tmp_path / "raters.csv", "--target", "mean", "--rating-column", "r?", "--range", 0, 100)
    target = open_cache(cache).targets["mean"]
    assert target.reliability == raters.split_half(said)
    assert f"reliability {target.reliability:.3f} (split halves of 5 raters, all rated all)" in run(
        "cache", "info", cache
    )
    assert "every checksum holds" in run("cache", "verify", cache)
    text = run("evaluate", cache, "--target", "mean", "-r", "ridge", "-o", tmp_path / "s.csv")
    assert "Share of the noise ceiling" in text
    assert f"{np.sqrt(target.reliability):.3f}" in text
    assert "noise ceiling" not in run("evaluate", cache, "--target", "rating", "-r", "ridge", "-o", tmp_path / "t.csv")
