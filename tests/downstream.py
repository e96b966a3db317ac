"""A program that uses drexcache as its users would; .ci/run has mypy and pyright check it against an installation."""

from pathlib import Path

import numpy as np
import torch

import drexcache
from drexcache.features import Summary, extract, predict
from drexcache.studies import compare, evaluate


class Summing(torch.nn.Module):
    """A head that adds up what each arm says."""

    def __init__(self, widths: dict[str, int], hidden: int = 8) -> None:
        super().__init__()
        self.arms = torch.nn.ModuleDict({arm: torch.nn.Linear(width, hidden) for arm, width in widths.items()})

    def forward(self, arms: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack([self.arms[arm](x).sum(1) for arm, x in arms.items()]).sum(0)


def study(folder: Path) -> str:
    table = drexcache.read_images(folder / "photos", folder / "photos.csv", value_range=(1, 7))
    summary: Summary = extract(table, drexcache.recipe("offline"), folder / "photos.h5")
    cache: drexcache.FeatureCache = drexcache.open_cache(folder / "photos.h5")
    matrix: drexcache.FeatureMatrix = cache.matrix(["dino"])
    head = drexcache.AttentionFusionRegressor(matrix.blocks, epochs=2).fit(matrix.X, matrix.y)
    predicted: np.ndarray = head.predict(matrix.X)
    own = drexcache.TorchHeadRegressor(Summing, matrix.blocks, seeds=2, module__hidden=4).fit(matrix.X, matrix.y)
    predicted = (predicted + own.predict(matrix.X)) / 2
    print(cache.to_pandas(), drexcache.recipe("drex").to_pandas())
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
