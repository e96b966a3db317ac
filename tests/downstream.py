"""A program that uses drexcache as its users would; .ci/run has mypy and pyright check it against an installation."""

from pathlib import Path

import numpy as np

import drexcache
from drexcache.features import Summary, extract, predict
from drexcache.studies import compare, evaluate


def study(folder: Path) -> str:
    table = drexcache.read_images(folder / "photos", folder / "photos.csv", value_range=(1, 7))
    summary: Summary = extract(table, drexcache.recipe("offline"), folder / "photos.h5")
    cache: drexcache.FeatureCache = drexcache.open_cache(folder / "photos.h5")
    matrix: drexcache.FeatureMatrix = cache.matrix(["dino"])
    head = drexcache.AttentionFusionRegressor(matrix.blocks, epochs=2).fit(matrix.X, matrix.y)
    predicted: np.ndarray = head.predict(matrix.X)
    names: list[str] = list(drexcache.regressors())
    try:
        model: drexcache.Model = drexcache.load_model(folder / "photos.drex")
    except drexcache.DrexcacheError as error:
        return str(error)
    prediction, failures = predict(model, folder / "new")
    print(prediction.value, failures, summary, names, drexcache.metrics.pearson(predicted, matrix.y))
    scores, predictions = evaluate([matrix], ["ridge", "svr"])
    table_of_scores: drexcache.ScoreTable = scores
    return table_of_scores.markdown() + str(compare(predictions))
