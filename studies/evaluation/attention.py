"""What attention looked at: each arm's weight, averaged over the images of a cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drexcache.scores import Table, number, train_to_test
from drexcache.studies.evaluation.predictions import Predictions, Run


def attention_table(predictions: Predictions) -> list[Table]:
    """A line per regressor with attention and cell, a column per arm: mean ± deviation over the images.

    Runs (seeds, repeats) are averaged image by image first. No table where no regressor has attention; each
    image's weights stand in the predictions' CSV, a column ``attention_ARM`` per arm.
    """
    cells: dict[tuple[str, tuple[str, str, str]], list[Run]] = {}
    for run in predictions.runs:
        if run.attention:
            cells.setdefault((run.regressor, run.cell), []).append(run)
    if not cells:
        return []
    arms = list(dict.fromkeys(arm for runs in cells.values() for arm in runs[0].attention))
    body = [
        [name, train_to_test(train, test, kind), *(_mean_weight(runs, arm) for arm in arms)]
        for (name, (kind, train, test)), runs in cells.items()
    ]
    return [Table("**Attention: mean weight ± deviation over the images**", ["regressor", "train → test", *arms], body)]


def _mean_weight(runs: Sequence[Run], arm: str) -> str:
    if arm not in runs[0].attention:
        return ""
    sums: dict[str, list[float]] = {}
    for run in runs:
        for image, weight in zip(run.ids, run.attention[arm].tolist(), strict=True):
            sums.setdefault(image, []).append(weight)
    weights = [float(np.mean(own)) for own in sums.values()]
    return f"{number(float(np.mean(weights)))} ± {number(float(np.std(weights)))}"
