"""A table of attention: each arm's weight, averaged over the images of a cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drexcache.scores import Table, number, train_to_test
from drexcache.studies.evaluation.predictions import Predictions, Run

SAME = 0.01  # standard deviation over images below which a weight counts as constant


def attention_table(predictions: Predictions) -> list[Table]:
    """A table with a line per regressor and cell and a column per arm: mean ± standard deviation over the images.

    Runs (seeds, repeats) are first averaged image by image. Empty if no regressor has attention. Each image's weights
    are in the CSV of predictions, in a column ``attention_ARM`` per arm.
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
    title = "**Attention: mean weight ± deviation over the images**"
    same = [f"{name}, {train_to_test(train, test, kind)}" for (name, (kind, train, test)), runs in cells.items()
            if _is_constant(runs)]  # fmt: skip
    if same:
        title += f"\n\nThe attention is the same for every image: {'; '.join(same)}."
    return [Table(title, ["regressor", "train → test", *arms], body)]


def _mean_weight(runs: Sequence[Run], arm: str) -> str:
    if arm not in runs[0].attention:
        return ""
    weights = _image_weights(runs, arm)
    return f"{number(float(np.mean(weights)))} ± {number(float(np.std(weights)))}"


def _is_constant(runs: Sequence[Run]) -> bool:
    """Whether the weights of several arms hardly differ between images."""
    arms = runs[0].attention
    return len(arms) > 1 and all(np.std(_image_weights(runs, arm)) < SAME for arm in arms)


def _image_weights(runs: Sequence[Run], arm: str) -> list[float]:
    """Each image's weight, averaged over the runs."""
    sums: dict[str, list[float]] = {}
    for run in runs:
        for image, weight in zip(run.ids, run.attention[arm].tolist(), strict=True):
            sums.setdefault(image, []).append(weight)
    return [float(np.mean(own)) for own in sums.values()]
