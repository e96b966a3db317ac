"""Scores and predictions on disk as evaluate writes them, made without training, for the tests of what reads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from drexcache import FeatureMatrix, import_features, open_cache
from drexcache.studies import evaluate, ledger
from drexcache.studies.evaluation.predictions import Predictions, Run, predictions_beside
from drexcache.studies.evaluation.scoring import score


def run_of(
    regressor: str, train: str, test: str, ids: Sequence[str], *, noise: float = 0.1, seed: int = 42,
    group: Sequence[str] = (), attention: Sequence[str] = (), constant: bool = False,
) -> Run:  # fmt: skip
    """Ratings that depend on the test set alone, and predictions around them with that much noise."""
    n = len(ids)
    rated = np.random.default_rng([7, len(test)]).uniform(size=n)
    draw = np.random.default_rng([seed, len(regressor), 3, len(train), len(test)])
    predicted = np.full(n, 0.4) if constant else 0.1 + 0.8 * rated + draw.normal(scale=noise, size=n)
    weights = draw.dirichlet(np.ones(len(attention)), n).T if attention else []
    return Run(
        regressor, "in-domain" if train == test else "cross", train, test, seed, 0, ids, np.arange(n) % 5, rated,
        predicted, group, dict(zip(attention, weights, strict=True)), seconds=1.5,
    )  # fmt: skip


def save_scores(path: Path, runs: Sequence[Run], noise: Mapping[str, float] | None = None) -> Path:
    """SCORES.csv and the predictions beside it. noise : test set -> variance of the errors of rating."""
    path.parent.mkdir(parents=True, exist_ok=True)
    predictions = Predictions(list(runs))
    score(predictions, noise=noise).to_csv(path)
    predictions.to_csv(predictions_beside(path))
    return path


def rated_scenes(n: int = 200) -> FeatureMatrix:
    """Images of 20 scenes, whose ratings follow the scene."""
    rng = np.random.default_rng(0)
    scenes = rng.normal(size=(20, 8))
    scene = np.arange(n) % 20
    X = (scenes[scene] + 0.1 * rng.normal(size=(n, 8))).astype("f4")
    y = 0.5 + 0.1 * scenes[scene, 0] + 0.01 * rng.normal(size=n)
    return FeatureMatrix(X, y, names(n), {"cues": slice(0, 8)}, dataset="made")


def evaluated_cache(folder: Path, n: int = 80, **options: object) -> Path:
    """SCORES.csv of ridge on made.h5: 011.png is a copy of 003.png, and 033.png is rated far too high."""
    made = rated_scenes(n)
    made.X[11], made.y[11] = made.X[3], made.y[3]
    made.y[33] = 1.5
    lines = "\n".join(f"{image},{100 * y}" for image, y in zip(made.ids, made.y, strict=True))
    (folder / "ratings.csv").write_text(f"file,rating\n{lines}\n")
    cache, scores = folder / "made.h5", folder / "scores.csv"
    import_features(
        made.X, cache, "cues", ids=made.ids, ratings=folder / "ratings.csv", value_range=(-100, 200),
        dataset="made", say=lambda line: None,
    )  # fmt: skip
    matrix = open_cache(cache).matrix()
    table, predictions = evaluate([matrix], ["ridge"], **options)
    table.to_csv(scores)
    predictions.to_csv(predictions_beside(scores))
    ledger.append(
        scores, "evaluate", caches=ledger.caches_of({"made.h5": matrix}), command="evaluate", files=["scores.csv"]
    )
    return scores


def names(n: int) -> list[str]:
    return [f"{number:03}.png" for number in range(n)]


def two_datasets(path: Path, n: int = 30) -> Path:
    """ridge, fusion (with attention) and poor inside and across art and photos; photos have groups."""
    groups = ["street", "wood", "kitchen"] * n
    runs = [
        run_of(
            name, train, test, names(n), noise=noise, attention=("dino", "resnet") if name == "fusion" else (),
            group=groups[:n] if test == "photos" else (),
        )
        for name, noise in (("ridge", 0.1), ("fusion", 0.101), ("poor", 0.9))
        for train in ("art", "photos")
        for test in ("art", "photos")
    ]  # fmt: skip
    return save_scores(path, runs)


def pictures(folder: Path, ids: Sequence[str], size: tuple[int, int] = (40, 30)) -> Path:
    """A flat picture per id, each of its own colour."""
    for number, name in enumerate(ids):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number % 256, 80, 160)).save(path)
    return folder
