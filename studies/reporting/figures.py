"""The figures of a report, one matplotlib Figure each, so that page and paper show the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from drexcache.bootstrap import Floats
from drexcache.errors import DrexcacheError
from drexcache.metrics import higher_is_better
from drexcache.scores import NAMES
from drexcache.studies.reporting.bands import calibration_band, spread_out
from drexcache.studies.reporting.results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# The light theme; on a page these become the theme's variables, see drexcache.studies.reporting.svg.
PAPER, INK, MUTED, GRID = "#ffffff", "#1c2128", "#646d78", "#dfe3e8"
# Okabe & Ito (2008), told apart by colour-blind readers too; without yellow, which is hard to see on white.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
ON_LIGHT, ON_DARK = "#000000", "#fefefe"  # text on a coloured cell, the same in every theme
MAX_ROWS = 20
Colour = tuple[float, float, float, float]
STYLE: Any = {  # matplotlib types every key by name
    "axes.edgecolor": MUTED, "axes.facecolor": PAPER, "axes.labelcolor": MUTED, "axes.labelsize": 9,
    "axes.linewidth": 0.6, "axes.spines.right": False, "axes.spines.top": False, "axes.titlecolor": INK,
    "axes.titlesize": 10, "axes.titleweight": "bold", "figure.facecolor": PAPER, "font.size": 9, "grid.color": GRID,
    "grid.linewidth": 0.6, "savefig.facecolor": PAPER, "text.color": INK, "text.parse_math": False,
    "xtick.color": MUTED, "xtick.labelsize": 8, "xtick.major.size": 0, "ytick.color": MUTED, "ytick.labelsize": 8,
    "ytick.major.size": 0,
}  # fmt: skip


@dataclass
class Points:
    """Points that stand for images: where they are in axes, and whose rows of which result they are."""

    axes: Axes
    x: Floats
    y: Floats
    result: Result
    rows: Sequence[int]


@dataclass
class Figure:
    """A drawn figure. name : its file's name, without ending; alt : what it shows, in words."""

    name: str
    alt: str
    canvas: Canvas
    points: list[Points] = field(default_factory=list)
    wide: bool = False


Draw = TypeVar("Draw", bound=Callable[..., Figure])


def styled(draw: Draw) -> Draw:
    """Draw with the report's style, whatever the user's own matplotlib settings are.

    Raises
    ------
    DrexcacheError : matplotlib is not installed.
    """

    @wraps(draw)
    def drawn(*args: Any, **options: Any) -> Figure:
        try:
            import matplotlib
        except ImportError as error:
            raise DrexcacheError("figures need matplotlib: pip install 'drexcache[report]'") from error
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return draw(*args, **options)

    return drawn  # type: ignore[return-value]


@styled
def scatter(result: Result, name: str) -> Figure:
    """Predicted against rated with the identity, and the calibration line with its 95% intervals.

    The calibration line is the mean rating of images with a given prediction (least squares of rated on
    predicted); the narrow band is the interval of that mean, the wide one holds 95% of the images.
    """
    canvas, axes = canvas_of(3.1, 3.25, at=(0.145, 0.125, 0.835, 0.755))
    axes.grid(True)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    band = calibration_band(result.rated, result.predicted)
    if band is not None:
        for reach, alpha in ((band.single, 0.08), (band.mean, 0.22)):
            axes.fill_betweenx(band.at, band.line - reach, band.line + reach, color=SERIES[1], alpha=alpha, linewidth=0)
        axes.plot(band.line, band.at, color=SERIES[1], linewidth=1.6, zorder=2)
    if result.spread is not None:
        axes.errorbar(
            result.rated, result.predicted, yerr=result.spread, fmt="none", ecolor=SERIES[0], elinewidth=0.5, alpha=0.35
        )
    axes.scatter(
        result.rated, result.predicted, s=13, color=SERIES[0], alpha=0.65, linewidths=0, clip_on=False, zorder=3
    )
    low, high = min(0.0, float(result.predicted.min())), max(1.0, float(result.predicted.max()))
    margin = 0.03 * (high - low)
    axes.set(xlim=(-0.03, 1.03), ylim=(low - margin, high + margin), xlabel="rated", ylabel="predicted")
    metric = SYMBOLS[result.metric]
    axes.set_title(short(result.title, 34), loc="left", pad=17)
    score = "undefined" if result.value is None else result.score
    axes.annotate(
        f"{metric} = {score}, n = {len(result.ids)}" if result.value is not None else f"{metric} {score}",
        (0, 1), (0, 5), "axes fraction", textcoords="offset points", fontsize=8, color=MUTED,
    )  # fmt: skip
    alt = f"{result.regressor}, {result.title}: predicted against rated, {NAMES[result.metric]} {result.score}"
    points = Points(axes, result.rated, result.predicted, result, range(len(result.ids)))
    return Figure(name, alt, canvas, [points])


@styled
def heat_map(regressor: str, results: Sequence[Result], limits: tuple[float, float], name: str) -> Figure:
    """Train sets (rows) against test sets (columns), each cell its value and interval on a colour of cividis.

    limits : values of the scale's ends, shared by the figures of one report.
    """
    from matplotlib import colormaps

    row_of = {id(one): "all others" if one.kind == "leave-one-out" else one.train for one in results}
    trains, tests = list(dict.fromkeys(row_of.values())), list(dict.fromkeys(one.test for one in results))
    canvas, axes = canvas_of(1.0 + 0.85 * len(tests), 0.95 + 0.58 * len(trains))
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
    return Figure(name, alt, canvas, wide=len(tests) > 4)


def _heat_cell(axes: Axes, x: int, y: int, one: Result, colour: Colour | None) -> None:
    """One cell: value and interval on its colour; without one where the value is undefined."""
    from matplotlib.patches import Rectangle

    on_cell = INK if colour is None else ON_LIGHT if _is_light(colour) else ON_DARK
    axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, facecolor=colour or GRID, linewidth=0))
    centred: Any = {"ha": "center", "va": "center", "color": on_cell}
    if one.value is None:
        axes.text(x, y, "undefined", fontsize=8, **centred)
    elif one.low is None or one.high is None:
        axes.text(x, y, _two(one.value), fontsize=11, weight="bold", **centred)
    else:
        axes.text(x, y - 0.1, _two(one.value), fontsize=11, weight="bold", **centred)
        axes.text(x, y + 0.27, f"{_two(one.low)} to {_two(one.high)}", fontsize=6.5, **centred)


@styled
def residuals(result: Result, name: str) -> Figure:
    """Predicted minus rated by group, the groups with the most images first; mean with its 95% interval."""
    names, counts = np.unique(np.asarray(result.group, dtype=str), return_counts=True)
    chosen = names[np.argsort(-counts, kind="stable")][:MAX_ROWS].tolist()
    group = np.asarray(result.group, dtype=str)
    rows = {one or "(none)": np.flatnonzero(group == one) for one in chosen}
    left = len(names) - len(chosen)
    title = f"{short(result.title, 30)}: predicted − rated" + (f" ({left} smaller groups left out)" if left else "")
    values = {one: result.residual[index] for one, index in rows.items()}
    figure = _strips(name, title, values, dict.fromkeys(rows, SERIES[0]), result, rows, zero=True)
    figure.alt = f"{result.regressor}, {result.title}: residuals by group"
    return figure


@styled
def attention(result: Result, name: str) -> Figure:
    """How much weight each image gives to each arm."""
    everyone = np.arange(len(result.ids))
    colours = {arm: SERIES[number % len(SERIES)] for number, arm in enumerate(result.attention)}
    title = f"{short(result.title, 34)}: attention"
    figure = _strips(name, title, result.attention, colours, result, dict.fromkeys(colours, everyone), zero=False)
    figure.alt = f"{result.regressor}, {result.title}: attention weight of each arm, " + ", ".join(
        f"{arm} median {np.median(weights):.2f}" for arm, weights in result.attention.items()
    )
    return figure


def _strips(
    name: str, title: str, values: Mapping[str, Floats], colours: Mapping[str, str], result: Result,
    rows: Mapping[str, np.ndarray], zero: bool,
) -> Figure:  # fmt: skip
    """A line of points per name, spread by their density; with a zero line the mean and its interval, else the
    median and the quartiles."""
    canvas, axes = canvas_of(3.4, 0.85 + 0.62 * len(values))
    axes.grid(True, axis="x")
    if zero:
        axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    points = []
    for line, (one, own) in enumerate(values.items()):
        heights = line + 0.36 * spread_out(own)
        axes.scatter(own, heights, s=11, color=colours[one], alpha=0.5, linewidths=0, clip_on=False)
        if zero:
            centre, reach = float(own.mean()), 1.96 * float(own.std(ddof=1)) / len(own) ** 0.5 if len(own) > 1 else 0.0
            low, high = centre - reach, centre + reach
        else:
            low, centre, high = (float(limit) for limit in np.quantile(own, (0.25, 0.5, 0.75)))
        axes.plot([low, high], [line, line], color=INK, linewidth=3, solid_capstyle="butt")
        axes.plot([centre], [line], marker="o", markersize=7, markerfacecolor=PAPER, markeredgecolor=INK)
        points.append(Points(axes, own, heights, result, rows[one].tolist()))
    axes.set_yticks(range(len(values)), [f"{short(one, 16)}\nn = {len(own)}" for one, own in values.items()])
    axes.set(ylim=(len(values) - 0.45, -0.55))
    if not zero:
        axes.set_xlim(-0.02, 1.02)
    axes.spines["left"].set_visible(False)
    axes.set_title(title, loc="left")
    return Figure(name, "", canvas, points)


SYMBOLS = {"pearson": "r", "spearman": "ρ", "kendall": "τ", "rmse": "RMSE", "mae": "MAE", "rmae": "RMAE"}


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def canvas_of(width: float, height: float, at: tuple[float, float, float, float] | None = None) -> tuple[Canvas, Axes]:
    """A figure without the state of pyplot; in inches, 72 dots each as in SVG.

    at : left, bottom, width and height of the axes, as shares; by default what the labels leave, which takes
    twice the time to draw.
    """
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, height), dpi=72, layout=None if at else "constrained")
    return canvas, canvas.add_axes(at) if at else canvas.subplots()


def short(text: str, limit: int) -> str:
    """A name that fits, without characters that no font shows.

    >>> short("a very long name of a dataset", 12)
    'a very long…'
    """
    text = "".join(character if character.isprintable() else "�" for character in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _is_light(colour: Colour) -> bool:
    """Whether black is easier to read on it than white (W3C's relative luminance above 0.18)."""
    linear = [((part + 0.055) / 1.055) ** 2.4 if part > 0.04 else part / 12.92 for part in colour[:3]]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) > 0.18
