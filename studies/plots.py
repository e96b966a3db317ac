"""Pictures of results as PNG or SVG files; needs matplotlib, which the extra [demo] brings."""

from __future__ import annotations

from pathlib import Path

from drexcache import metrics
from drexcache.errors import DrexcacheError
from drexcache.studies.predictions import Predictions

BLUE, GREY = "#0072b2", "#888888"  # told apart by colour-blind readers too


def scatter(predictions: Predictions, path: str | Path) -> None:
    """Predicted against rated, one panel per regressor (row) and in-domain data set (column), both on [0, 1].

    The file's ending (.png, .svg, .pdf) chooses the format.

    Raises
    ------
    DrexcacheError : matplotlib is not installed, or there is no in-domain prediction.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DrexcacheError("plots need matplotlib: pip install 'drexcache[demo]'") from error
    runs = {(run.regressor, run.train): run for run in predictions.runs if run.train == run.test}
    if not runs:
        raise DrexcacheError("no in-domain predictions to plot")
    names, datasets = list(dict.fromkeys(k[0] for k in runs)), list(dict.fromkeys(k[1] for k in runs))
    figure = Figure(figsize=(3.2 * len(datasets), 3.2 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), len(datasets), squeeze=False, sharex=True, sharey=True)
    for (name, dataset), run in runs.items():
        panel = axes[names.index(name)][datasets.index(dataset)]
        panel.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", zorder=0)
        panel.scatter(run.rated, run.predicted, s=14, color=BLUE, alpha=0.6, linewidths=0)
        r = metrics.pearson(run.rated, run.predicted)
        panel.set_title(f"{name}, {dataset}: " + ("r undefined" if r is None else f"r = {r:.2f}"), fontsize=10)
        panel.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), aspect="equal")
    figure.supxlabel("rated")
    figure.supylabel("predicted, out of fold")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise DrexcacheError(f"{path}: the plot could not be written ({error.strerror or error})") from error
