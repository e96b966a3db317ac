"""evaluate: the cells, what they train on, what is kept, and what is said about it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor

from drexcache import metrics
from drexcache.cache.matrix import FeatureMatrix
from drexcache.errors import DrexcacheError
from drexcache.fusion.estimator import AttentionFusionRegressor
from drexcache.studies import evaluate
from drexcache.studies.evaluation.folds import hash_folds
from drexcache.studies.evaluation.predictions import Predictions, Run, predictions_beside
from drexcache.studies.evaluation.scoring import CALIBRATION_SEED, calibrated, score

WEIGHTS = np.random.default_rng(9).normal(size=5)


def make(name: str, matrix: FeatureMatrix, seed: int) -> Any:
    """Plain scikit-learn estimators; "noisy" depends on its seed, "nearest" repeats what it has seen."""
    if name == "noisy":
        chosen = np.random.default_rng(seed).permutation(matrix.X.shape[1])[:3]
        return Chosen(chosen)
    return {
        "ridge": Ridge(alpha=1.0), "line": LinearRegression(), "mean": DummyRegressor(),
        "nearest": KNeighborsRegressor(1), "nan": Endless(),
    }[name]  # fmt: skip


class Chosen(LinearRegression):
    """A line through a few columns, with attention weights like the fusion head's."""

    def __init__(self, columns: np.ndarray) -> None:
        super().__init__()
        self.columns = columns
        self.arms_ = ["left", "right"]

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Chosen":
        return super().fit(X[:, self.columns], y)

    def predict(self, X: np.ndarray) -> np.ndarray:
        return super().predict(X[:, self.columns])

    def attention(self, X: np.ndarray) -> np.ndarray:
        left = 1 / (1 + np.exp(-X[:, 0]))
        return np.stack([left, 1 - left], axis=1)


class Endless(DummyRegressor):
    """Predicts what is not a number."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.full(len(X), np.inf)


def dataset(name: str, n: int = 60, scale: float = 0.1, **fields: Any) -> FeatureMatrix:
    """A rated set; another scale is another use of the rating scale."""
    rng = np.random.default_rng(list(name.encode()))
    X = rng.normal(size=(n, 5)).astype("f4")
    y = 0.5 + scale * (X @ WEIGHTS + rng.normal(size=n))
    settings: dict[str, Any] = {
        "taps": {}, "dataset": name, "fingerprints": {"deep": "aa11", "cues": "bb22"},
        "hashes": [f"{name}{i:04}" for i in range(n)],
        "labels": {"split": ["test" if i % 3 == 0 else "train" for i in range(n)]},
    }  # fmt: skip
    ids = [f"{i:03}.png" for i in range(n)]
    return FeatureMatrix(X, y, ids, {"deep": slice(0, 3), "cues": slice(3, 5)}, **(settings | fields))


ART, MAPS, LOGOS = dataset("art"), dataset("maps", 45, 0.05), dataset("logos", 30, 0.15)


def run_of(predictions: Predictions, **wanted: object) -> Run:
    (run,) = predictions.select(**wanted).runs
    return run


def test_all_pairs_of_datasets_are_cells() -> None:
    table, predictions = evaluate([ART, MAPS], ["ridge", "mean"], make=make)
    assert predictions.cells == [
        ("in-domain", "art", "art"), ("cross", "art", "maps"), ("cross", "maps", "art"),
        ("in-domain", "maps", "maps"),
    ]  # fmt: skip
    assert predictions.regressors == ["ridge", "mean"]
    # 6 metrics in a cell, 3 calibrated errors more across datasets
    assert len(table.rows) == 2 * (2 * 6 + 2 * 9)
    assert {row.n for row in table.rows if row.test == "maps"} == {45}
    assert table.notes == []


def test_in_domain_predictions_are_those_of_scikit_learns_cross_validation() -> None:
    table, predictions = evaluate([ART], ["ridge"], make=make, folds=4)
    run = predictions.runs[0]
    rows = [ART.ids.index(image) for image in run.ids]
    assert sorted(run.ids) == sorted(ART.ids)
    assert np.bincount(run.fold).tolist() == [15] * 4
    oracle = cross_val_predict(Ridge(alpha=1.0), ART.X[rows], ART.y[rows], cv=PredefinedSplit(run.fold))
    assert run.predicted == pytest.approx(oracle, abs=1e-6)
    (row,) = table.select(metric="pearson").rows
    assert row.value == pytest.approx(np.corrcoef(run.rated, oracle)[0, 1], abs=1e-6)
    assert (row.low, row.high) == pytest.approx(metrics.interval("pearson", run.rated, run.predicted))
    assert row.seconds is not None
    assert row.seconds > 0


def test_the_order_of_images_does_not_matter() -> None:
    shuffled = ART.rows(np.random.default_rng(0).permutation(60))
    results = []
    for matrix in (ART, shuffled):
        run = evaluate([matrix], ["ridge"], make=make)[1].runs[0]
        results.append(dict(zip(run.ids, run.predicted, strict=True)))
    assert results[0] == pytest.approx(results[1], abs=1e-6)


def test_across_datasets_and_the_linear_calibration() -> None:
    table, predictions = evaluate([ART, MAPS], ["line"], make=make, train=["maps"], test=["art"])
    (run,) = predictions.runs
    assert run.predicted == pytest.approx(LinearRegression().fit(MAPS.X, MAPS.y).predict(ART.X), abs=1e-6)
    raw, fitted = (table.select(metric="rmse", calibrated=flag).rows[0].value for flag in (False, True))
    assert raw == pytest.approx(np.sqrt(np.mean((run.predicted - ART.y) ** 2)))
    mapped, half = calibrated(run), hash_folds(run.ids, 2, CALIBRATION_SEED)
    for mine in (0, 1):  # by cross-fitting: each half by the line of the other half
        line = np.polyfit(run.predicted[half != mine], run.rated[half != mine], 1)
        assert mapped[half == mine] == pytest.approx(np.polyval(line, run.predicted[half == mine]))
    assert fitted == pytest.approx(np.sqrt(np.mean((mapped - ART.y) ** 2)))
    assert fitted is not None
    assert raw is not None
    assert fitted < raw  # maps uses half of art's scale
    best = np.polyval(np.polyfit(run.predicted, run.rated, 1), run.predicted)
    assert np.sqrt(np.mean((best - ART.y) ** 2)) < fitted  # a line that has seen the ratings is a little better


def test_calibration_never_sees_the_image_it_maps() -> None:
    (run,) = evaluate([ART, MAPS], ["line"], make=make, train=["maps"], test=["art"])[1].runs
    before = calibrated(run)
    for image in (0, 17, 59):
        rated = run.rated.copy()
        rated[image] += 5
        assert calibrated(replace(run, rated=rated))[image] == before[image]


def test_only_the_cells_asked_for() -> None:
    sets = [ART, MAPS, LOGOS]
    asked = evaluate(sets, ["mean"], make=make, train=["art"], test=["art", "logos"])[1].cells
    assert asked == [("in-domain", "art", "art"), ("cross", "art", "logos")]
    assert evaluate(sets, ["mean"], make=make, test=["maps"])[1].cells == [
        ("cross", "art", "maps"), ("in-domain", "maps", "maps"), ("cross", "logos", "maps"),
    ]  # fmt: skip


def test_leave_one_dataset_out() -> None:
    table, predictions = evaluate([ART, MAPS, LOGOS], ["line"], make=make, leave_one_out=True, test=["art"])
    run = run_of(predictions, kind="leave-one-out")
    scaled = [(one.y - one.y.mean()) / one.y.std() for one in (MAPS, LOGOS)]
    mean, spread = ((one(MAPS.y) + one(LOGOS.y)) / 2 for one in (np.mean, np.std))
    line = LinearRegression().fit(np.concatenate([MAPS.X, LOGOS.X]), mean + spread * np.concatenate(scaled))
    assert (run.train, run.test) == ("all but art", "art")
    assert run.predicted == pytest.approx(line.predict(ART.X), abs=1e-5)
    assert "all but art: the training mixes 2 datasets; each dataset's ratings are put on one mean and one spread" in (
        table.notes
    )
    assert "| all but the tested one |" in table.markdown()


def test_the_official_split() -> None:
    table, predictions = evaluate([ART], ["line"], make=make, split="split")
    (run,) = predictions.runs
    test = np.arange(60) % 3 == 0
    assert (run.kind, run.ids) == (
        "split",
        [image for image, chosen in zip(ART.ids, test, strict=True) if chosen],
    )
    assert run.predicted == pytest.approx(
        LinearRegression().fit(ART.X[~test], ART.y[~test]).predict(ART.X[test]), abs=1e-6
    )
    assert {row.n for row in table.rows} == {20}


def test_images_on_both_sides_are_left_out_of_the_training() -> None:
    shared = replace(MAPS, X=MAPS.X.copy(), hashes=[*ART.hashes[:12], *MAPS.hashes[12:]])
    shared.X[:12] = ART.X[:12]
    table, predictions = evaluate([ART, shared], ["nearest"], make=make, train=["maps"], test=["art"])
    run = predictions.runs[0]
    assert not np.isin(run.predicted[:12], shared.y[:12]).any()
    assert table.notes == ["maps → art: 12 images are in both and WERE LEFT OUT OF THE TRAINING"]
    with pytest.raises(DrexcacheError, match="maps → art: not scored, only 5 images are left"):
        few = replace(shared, hashes=[*ART.hashes[:40], *MAPS.hashes[40:]])
        evaluate([ART, few], ["nearest"], make=make, train=["maps"], test=["art"])


def test_datasets_of_the_same_images_are_scored_inside_each() -> None:
    table, predictions = evaluate([ART, replace(ART, dataset="again", y=1 - ART.y)], ["line"], make=make)
    assert [run.cell for run in predictions.runs] == [("in-domain", "art", "art"), ("in-domain", "again", "again")]
    why = "not scored, only 0 images are left to train on, the others are in the test set too"
    assert [note for note in table.notes if "→" in note] == [f"art → again: {why}", f"again → art: {why}"]


def test_copies_of_an_image_never_stand_on_both_sides_of_a_fold() -> None:
    twice = np.repeat(np.arange(30), 2)
    doubled = replace(ART, X=ART.X[twice], y=ART.y[twice], hashes=[f"h{i}" for i in twice])
    table, predictions = evaluate([doubled], ["nearest"], make=make)
    run = predictions.runs[0]
    assert not (run.predicted == run.rated).any()  # the nearest would be the copy, and its rating right
    assert table.notes == ["art: 30 images are copies of another one, kept in the same fold"]


def test_a_split_with_shared_images_is_only_reported() -> None:
    leaky = replace(ART, hashes=["same", "same", *ART.hashes[2:]])
    assert evaluate([leaky], ["mean"], make=make, split="split")[0].notes == [
        "art: 1 image stands in both parts of its split split"
    ]


def test_seeds_and_repeats() -> None:
    _, predictions = evaluate([ART, MAPS], ["noisy"], make=make, seeds=(1, 2), repeats=3, train=["art"])
    inside = predictions.select(kind="in-domain").runs
    assert [(run.repeat, run.seed) for run in inside] == [(r, s) for r in range(3) for s in (1, 2)]
    assert inside[0].ids == inside[1].ids  # the same folds for both seeds
    assert inside[0].ids != inside[2].ids  # others in the next repeat
    assert not np.allclose(inside[0].predicted, inside[1].predicted)
    assert [(run.repeat, run.seed) for run in predictions.select(kind="cross").runs] == [(0, 1), (0, 2)]


def test_unrated_images_are_not_used() -> None:
    gaps = replace(ART, y=np.where(np.arange(60) < 8, np.nan, ART.y))
    run = evaluate([gaps], ["ridge"], make=make)[1].runs[0]
    assert sorted(run.ids) == ART.ids[8:]


def test_constant_predictions_have_no_correlation_although_folds_differ() -> None:
    table, predictions = evaluate([ART], ["mean"], make=make)
    run = predictions.runs[0]
    assert len(np.unique(run.predicted)) == 5
    assert np.corrcoef(run.rated, run.predicted)[0, 1] < 0  # what a naive pooling would report
    assert [(row.metric, row.value is None, row.low is None) for row in table.rows] == [
        (name, undefined, undefined) for name, undefined in zip(metrics.METRICS, [True] * 3 + [False] * 3, strict=True)
    ]


def grouped(counts: Sequence[int]) -> FeatureMatrix:
    names = [f"g{k:02}" for k, count in enumerate(counts) for _ in range(count)]
    return replace(ART, labels={"kind": names})


def test_scores_by_group_beside_the_pooled_one() -> None:
    table, predictions = evaluate([grouped([30, 21, 7, 2])], ["ridge"], make=make, groups="kind")
    run = predictions.runs[0]
    pearson = {row.group: row for row in table.select(metric="pearson").rows}
    assert {group: row.n for group, row in pearson.items()} == {"": 60, "g00": 30, "g01": 21, "g02": 7}
    members = np.array(run.group) == "g01"
    assert pearson["g01"].value == pytest.approx(metrics.pearson(run.rated[members], run.predicted[members]))
    assert table.notes == [
        "art: the pooled score mixes 4 groups; where each was rated on its own scale, look at the groups' rows",
        "art: 4 groups are too few to draw from, so the pooled interval is about new images of the same "
        "groups, not about new groups",
        "art: fewer than 10 images in group g02 (7), g03 (2): hardly a score",
    ]


def test_many_groups_give_a_bootstrap_over_groups() -> None:
    table, predictions = evaluate([grouped([5] * 12)], ["ridge"], make=make, groups="kind")
    run = predictions.runs[0]
    pooled = table.select(metric="pearson", group="").rows[0]
    assert (pooled.low, pooled.high) == metrics.interval("pearson", run.rated, run.predicted, groups=run.group)


def test_observed_ranges_are_noted() -> None:
    table, _ = evaluate([replace(ART, declared=False, low=3, high=88), MAPS], ["mean"], make=make)
    note = "art: ratings are put on [0, 1] by the lowest and highest seen (3, 88), not by a declared range"
    assert [line.startswith(note) for line in table.notes] == [True]
    assert not any(row.note for row in table.select(train="maps", test="maps").rows)


def test_predictions_and_scores_from_a_file_are_the_same(tmp_path: Path) -> None:
    table, predictions = evaluate([grouped([30, 30]), MAPS], ["ridge", "noisy"], make=make, groups=None, seeds=(1, 2))
    path = predictions_beside(tmp_path / "scores.csv")
    predictions.to_csv(path)
    assert path.read_text(encoding="utf-8").splitlines()[0] == (
        "regressor,kind,train,test,seed,repeat,fold,id,group,rated,predicted,target,attention_left,attention_right"
    )
    again = Predictions.read_csv(path)
    assert len(again.runs) == len(predictions.runs) == 16
    for one, other in zip(again.runs, predictions.runs, strict=True):
        assert (one.regressor, one.cell, one.seed, one.repeat) == (
            other.regressor,
            other.cell,
            other.seed,
            other.repeat,
        )
        assert list(one.ids) == list(other.ids)
        assert (one.rated == other.rated).all()
        assert (one.predicted == other.predicted).all()
        assert (one.fold == other.fold).all()
        assert list(one.attention) == list(other.attention) == ([] if one.regressor == "ridge" else ["left", "right"])
        assert all((one.attention[arm] == other.attention[arm]).all() for arm in one.attention)
    assert score(again).rows == [replace(row, seconds=None) for row in table.rows]


def test_attention_belongs_to_its_image() -> None:
    run = evaluate([ART], ["noisy"], make=make)[1].runs[0]
    expected = dict(zip(ART.ids, 1 / (1 + np.exp(-ART.X[:, 0])), strict=True))
    assert dict(zip(run.ids, run.attention["left"], strict=True)) == pytest.approx(expected)


def test_blocks_in_another_order_are_put_in_order() -> None:
    swapped = replace(MAPS, X=MAPS.X[:, [3, 4, 0, 1, 2]], blocks={"cues": slice(0, 2), "deep": slice(2, 5)})
    plain, other = (
        evaluate([ART, m], ["line"], make=make, train=["art"], test=["maps"])[1].runs[0] for m in (MAPS, swapped)
    )
    assert other.predicted == pytest.approx(plain.predicted, abs=1e-6)


def test_progress_counts_to_the_end_and_one_training_serves_all_test_sets() -> None:
    seen: list[tuple[int, int, str]] = []
    trained: list[str] = []

    def counted(name: str, matrix: FeatureMatrix, seed: int) -> Any:
        trained.append(matrix.dataset)
        return make(name, matrix, seed)

    evaluate([ART, MAPS, LOGOS], ["ridge"], make=counted, train=["art"], progress=lambda *step: seen.append(step))
    assert [step[:2] for step in seen] == [(k, 7) for k in range(7)]
    assert seen[0][2] == "ridge (seed 42), art → art"
    assert trained == ["art"] * 6


def test_default_regressors_are_the_projects_own() -> None:
    table, _ = evaluate([ART], ["ridge", "mean"])
    best, floor = (table.select(metric="rmse", regressor=name).rows[0].value for name in ("ridge", "mean"))
    assert best is not None
    assert floor is not None
    assert best < floor
    with pytest.raises(DrexcacheError, match="no regressor named rigde; did you mean ridge"):
        evaluate([ART], ["rigde"])


@pytest.mark.parametrize(
    ("matrices", "options", "message"),
    [
        ([], {}, "no dataset"),
        ([ART, replace(MAPS, dataset="art")], {}, "more than one is named art"),
        ([ART.rows(range(9))], {}, "art: needs at least 10 rated images; found 9"),
        ([replace(ART, y=np.full(60, np.nan))], {}, "found 0"),
        ([replace(ART, y=np.full(60, 0.3))], {}, "all 60 ratings are the same"),
        ([ART, MAPS], {"train": ["arts"]}, "no dataset named arts; did you mean art\\? there are: art, maps"),
        ([ART, MAPS], {"leave_one_out": True}, "at least 3 of them; found 2"),
        ([ART], {"folds": 61}, "art: folds must be 2 to 60"),
        ([ART], {"folds": 1}, "found 1"),
        ([ART], {"split": "half"}, "no label named half to split by; there are: split"),
        ([ART.rows(range(24))], {"split": "split"}, "has 16 rated images to train and 8 to test"),
        ([ART], {"groups": "kind"}, "no label named kind"),
        ([ART], {"seeds": ()}, "one or more different seeds"),
        ([ART], {"repeats": 0}, "repeats >= 1"),
        (
            [ART, replace(MAPS, fingerprints={"deep": "aa11", "cues": "cc33"})],
            {},
            "block cues has fingerprint bb22 in art but cc33 in maps",
        ),
        ([ART, MAPS.select(["deep"])], {}, "block cues is missing in maps"),
        (
            [ART, replace(MAPS, blocks={"deep": slice(0, 4), "cues": slice(4, 5)})],
            {},
            "block deep has width 3 in art but 4 in maps; block cues has width 2 in art but 1 in maps",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(matrices: list, options: dict, message: str) -> None:
    def never(name: str, matrix: FeatureMatrix, seed: int) -> Any:
        raise AssertionError("found out only after training began")

    with pytest.raises(DrexcacheError, match=message):
        evaluate(matrices, ["ridge"], make=never, **options)


def test_regressors_that_fail_are_one_sentence() -> None:
    for names, message in (([], "found: none"), (["ridge", "ridge"], "found: ridge, ridge")):
        with pytest.raises(DrexcacheError, match=message):
            evaluate([ART], names, make=make)
    with pytest.raises(DrexcacheError, match=r"nan \(seed 42\), art → art: predicted values that are not 12 finite"):
        evaluate([ART], ["nan"], make=make)
    broken = replace(ART, X=np.where(ART.X[3, 0] == ART.X, np.nan, ART.X))
    with pytest.raises(DrexcacheError, match=r"art: NaN or infinite features in block .*; extract these images again"):
        evaluate([broken], ["ridge"], make=make)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("predicted", "prediction", "no column predicted; it has: regressor, kind"),
        (",0.", ",zero.", "line 2: .* should be a number, found 'zero."),
        ("\n", "\n\n", ""),
    ],
)
def test_malformed_predictions(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "p.csv"
    evaluate([ART], ["ridge"], make=make)[1].to_csv(path)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    if not message:  # an empty line is no line
        assert len(Predictions.read_csv(path).runs[0].ids) == 60
        return
    with pytest.raises(DrexcacheError, match=message):
        Predictions.read_csv(path)


def test_predictions_that_are_none_or_double(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    Predictions().to_csv(path)
    with pytest.raises(DrexcacheError, match="holds no predictions"):
        Predictions.read_csv(path)
    evaluate([ART], ["ridge"], make=make)[1].to_csv(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines, lines[-1]]), encoding="utf-8")
    with pytest.raises(DrexcacheError, match=r"ridge predicts image .*\.png twice in one run"):
        Predictions.read_csv(path)


def test_fusion_heads_trained_together_are_those_trained_alone() -> None:
    def small(name: str, matrix: FeatureMatrix, seed: int) -> Any:
        return AttentionFusionRegressor(matrix.blocks, width=16, epochs=3, random_state=seed, device="cpu")

    steps: list[list[tuple[int, int]]] = [[], []]
    alone, together = (
        evaluate(
            [ART, MAPS, LOGOS], ["fusion"], make=small, folds=3, repeats=2, seeds=(1, 2), leave_one_out=True,
            together=count, progress=lambda done, total, _, seen=seen: seen.append((done, total)),
        )
        for count, seen in zip((1, 7), steps, strict=True)
    )  # fmt: skip
    for one, other in zip(alone[1].runs, together[1].runs, strict=True):
        assert (one.cell, one.seed, one.repeat, one.ids) == (other.cell, other.seed, other.repeat, other.ids)
        assert other.predicted == pytest.approx(one.predicted, abs=1e-5)
        assert other.attention["deep"] == pytest.approx(one.attention["deep"], abs=1e-5)
    # inside a dataset 3 folds x 2 repeats x 2 seeds, across 2 seeds, each with all but one 2 seeds
    total = 3 * (12 + 2 * 2 + 2)
    assert steps[0] == [(done, total) for done in range(total)]
    assert [done for done, _ in steps[1]][:4] == [0, 7, 12, 14]
