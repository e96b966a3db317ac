"""The figures of a report, drawn once with matplotlib for both the page and papers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from drexcache.bootstrap import Floats
from drexcache.metrics import higher_is_better
from drexcache.scores import NAMES, number
from drexcache.studies.comparison import CurveTable
from drexcache.studies.reporting.drawing import (
    DASHED,
    GRID,
    INK,
    MUTED,
    PAPER,
    SERIES,
    SYMBOLS,
    Figure,
    Points,
    is_light,
    new_canvas,
    short,
    style,
)
from drexcache.studies.reporting.evidence import Evidence, Result, Scale
from drexcache.studies.reporting.maps import ImageMap
from drexcache.studies.reporting.searches import Search
from drexcache.studies.reporting.trends import history, importances, learning_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

ON_LIGHT, ON_DARK = "#000000", "#fefefe"  # text on a coloured cell, the same in every theme
MAX_GROUPS = 20


def draw_figures(
    evidence: Evidence, searches: Sequence[Search] = (), curves: Sequence[CurveTable] = (),
    maps: Sequence[ImageMap] = (),
) -> list[Figure]:  # fmt: skip
    """Every figure of every regressor, search, learning curve and map of images.

    Raises
    ------
    DrexcacheError : matplotlib is not installed.
    """
    known = [result.value for result in evidence.results if result.value is not None]
    limits = (min(known, default=0.0), max(known, default=1.0))
    drawn: list[tuple[Figure, Result | None]] = []
    with style():
        for regressor in evidence.regressors:
            own, home = evidence.of(regressor), evidence.home(regressor)
            if any(result.kind == "cross" for result in own):
                drawn.append((heat_map(regressor, own, limits), None))
            for result in own:
                at_home = any(result is one for one in home)
                figures = [scatter(result)]
                figures += [residuals(result)] if len(set(result.group)) > 1 else []
                figures += [attention(result)] if result.attention else []
                figures += [contributions(result)] if result.contributions else []
                figures += [error_map(one, result) for one in maps if at_home and one.dataset == result.test]
                for figure in figures:
                    figure.home = at_home
                    drawn.append((figure, result))
        for search in searches:
            for regressor in search.trials:
                drawn.append((history(search, regressor), None))
                if search.importance.get(regressor):
                    drawn.append((importances(search, regressor), None))
        drawn += [(learning_curve(one), None) for one in curves]
        drawn += [(rating_map(one), None) for one in maps]
    taken: set[str] = set()
    for figure, about in drawn:
        figure.name = _name(figure, about, taken)
    return [figure for figure, _ in drawn]


def _name(figure: Figure, result: Result | None, taken: set[str]) -> str:
    """An unused name of letters, digits and dashes only, whatever the regressor is called."""
    where = [] if result is None else [result.test] if result.inside else [result.train, "to", result.test]
    parts = [re.sub("[^A-Za-z0-9]+", "-", part).strip("-")[:30] for part in (figure.kind, figure.owner, *where)]
    stem = "-".join(part for part in parts if part)
    numbered = (f"{stem}-{number}" if number > 1 else stem for number in count(1))
    name = next(name for name in numbered if name.lower() not in taken)  # some file systems ignore case
    taken.add(name.lower())
    return name


def scatter(result: Result) -> Figure:
    """Predicted against rated, with the identity line, and the calibration line with its 95% intervals.

    The calibration line is the mean rating of images with a given prediction (least squares of rated on
    predicted); the narrow band is the interval of that mean, the wide one holds 95% of the images.
    """
    canvas, axes = new_canvas(3.1, 3.25, at=(0.145, 0.125, 0.835, 0.755))
    axes.grid(True)
    least, most = result.scale.limits
    axes.plot([least, most], [least, most], **DASHED)
    band = calibration_band(result.rated, result.predicted)
    if band is not None:
        for reach, alpha in ((band.single, 0.08), (band.mean, 0.22)):
            axes.fill_betweenx(band.at, band.line - reach, band.line + reach, color=SERIES[1], alpha=alpha, linewidth=0)
        axes.plot(band.line, band.at, color=SERIES[1], linewidth=1.6, zorder=2)
    x, y, blue = result.rated, result.predicted, SERIES[0]
    if result.spread is not None:
        axes.errorbar(x, y, yerr=result.spread, fmt="none", ecolor=blue, elinewidth=0.5, alpha=0.35)
    axes.scatter(x, y, s=13, color=blue, alpha=0.65, linewidths=0, clip_on=False, zorder=3)
    low, high = min(least, float(y.min())), max(most, float(y.max()))
    margins = 0.03 * (most - least), 0.03 * (high - low)
    axes.set(xlim=(least - margins[0], most + margins[0]), ylim=(low - margins[1], high + margins[1]))
    axes.set(xlabel="rated" if result.scale != Scale() else "rated, on 0 to 1", ylabel="predicted")
    axes.set_title(short(result.title, 34), loc="left", pad=17)
    metric, known = SYMBOLS[result.metric], result.value is not None
    said = f"{metric} = {result.score}, n = {len(result.ids)}" if known else f"{metric} {result.score}"
    axes.annotate(said, (0, 1), (0, 5), "axes fraction", textcoords="offset points", fontsize=8, color=MUTED)
    alt = f"{result.regressor}, {result.title}: predicted against rated, {NAMES[result.metric]} {result.score}"
    return Figure("scatter", result.regressor, alt, canvas, [Points(axes, x, y, result, range(len(x)))])


def heat_map(regressor: str, results: Sequence[Result], limits: tuple[float, float]) -> Figure:
    """Train sets (rows) by test sets (columns), each cell showing its value and interval on a cividis colour.

    limits : the values at the ends of the colour scale, shared by all heat maps of a report.
    """
    from matplotlib import colormaps

    row_of = {id(one): "all others" if one.kind == "leave-one-out" else one.train for one in results}
    trains, tests = list(dict.fromkeys(row_of.values())), list(dict.fromkeys(one.test for one in results))
    canvas, axes = new_canvas(1.0 + 0.85 * len(tests), 0.95 + 0.58 * len(trains))
    metric = results[0].metric
    colours = colormaps["cividis" if higher_is_better(metric) else "cividis_r"]
    for one in results:
        share = None if one.value is None else (one.value - limits[0]) / max(limits[1] - limits[0], 1e-9)
        colour = None if share is None else colours(share)
        _heat_cell(axes, tests.index(one.test), trains.index(row_of[id(one)]), one, colour)
    axes.set(xlim=(-0.5, len(tests) - 0.5), ylim=(len(trains) - 0.5, -0.5), ylabel="trained on")
    axes.set_xticks(range(len(tests)), [short(test, 14) for test in tests])
    axes.set_yticks(range(len(trains)), [short(train, 14) for train in trains])
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("tested on")
    axes.spines[:].set_visible(False)
    canvas.suptitle(short(regressor, 40), x=0.02, ha="left", fontsize=10, fontweight="bold")
    alt = f"{regressor}: {NAMES[metric]} of every train set (rows) on every test set (columns)"
    return Figure("matrix", regressor, alt, canvas, wide=len(tests) > 4)


def _heat_cell(axes: Axes, x: int, y: int, one: Result, colour: tuple[float, ...] | None) -> None:
    """Draw one cell: value and interval on its colour, or "undefined" on grey."""
    from matplotlib.patches import Rectangle

    on_cell = INK if colour is None else ON_LIGHT if is_light(colour) else ON_DARK
    axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, facecolor=colour or GRID, linewidth=0))
    centred: Any = {"ha": "center", "va": "center", "color": on_cell}
    if one.value is None:
        axes.text(x, y, "undefined", fontsize=8, **centred)
        return
    with_interval = one.low is not None and one.high is not None
    axes.text(x, y - 0.1 * with_interval, number(one.value, digits=2), fontsize=11, weight="bold", **centred)
    if one.low is not None and one.high is not None:
        interval = f"{number(one.low, digits=2)} to {number(one.high, digits=2)}"
        axes.text(x, y + 0.27, interval, fontsize=6.5, **centred)


def residuals(result: Result) -> Figure:
    """Predicted minus rated by group, largest group first; mean with its 95% interval."""
    group = np.asarray(result.group, dtype=str)
    names, counts = np.unique(group, return_counts=True)
    chosen = names[np.argsort(-counts, kind="stable")][:MAX_GROUPS].tolist()
    rows = {one or "(none)": np.flatnonzero(group == one) for one in chosen}
    left = len(names) - len(chosen)
    title = f"{short(result.title, 30)}: predicted − rated" + (f" ({left} smaller groups left out)" if left else "")
    canvas, axes = new_canvas(3.4, 0.85 + 0.62 * len(rows))
    axes.axvline(0, **DASHED)
    values = {one: result.residual[index] for one, index in rows.items()}
    summaries = []
    for own in values.values():
        reach = 1.96 * float(own.std(ddof=1)) / len(own) ** 0.5 if len(own) > 1 else 0.0
        summaries.append((float(own.mean()) - reach, float(own.mean()), float(own.mean()) + reach))
    labels = [f"{short(one, 16)}\nn = {len(own)}" for one, own in values.items()]
    points = _strips(axes, values, summaries, [SERIES[0]] * len(rows), result, rows, labels)
    axes.set_title(title, loc="left")
    alt = f"{result.regressor}, {result.title}: residuals by group"
    return Figure("residuals", result.regressor, alt, canvas, points)


def attention(result: Result) -> Figure:
    """The weight that each image gives to each arm, with median and quartiles.

    Every fold's model has a different average weight by chance. The points are shifted to the common average, so that
    they show only differences between images.
    """
    canvas, axes = new_canvas(3.4, 0.85 + 0.62 * len(result.attention))
    quartiles = [np.quantile(own, (0.25, 0.5, 0.75)).tolist() for own in result.attention.values()]
    colours = [SERIES[place % len(SERIES)] for place in range(len(result.attention))]
    rows = dict.fromkeys(result.attention, np.arange(len(result.ids)))
    labels = []
    for arm, (low, high) in result.fold_averages.items():
        labels.append(short(arm, 16) + (f"\nfolds {low:.2f} to {high:.2f}" if high > low else ""))
    points = _strips(axes, result.attention, quartiles, colours, result, rows, labels)
    axes.set_xlim(-0.02, 1.02)
    axes.set_title(f"{short(result.title, 34)}: attention", loc="left")
    medians = ", ".join(f"{arm} median {own[1]:.2f}" for arm, own in zip(result.attention, quartiles, strict=True))
    alt = f"{result.regressor}, {result.title}: attention weight of each arm, {medians}"
    return Figure("attention", result.regressor, alt, canvas, points)


def contributions(result: Result) -> Figure:
    """How far each arm moves each prediction away from that of the mean image, with median and quartiles."""
    canvas, axes = new_canvas(3.4, 0.85 + 0.62 * len(result.contributions))
    axes.axvline(0, **DASHED)
    quartiles = [np.quantile(own, (0.25, 0.5, 0.75)).tolist() for own in result.contributions.values()]
    colours = [SERIES[place % len(SERIES)] for place in range(len(result.contributions))]
    sizes = {arm: number(float(np.abs(own).mean()), result.scale.digits) for arm, own in result.contributions.items()}
    labels = [f"{short(arm, 16)}\nmean ±{size}" for arm, size in sizes.items()]
    rows = dict.fromkeys(result.contributions, np.arange(len(result.ids)))
    points = _strips(axes, result.contributions, quartiles, colours, result, rows, labels)
    axes.set_title(f"{short(result.title, 30)}: contributions", loc="left")
    means = ", ".join(f"{arm} {size}" for arm, size in sizes.items())
    alt = f"{result.regressor}, {result.title}: how far each arm moves a prediction, on average {means}"
    return Figure("contributions", result.regressor, alt, canvas, points)


def rating_map(images: ImageMap) -> Figure:
    """The images where they are on the map, coloured by their rating."""
    result, low_high = images.result, images.result.scale.limits
    canvas = _map(images, result, result.rated, "viridis", low_high, "rated")
    alt = f"{images.dataset}: map of {len(images.rows)} images, those alike beside each other, coloured by rating"
    return Figure("map", images.dataset, alt, canvas[0], [canvas[1]])


def error_map(images: ImageMap, result: Result) -> Figure:
    """The images where they are on the map, coloured by how far a regressor is off."""
    from matplotlib.colors import LinearSegmentedColormap

    reach = float(np.quantile(np.abs(result.residual), 0.95)) or 1.0  # a few outliers would leave the others grey
    colours = LinearSegmentedColormap.from_list("error", [SERIES[0], "#aab2bc", SERIES[1]])
    canvas = _map(images, result, result.residual, colours, (-reach, reach), "predicted − rated")
    alt = f"{result.regressor}, {result.title}: map of the images, coloured by the error of their predictions"
    return Figure("errors", result.regressor, alt, canvas[0], [canvas[1]])


def _map(
    images: ImageMap, result: Result, values: Floats, colours: Any, limits: tuple[float, float], what: str
) -> tuple[Canvas, Points]:
    """The map's images that the result has, coloured by values (n,) in the result's order."""
    row_of = {image: row for row, image in enumerate(result.ids)}
    seen = [(row_of[image], at) for at, row in enumerate(images.rows) if (image := images.ids[row]) in row_of]
    rows, at = [row for row, _ in seen], images.at[[place for _, place in seen]]
    canvas, axes = new_canvas(3.4, 3.3)
    x, y = at.T
    drawn = axes.scatter(x, y, s=13, c=values[rows], cmap=colours, vmin=limits[0], vmax=limits[1], linewidths=0)
    drawn.set_cmap(drawn.get_cmap().resampled(24))  # a bar of few steps, which are elements of the page
    bar = canvas.colorbar(drawn, ax=axes, location="bottom", fraction=0.05, pad=0.02, aspect=30, extend="neither")
    bar.outline.set_visible(False)
    bar.set_label(what)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(f"{short(images.dataset, 22)}: {what}", loc="left")
    return canvas, Points(axes, x, y, result, rows)


def _strips(
    axes: Axes, values: Mapping[str, Floats], summaries: Sequence[Sequence[float]], colours: Sequence[str],
    result: Result, rows: Mapping[str, np.ndarray], labels: Sequence[str],
) -> list[Points]:  # fmt: skip
    """Draw a line of points per name, spread by density, with (low, centre, high) of each on top."""
    axes.grid(True, axis="x")
    points = []
    for line, (name, own) in enumerate(values.items()):
        heights, (low, centre, high) = line + 0.36 * spread_out(own), summaries[line]
        axes.scatter(own, heights, s=11, color=colours[line], alpha=0.5, linewidths=0, clip_on=False)
        axes.plot([low, high], [line, line], color=INK, linewidth=3, solid_capstyle="butt")
        axes.plot([centre], [line], marker="o", markersize=7, markerfacecolor=PAPER, markeredgecolor=INK)
        points.append(Points(axes, own, heights, result, rows[name].tolist()))
    axes.set_yticks(range(len(values)), labels)
    axes.set(ylim=(len(values) - 0.45, -0.55))
    axes.spines["left"].set_visible(False)
    return points


@dataclass(frozen=True)
class Band:
    """A least-squares line of rated on predicted with 95% intervals, (k,) each.

    at : predictions. line : mean rating there. mean, single : half-width of the interval of that mean, and of a
    single image's rating.
    """

    at: Floats
    line: Floats
    mean: Floats
    single: Floats


def calibration_band(rated: Floats, predicted: Floats, steps: int = 40) -> Band | None:
    """The calibration line over the range of the predictions; None if they are constant.

    The intervals are those of simple linear regression with Student's t (Draper & Smith 1998, Applied Regression
    Analysis, 3rd ed., sections 1.4 and 3.1).

    >>> band = calibration_band(np.array([0.0, 1, 2, 3]), np.array([0.0, 2, 4, 6]))
    >>> band.line[[0, -1]].tolist(), round(float(band.mean.max()), 6)
    ([0.0, 3.0], 0.0)
    """
    n = len(predicted)
    if n < 3 or np.ptp(predicted) <= 1e-12 * np.abs(predicted).max():
        return None
    fit = stats.linregress(predicted, rated)
    square = ((predicted - predicted.mean()) ** 2).sum()
    at = np.linspace(predicted.min(), predicted.max(), steps)
    variance = 1 / n + (at - predicted.mean()) ** 2 / square
    reach = stats.t.ppf(0.975, n - 2) * fit.stderr * square**0.5  # Student's t times the residual standard deviation
    return Band(at, fit.intercept + fit.slope * at, reach * np.sqrt(variance), reach * np.sqrt(1 + variance))


def spread_out(values: Floats) -> Floats:
    """Offsets (n,) on [-1, 1] that show where values are dense: a violin made of points.

    Inside the violin the points follow multiples of the golden ratio, which are even and reproducible.

    >>> spread_out(np.array([1.0, 1.0])).round(2).tolist()
    [-1.0, 0.24]
    """
    order = np.argsort(np.argsort(values, kind="stable"))
    even = np.asarray(2 * ((order * 0.6180339887498949) % 1.0) - 1, dtype=np.float64)
    if len(values) < 3 or np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return even
    at = np.linspace(values.min(), values.max(), 200)
    density = np.interp(values, at, stats.gaussian_kde(values)(at))
    return np.asarray(even * density / density.max(), dtype=np.float64)
