"""Training on a cache that stays on disk: the same rows, the same heads, little memory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.testing import assert_allclose, assert_array_equal

from drexcache import DrexcacheError, load_model, open_cache
from drexcache.cache import rated_rows, rated_rows_of
from drexcache.cache.format import Contents, StoredBlock
from drexcache.cache.writer import start_writer
from drexcache.cli import main
from drexcache.datasets import sha256_of_ids
from drexcache.datasets.matching import Target
from drexcache.fusion.estimator import AttentionFusionRegressor
from drexcache.fusion.plan import CHUNK, WINDOW, Design, HeadSettings, local_permutation, make_plan
from drexcache.fusion.rows import StreamedRows
from drexcache.fusion.stacks import train_heads
from drexcache.fusion.training import TrainedHead
from drexcache.metrics import pearson
from drexcache.recipes import Block, Tap
from drexcache.regressors import Model, train_model, train_streamed
from drexcache.regressors.ridge import GramRidge

WIDTHS = {"a": (3, 5), "b": (16,)}  # each block's taps
DESIGN = Design(((0, 8), (8, 24)), width=16, batch_size=16)
MANY = 2 * WINDOW + 3000
QUICK = {"width": 128, "epochs": 5, "min_steps": 0}


def problem(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features in runs of alike rows, as a cache in the order of its folders has, and ratings that depend on them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) + np.repeat(rng.normal(size=(n // 500 + 1, d)), 500, axis=0)[:n]
    y = 1 / (1 + np.exp(-X[:, 0] - np.abs(X[:, d // 2]) + 0.3 * rng.normal(size=n)))
    return X.astype(np.float32), y


def store(
    path: Path, X: np.ndarray, y: np.ndarray, widths: dict[str, tuple[int, ...]] = WIDTHS, dtype: str = "float32"
) -> Path:
    """A cache of those features; every third image is of split "test"."""
    ids = tuple(f"{row:06}.png" for row in range(len(X)))
    blocks = {
        name: StoredBlock(
            Block(name, "any", tuple(Tap(f"layer{i}", "mean", f"t{i}") for i in range(len(dims)))),
            "0" * 64, "none", dims, dtype,
        )
        for name, dims in widths.items()
    }  # fmt: skip
    split = tuple("train" if row % 3 else "test" for row in range(len(X)))
    contents = Contents("made-up", ids, {"rating": Target("rating", y, 0, 1)}, {"split": split}, blocks,
                        table_sha256=sha256_of_ids(ids))  # fmt: skip
    writer, _ = start_writer(path, contents, [])
    with writer:
        for first in range(0, len(X), 4096):
            at = np.arange(first, min(first + 4096, len(X)))
            hashes = np.zeros((len(at), 32), "u1")
            hashes[:, :8] = at[:, None].view("u1")
            writer.put_files(at, hashes, np.ones((len(at), 2), "i8"), [""] * len(at))
            column = 0
            for name, block in blocks.items():
                writer.put(name, at, X[at, column : column + block.dim].astype(dtype))
                column += block.dim
            writer.tick()
        writer.finish(path)
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of more than two windows."""
    return store(tmp_path_factory.mktemp("many") / "many.h5", *problem(MANY, 24))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that one window holds, in float16; five images have no rating."""
    X, y = problem(300, 24)
    y[[3, 50, 51, 52, 299]] = np.nan
    return store(tmp_path_factory.mktemp("few") / "few.h5", X, y, dtype="float16")


def assert_same_head(found: TrainedHead, expected: TrainedHead, atol: float = 1e-6) -> None:
    for name, value in expected.parameters.items():
        assert_allclose(found.parameters[name], value, atol=atol, err_msg=name)
    assert_allclose([row["loss"] for row in found.log], [row["loss"] for row in expected.log], rtol=1e-5)


@pytest.mark.parametrize("n", [2, 1000, WINDOW, WINDOW + 1, 3 * WINDOW, MANY])
def test_a_local_shuffle_holds_each_row_once_and_needs_few_chunks_at_a_time(n: int) -> None:
    first, again, other = (local_permutation(n, torch.Generator().manual_seed(seed)).numpy() for seed in (0, 0, 1))
    assert_array_equal(np.sort(first), np.arange(n))
    assert_array_equal(first, again)
    assert n == 2 or (first != other).any()
    for start_ in range(0, n, WINDOW):
        window = np.sort(first[start_ : start_ + WINDOW])
        assert (np.diff(window) > 1).sum() <= WINDOW // CHUNK + 1  # pieces to read; one of them may wrap around
    if n > WINDOW:  # mixed thoroughly: a batch is no run of neighbours
        assert np.median(np.abs(np.diff(first))) > CHUNK


@pytest.mark.parametrize("batch_size", [16, 48, 1000, WINDOW + 10])
def test_every_step_gets_its_rows_and_each_row_comes_once_an_epoch(many: Path, batch_size: int) -> None:
    rows, design = rated_rows_of(open_cache(many)), replace(DESIGN, batch_size=batch_size, local_shuffle=True)
    X, _ = problem(MANY, 24)
    plan = make_plan(len(rows), [HeadSettings(epochs=2)], design)
    stream, seen = StreamedRows(rows, plan), []
    for t in range(len(plan.index)):
        found = stream.batch(t)
        assert_array_equal(found[0], X[plan.index[t, 0]])
        seen.append(plan.index[t, 0][plan.weight[t, 0] > 0])
    epochs = np.concatenate(seen).reshape(2, MANY)
    assert_array_equal(np.sort(epochs, axis=1), [np.arange(MANY)] * 2)
    assert (epochs[0] != epochs[1]).any()


@pytest.mark.parametrize("settings", [{}, {"standardize": True}, {"validation": np.arange(0, MANY, 7), "patience": 9}])
def test_the_stream_trains_the_head_that_memory_trains_in_the_same_order(many: Path, settings: dict) -> None:
    X, y = problem(MANY, 24)
    rows = None if "validation" not in settings else np.setdiff1d(np.arange(MANY), settings["validation"])
    head = HeadSettings(epochs=2, rows=rows, **settings)
    design = replace(DESIGN, batch_size=100, local_shuffle=True)
    ((expected,),) = train_heads(X, y, [(design, [head])])
    cached = rated_rows_of(open_cache(many))
    ((found,),), ((again,),) = (train_heads(cached, y, [(design, [head])]) for _ in range(2))
    assert_same_head(found, expected, atol=1e-4 if "standardize" in settings else 1e-6)
    for name, value in found.parameters.items():
        assert_array_equal(value, again.parameters[name])
    if "validation" in settings:
        watched = [[row["validation_loss"] for row in each.log] for each in (found, expected)]
        assert_allclose(*watched, rtol=1e-4)


@pytest.mark.parametrize("settings", [QUICK, QUICK | {"seeds": 2, "early_stopping": 2}, QUICK | {"standardize": True}])
def test_a_cache_of_one_window_gives_the_model_that_memory_gives(few: Path, settings: dict) -> None:
    cache = open_cache(few)
    for columns in (("a", "b"), ("b", "a/t1")):
        streamed = train_streamed("fusion", cache, columns, 7, settings=settings)
        resident = train_model("fusion", cache.matrix(columns), cache, columns, 7, settings=settings)
        assert_allclose(streamed.predict(cache).value, resident.predict(cache).value, atol=2e-5)
        assert streamed.trained == resident.trained
        assert list(streamed.estimator.arms_) == list(columns)
        assert described(streamed) == described(resident)


def described(model: Model) -> tuple[object, ...]:
    return model.regressor, model.columns, model.blocks, model.target, model.low, model.high, model.higher_is


def test_held_out_scores_are_as_good_as_in_memory(tmp_path: Path) -> None:
    X, y = problem(MANY + 2000, 24)
    cached = rated_rows_of(open_cache(store(tmp_path / "c.h5", X[:MANY], y[:MANY])))
    arms, scores = {"a": slice(0, 8), "b": slice(8, 24)}, {}
    for name, features in (("streamed", cached), ("in memory", X[:MANY])):
        head = AttentionFusionRegressor(arms, width=16, epochs=1, ema_horizon=0.1, lr=5e-3)
        head.fit_stream(features) if name == "streamed" else head.fit(features, y[:MANY])
        scores[name] = pearson(y[MANY:], head.predict(X[MANY:]))
    assert scores["in memory"] > 0.9 and abs(scores["streamed"] - scores["in memory"]) < 0.01, scores


def test_ridge_streams_and_equals_itself_in_memory(many: Path, few: Path) -> None:
    for cache in (open_cache(many), open_cache(few)):
        model = train_streamed("ridge", cache, split=("split", "train"))
        matrix = rated_rows(cache.matrix().where("split", "train"), "")
        expected = GramRidge().fit(matrix.X, matrix.y)
        assert model.estimator.alpha_ == expected.alpha_ and model.trained["images"] == len(matrix)
        assert_allclose(model.estimator.predict(matrix.X[:50]), expected.predict(matrix.X[:50]), atol=1e-6)


def test_memory_does_not_hold_the_cache(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60_000, 512)).astype("f4")
    large = store(tmp_path / "large.h5", X, rng.random(60_000), {"a": (512,)})
    small = store(tmp_path / "small.h5", X[:100], rng.random(100), {"a": (512,)})
    code = (
        "import resource, sys\n"
        "from drexcache import AttentionFusionRegressor, open_cache\n"
        "from drexcache.cache import rated_rows, rated_rows_of\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "def train(path):\n"
        "    head = AttentionFusionRegressor(width=16, epochs=2, batch_size=128)\n"
        "    rows = rated_rows_of(open_cache(path)); head.fit_stream(rows)\n"
        "train(sys.argv[1]); before = peak(); train(sys.argv[2]); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, small, large], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 64 < X.nbytes / 1e6 / 1.8  # MB: two windows of 16.8, and little else


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stderr


def test_the_command_trains_a_model_that_predicts(few: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "m.drex", tmp_path / "t.csv"
    said = run("train", few, "-r", "fusion-paper", "--stream", "--split", "split=train", "--log", log, "-o", out)
    assert "fusion-paper trained on 197 rated images of made-up; 103 images of the cache left out" in said
    assert len(log.read_text().splitlines()) == 11
    run("train", few, "-r", "fusion-paper", "--split", "split=train", "-o", tmp_path / "n.drex")
    streamed, resident = (load_model(path).predict(open_cache(few)) for path in (out, tmp_path / "n.drex"))
    assert_allclose(streamed.value, resident.value, atol=1e-5)
    run("predict", out, few, "-o", tmp_path / "p.csv")
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 301


def test_mistakes_are_one_sentence(few: Path, tmp_path: Path) -> None:
    cache = open_cache(few)
    for arguments, message in (
        ({"regressor": "svr"}, "svr needs all features in memory; fusion, fusion-paper and ridge can stream"),
        ({"columns": ("c",)}, "no block or tap named c; there are: a, a/t0, a/t1, b, b/t0"),
        ({"target": "beauty"}, "no target named beauty; there are: rating"),
        ({"split": ("fold", "1")}, "no label named fold; there are: split"),
        ({"split": ("split", "val")}, "no image with split=val; values: test, train"),
        ({"regressor": "ridge", "log": tmp_path / "t.csv"}, "ridge has no training log"),
    ):
        with pytest.raises(DrexcacheError, match=message):
            train_streamed(**({"regressor": "fusion", "cache": cache} | arguments))
    assert "svr needs all features in memory" in run(
        "train", few, "-r", "svr", "--stream", "-o", tmp_path / "m.drex", code=1
    )
    for y, message in (
        (np.full(20, np.nan), "0 rated images with features; training needs at least 2"),
        (np.full(20, 0.5), r"fusion cannot be trained: y is constant \(0.5 in all 20 rows\)"),
        (np.where(np.arange(20) == 4, np.inf, 0.5), "infinite ratings of 000004.png"),
    ):
        bad = open_cache(store(tmp_path / f"{message[:3]}.h5", np.ones((20, 24), "f4"), y))
        with pytest.raises(DrexcacheError, match=message):
            train_streamed("fusion", bad)


def test_values_that_are_not_finite_are_named_by_their_images(tmp_path: Path) -> None:
    X, y = problem(MANY, 24)
    X[[MANY - 1, MANY - 3], 10] = np.nan
    cache = open_cache(store(tmp_path / "c.h5", X, y))
    message = f"c.h5: NaN or infinite features in block b of (0{MANY - 3}.png, )?0{MANY - 1}.png; extract these images"
    for regressor, settings in (("fusion", QUICK), ("fusion", QUICK | {"standardize": True}), ("ridge", {})):
        with pytest.raises(DrexcacheError, match=message):
            train_streamed(regressor, cache, settings=settings)
    assert train_streamed("ridge", cache, ["a"]).trained["images"] == MANY, "only the columns chosen matter"
