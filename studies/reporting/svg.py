"""Saving a figure: as SVG inside the page, in the page's colours, and as files for a paper."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from drexcache.files import Content
from drexcache.studies.reporting.drawing import GRID, INK, MUTED, PAPER, SERIES, Figure, style

THEMED = {PAPER: "paper", INK: "ink", MUTED: "muted", GRID: "grid"} | {
    colour: f"series-{number}" for number, colour in enumerate(SERIES)
}
Places = dict[str, list[float]]  # "x" and "y"
_NAMESPACE = re.compile(r"\{[^}]*\}")
_REFERENCE = re.compile(r"#([\w.-]+)")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_FONT = re.compile(r"font:\s*(bold\s+|700\s+)?([\d.]+)px[^;]*")


def inline_svg(figure: Figure) -> tuple[str, list[Places]]:
    """The figure as an ``<svg>`` element, and the coordinates of its points.

    Colours become ``var(--ink)`` and the like, text stays text, ids are unique to the figure. The coordinates are
    a dict for each of `figure.points`: lists x and y, (k,), in the SVG's own units.
    """
    root = ElementTree.fromstring(_saved(figure, "svg", **{"svg.fonttype": "none"}))
    height = float(root.attrib["viewBox"].split()[3])
    _clean(root, figure.name)
    del root.attrib["width"], root.attrib["height"]
    root.attrib.update({"role": "img", "aria-label": figure.alt})
    places = []
    for points in figure.points:  # positions are known only after drawing
        at = np.asarray(points.axes.transData.transform(np.column_stack([points.x, points.y])))  # y upwards
        places.append({"x": np.round(at[:, 0], 1).tolist(), "y": np.round(height - at[:, 1], 1).tolist()})
    return ElementTree.tostring(root, encoding="unicode"), places


def figure_files(figure: Figure, folder: Path) -> dict[str | Path, Content]:
    """The figure as PNG (200 dpi) and as SVG with text as outlines: what the two files hold."""
    return {
        folder / f"{figure.name}.png": _saved(figure, "png"),
        folder / f"{figure.name}.svg": _saved(figure, "svg", **{"svg.fonttype": "path"}),
    }


def _saved(figure: Figure, ending: str, **options: Any) -> bytes:
    buffer, vector = io.BytesIO(), ending == "svg"
    with style(**options, **{"svg.hashsalt": figure.name}), warnings.catch_warnings():
        # matplotlib's own font may lack a name's script; on the page the reader's fonts show it
        warnings.filterwarnings("ignore", message=r"Glyph \d+")
        metadata = {"Date": None} if vector else {}
        figure.canvas.savefig(buffer, format=ending, dpi=72 if vector else 200, metadata=metadata)
    return buffer.getvalue()


def _clean(root: ElementTree.Element, prefix: str) -> None:
    """Strip namespaces and matplotlib's metadata, prefix ids, turn colours into variables, shorten numbers."""
    for parent in root.iter():
        for child in list(parent):
            if _NAMESPACE.sub("", child.tag) in ("metadata", "style"):
                parent.remove(child)
    used = set(_REFERENCE.findall(" ".join(value for one in root.iter() for value in one.attrib.values())))
    for element in root.iter():
        element.tag = _NAMESPACE.sub("", element.tag)
        attributes = {_NAMESPACE.sub("", name): value for name, value in element.attrib.items()}
        element.attrib.clear()
        for name, value in attributes.items():
            if name != "id" or value in used:
                element.set(name, _attribute(name, value, prefix))
        element.text = element.text if element.tag == "text" else None
        element.tail = None
    for group in root.iter("g"):
        _share_style(group)


def _attribute(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name in ("href", "clip-path"):
        return _REFERENCE.sub(lambda found: f"#{prefix}-{found[1]}", value)
    if name in ("d", "x", "y", "transform"):
        shorter = _LONG_NUMBER.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value)
        return " ".join(shorter.split())
    return _themed(value) if name == "style" else value


def _themed(css: str) -> str:
    for colour, name in THEMED.items():
        css = css.replace(colour, f"var(--{name})")
    return _FONT.sub(lambda font: f"font-size: {font[2]}px" + ("; font-weight: 700" if font[1] else ""), css)


def _share_style(group: ElementTree.Element) -> None:
    """Move a style that all points of a group share to the group."""
    styles = {child.get("style") for child in group}
    if len(group) > 1 and len(styles) == 1 and all(child.tag == "use" for child in group) and None not in styles:
        for child in group:
            group.set("style", child.attrib.pop("style"))
