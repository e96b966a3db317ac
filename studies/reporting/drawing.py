"""What all figures of a report share: their colours and style, the canvas they are drawn on, and what one holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from drexcache.bootstrap import Floats
from drexcache.errors import DrexcacheError
from drexcache.studies.reporting.evidence import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

SYMBOLS = {"pearson": "r", "spearman": "ρ", "kendall": "τ", "rmse": "RMSE", "mae": "MAE", "rmae": "RMAE"}
# The light theme; on the page these become CSS variables, see drexcache.studies.reporting.svg.
PAPER, INK, MUTED, GRID = "#ffffff", "#1c2128", "#646d78", "#dfe3e8"
# Okabe & Ito (2008), distinguishable for colour-blind readers; without yellow, which is hard to see on white.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHED: Any = {"color": MUTED, "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 1}
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
    """Points that stand for images: their position in the axes, and the rows of the result that they show."""

    axes: Axes
    x: Floats
    y: Floats
    result: Result
    rows: Sequence[int]


@dataclass
class Figure:
    """A drawn figure. alt : what it shows, in words.

    kind : "matrix", "scatter", "residuals", "attention", "contributions", "map" (of ratings), "errors" (a map of
    them), "search" or "curve". owner : the regressor, the dataset of a map of ratings, or the search's folder.
    home : whether it shows one of the owner's `Evidence.home` results.
    name : the file name without extension, and the id on the page.
    """

    kind: str
    owner: str
    alt: str
    canvas: Canvas
    points: list[Points] = field(default_factory=list)
    wide: bool = False
    home: bool = True
    name: str = ""


@contextmanager
def style(**more: Any) -> Iterator[None]:
    """A context with the report's style, whatever the user's own matplotlib settings; for drawing and saving.

    Raises
    ------
    DrexcacheError : matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise DrexcacheError("figures need matplotlib: pip install 'drexcache[report]'") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | more)
        yield


def new_canvas(width: float, height: float, at: tuple[float, float, float, float] | None = None) -> tuple[Canvas, Axes]:
    """A figure and its axes, made without pyplot's global state; sizes in inches of 72 dots, as in SVG.

    at : left, bottom, width and height of the axes, as fractions; by default fitted around the labels, which takes
    twice as long to draw.
    """
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, height), dpi=72, layout=None if at else "constrained")
    return canvas, canvas.add_axes(at) if at else canvas.subplots()


def short(text: str, limit: int) -> str:
    """The text cut to ``limit`` characters, with unprintable ones replaced.

    >>> short("a very long name of a dataset", 12)
    'a very long…'
    """
    text = "".join(character if character.isprintable() else "�" for character in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def is_light(colour: Sequence[float]) -> bool:
    """Whether black is easier to read than white on this colour (W3C relative luminance above 0.18)."""
    linear = [((part + 0.055) / 1.055) ** 2.4 if part > 0.04 else part / 12.92 for part in colour[:3]]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) > 0.18
