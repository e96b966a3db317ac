"""The figures of a report that show how scores grow: over the trials of a search, and with more images or ratings."""

from __future__ import annotations

import numpy as np

from drexcache.errors import several
from drexcache.metrics import higher_is_better
from drexcache.scores import NAMES
from drexcache.studies.comparison import CurveTable
from drexcache.studies.reporting.drawing import INK, SERIES, SYMBOLS, Figure, new_canvas, short
from drexcache.studies.reporting.searches import Search

MAX_SETTINGS = 12


def history(search: Search, regressor: str) -> Figure:
    """The score of every trial of a search, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    numbers, scores = (np.array(column) for column in zip(*search.trials[regressor], strict=True))
    best = (np.maximum if higher_is_better(search.metric) else np.minimum).accumulate(scores)
    canvas, axes = new_canvas(3.4, 2.5)
    axes.grid(True, axis="y")
    axes.scatter(numbers, scores, s=12, color=SERIES[0], alpha=0.6, linewidths=0)
    axes.step(numbers, best, where="post", color=SERIES[1], linewidth=1.6)
    low, high = np.quantile(scores, (0.05, 0.95))  # a few hopeless trials would squeeze all others into a line
    worst, top = (low, scores.max()) if higher_is_better(search.metric) else (scores.min(), high)
    margin = 0.08 * (top - worst) or 0.01
    axes.set(ylim=(worst - margin, top + margin), xlabel="trial", ylabel=SYMBOLS[search.metric])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"{short(regressor, 30)}: best {best[-1]:.3f}", loc="left")
    alt = f"{regressor}: {NAMES[search.metric]} of {several(len(scores), 'trial')}, best {best[-1]:.3f}"
    return Figure("search", f"{search.folder}", alt, canvas)


def importances(search: Search, regressor: str) -> Figure:
    """The share of the variance of a search's scores that each setting explains, largest first."""
    shares = sorted(search.importance[regressor].items(), key=lambda item: -item[1])[:MAX_SETTINGS]
    canvas, axes = new_canvas(3.4, 0.7 + 0.28 * len(shares))
    values = [share for _, share in shares]
    axes.barh(range(len(shares)), values, height=0.62, color=SERIES[0])
    for line, share in enumerate(values):
        axes.text(share + 0.01, line, f"{100 * share:.0f}%", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(shares)), [short(setting, 28) for setting, _ in shares])
    axes.set(ylim=(len(shares) - 0.4, -0.6), xlim=(0, 1.15 * max(values) or 1), xticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(f"{short(regressor, 24)}: what mattered", loc="left")
    told = ", ".join(f"{setting} {100 * share:.0f}%" for setting, share in shares)
    return Figure("search", f"{search.folder}", f"{regressor}: share of the scores' variance: {told}", canvas)


def learning_curve(curve: CurveTable) -> Figure:
    """Scores after training on more images or ratings, and the fitted law with its band, dashed where it goes on."""
    measured, fitted = curve.measured, curve.fitted
    what = {"images": "rated images to train on", "ratings": "ratings of each image to train on"}[curve.of]
    canvas, axes = new_canvas(3.4, 2.5)
    axes.grid(True, axis="y")
    errors = [measured["value"] - measured["low"], measured["high"] - measured["value"]]
    axes.errorbar(measured["size"], measured["value"], yerr=errors, fmt="o", markersize=4, color=SERIES[0], linewidth=1)
    if len(fitted):
        last = measured["size"].iloc[-1]
        axes.fill_between(fitted["size"], fitted["low"], fitted["high"], color=SERIES[0], alpha=0.15, linewidth=0)
        for part, line in ((fitted[fitted["size"] <= last], "-"), (fitted[fitted["size"] >= last], "--")):
            axes.plot(part["size"], part["value"], line, color=SERIES[1], linewidth=1.4)
    axes.set(xscale="log", xlabel=what, ylabel="r")
    axes.set_title(f"{short(curve.regressor, 20)}, {short(curve.dataset, 14)}", loc="left")
    (least, r), (most, best) = measured[["size", "value"]].iloc[[0, -1]].to_numpy()
    alt = f"{curve.regressor} on {curve.dataset}: r {r:.3f} to {best:.3f} with {least:.0f} to {most:.0f} {what}"
    return Figure("curve", curve.regressor, alt, canvas)
