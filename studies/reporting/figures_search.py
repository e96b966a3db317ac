"""The figures of a search: the scores of its trials as they came, and which settings they depend on."""

from __future__ import annotations

import numpy as np

from drexcache.metrics import higher_is_better
from drexcache.scores import NAMES
from drexcache.studies.reporting.figures import INK, SERIES, SYMBOLS, Figure, canvas_of, short, styled
from drexcache.studies.reporting.search import SearchStudy

MAX_SETTINGS = 12


def draw_search(study: SearchStudy, number: int) -> list[Figure]:
    """A history of every regressor, and its importances where there are any; ``number`` tells studies apart."""
    figures = []
    for place, regressor in enumerate(study.trials):
        figures.append(history(study, regressor, f"search-{number}-history-{place}"))
        if study.importance.get(regressor):
            figures.append(importances(study, regressor, f"search-{number}-importance-{place}"))
    return figures


@styled
def history(study: SearchStudy, regressor: str, name: str) -> Figure:
    """Score against trial, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    numbers, scores = (np.array(column) for column in zip(*study.trials[regressor], strict=True))
    best = (np.maximum if higher_is_better(study.metric) else np.minimum).accumulate(scores)
    canvas, axes = canvas_of(3.4, 2.5)
    axes.grid(True, axis="y")
    axes.scatter(numbers, scores, s=12, color=SERIES[0], alpha=0.6, linewidths=0)
    axes.step(numbers, best, where="post", color=SERIES[1], linewidth=1.6)
    low, high = np.quantile(scores, (0.05, 0.95))  # a few hopeless trials would press all others into a line
    worst, top = (low, scores.max()) if higher_is_better(study.metric) else (scores.min(), high)
    margin = 0.08 * (top - worst) or 0.01
    axes.set(ylim=(worst - margin, top + margin), xlabel="trial", ylabel=SYMBOLS[study.metric])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"{short(regressor, 30)}: best {best[-1]:.3f}", loc="left")
    return Figure(name, f"{regressor}: {NAMES[study.metric]} of {len(scores)} trials, best {best[-1]:.3f}", canvas)


@styled
def importances(study: SearchStudy, regressor: str, name: str) -> Figure:
    """How much of the scores' variance each setting explains, the largest first."""
    shares = sorted(study.importance[regressor].items(), key=lambda item: -item[1])[:MAX_SETTINGS]
    canvas, axes = canvas_of(3.4, 0.7 + 0.28 * len(shares))
    values = [share for _, share in shares]
    axes.barh(range(len(shares)), values, height=0.62, color=SERIES[0])
    for line, share in enumerate(values):
        axes.text(share + 0.01, line, f"{100 * share:.0f}%", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(shares)), [short(setting, 28) for setting, _ in shares])
    axes.set(ylim=(len(shares) - 0.4, -0.6), xlim=(0, 1.15 * max(values) or 1), xticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(f"{short(regressor, 24)}: what mattered", loc="left")
    told = ", ".join(f"{setting} {100 * share:.0f}%" for setting, share in shares)
    return Figure(name, f"{regressor}: share of the scores' variance: {told}", canvas)
