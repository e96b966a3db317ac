"""Drawing small sets of pictures whose complexity is known by construction, so that a demo needs no data."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from drexcache.errors import DrexcacheError
from drexcache.files import write_file

OVERSAMPLING = 3  # pictures are drawn this much larger and reduced, because Pillow does not antialias shapes
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom


def draw_set(kind: str, n: int, folder: Path, seed: int) -> None:
    """Write n pictures (PNG, about 384x384) and ``ratings.csv`` (columns ``file,rating``) into the folder.

    A rating, 0..100, follows the logarithm of the number of elements drawn and is never measured from pixels.
    Colours, contrast, blur, grain, sizes and styles vary independently of it. The same seed gives the same bytes,
    and a larger set begins with the pictures of a smaller one. A file that is already correct is not rewritten.

    Parameters
    ----------
    kind : "shapes" (scattered), "leaves" (dead leaves, which cover each other: Lee, Mumford & Huang 2001) or
        "pages" (layouts of text lines, pictures, charts and boxes).
    seed : 0 or more.

    Raises
    ------
    DrexcacheError : an unknown kind.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> draw_set("shapes", 2, folder, seed=0)
    >>> sorted(path.name for path in folder.iterdir())
    ['ratings.csv', 'shapes-000.png', 'shapes-001.png']
    """
    if kind not in KINDS:
        raise DrexcacheError(f"no kind of drawn pictures named {kind!r}; there are: {', '.join(KINDS)}")
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["file,rating"]
    for index in range(n):
        name = f"{kind}-{index:03d}.png"
        rng = np.random.default_rng([seed, list(KINDS).index(kind), index])
        count = element_count(kind, rng)
        buffer = io.BytesIO()
        draw_picture(kind, count, rng).save(buffer, "PNG")
        _write_if_new(folder / name, buffer.getvalue())
        lines.append(f"{name},{rating(kind, count):.2f}")
    _write_if_new(folder / "ratings.csv", ("\n".join(lines) + "\n").encode())


def element_count(kind: str, rng: np.random.Generator) -> int:
    """A number of elements, log-uniform between the kind's fewest and most."""
    low, high = KINDS[kind].fewest, KINDS[kind].most
    return round(low * (high / low) ** rng.random())


def rating(kind: str, count: int) -> float:
    """The rating of a number of elements: 0 for the kind's fewest, 100 for its most, linear in the logarithm.

    >>> rating("shapes", 1), rating("shapes", 200)
    (0.0, 100.0)
    """
    low, high = KINDS[kind].fewest, KINDS[kind].most
    return float(100 * np.log(count / low) / np.log(high / low))


def draw_picture(kind: str, count: int, rng: np.random.Generator) -> Image.Image:
    """Draw one RGB picture with that many elements; the generator decides everything else."""
    w, h = (int(side) for side in rng.integers(320, 449, 2))
    palette = _palette(rng)
    large = _background(w * OVERSAMPLING, h * OVERSAMPLING, palette, rng)
    KINDS[kind].draw(ImageDraw.Draw(large), count, palette, rng)
    picture = large.reduce(OVERSAMPLING)
    if rng.random() < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.6)))
    picture = ImageEnhance.Contrast(picture).enhance(rng.uniform(0.5, 1.0))
    grain = rng.normal(0, rng.uniform(2, 9), (h, w, 1)) if rng.random() < 0.4 else 0
    return Image.fromarray(np.clip(np.round(np.asarray(picture) + grain), 0, 255).astype(np.uint8))


def _write_if_new(path: Path, content: bytes) -> None:
    if not path.is_file() or path.read_bytes() != content:
        write_file(path, content)


# --- colours ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Palette:
    """A background, the colours that stand out on it, and one for text."""

    ground: Colour
    inks: list[Colour]
    text: Colour


def _colour(hue: float, lightness: float, saturation: float) -> Colour:
    r, g, b = (round(255 * x) for x in colorsys.hls_to_rgb(hue % 1, lightness, saturation))
    return r, g, b


def _palette(rng: np.random.Generator) -> Palette:
    """A palette of 2 to 7 inks in one to three hues, light on a dark ground or dark on a light ground."""
    hue = rng.random()
    hues = hue + np.array([[0, 0.04, 0.08], [0, 0.06, 0.5], [0, 0.33, 0.67], [0, 0.1, 0.6]][rng.integers(4)])
    if rng.random() < 0.3:
        depth, low, high, text = rng.uniform(0.08, 0.2), 0.45, 0.8, 0.85
    else:
        depth, low, high, text = rng.uniform(0.86, 0.97), 0.25, 0.65, 0.2
    vivid = rng.uniform(0.25, 0.85)
    inks = [
        _colour(rng.choice(hues) + rng.normal(0, 0.015), rng.uniform(low, high), vivid)
        for _ in range(rng.integers(2, 8))
    ]
    return Palette(_colour(hue + rng.uniform(-0.1, 0.1), depth, 0.35), inks, _colour(hue, text, 0.15))


def _shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker (factor below 1) or lighter (above 1)."""
    r, g, b = (min(255, max(0, round(x * factor))) for x in colour)
    return r, g, b


def _pick(colours: list[Colour], rng: np.random.Generator) -> Colour:
    return colours[rng.integers(len(colours))]


def _background(w: int, h: int, palette: Palette, rng: np.random.Generator) -> Image.Image:
    """The ground's colour, a little darker towards one side."""
    ramp = Image.linear_gradient("L").rotate(90 * int(rng.integers(4))).resize((w, h))
    side = Image.new("RGB", (w, h), _shade(palette.ground, rng.uniform(0.8, 1.0)))
    return Image.composite(side, Image.new("RGB", (w, h), palette.ground), ramp)


# --- shapes -------------------------------------------------------------------------------------------------


def _draw_shapes(draw: ImageDraw.ImageDraw, count: int, palette: Palette, rng: np.random.Generator) -> None:
    """Scattered shapes that rarely overlap; the area they fill does not depend on their count."""
    w, h = draw.im.size
    mean = np.sqrt(rng.uniform(0.1, 0.3) * w * h / count / np.pi)
    radius = np.minimum(mean * rng.lognormal(0, rng.uniform(0.1, 0.5), count), min(w, h) / 2.5)
    radius = np.sort(radius)[::-1]  # large ones first, so that none hides another
    hollow = rng.choice([0.0, 0.3, 1.0], p=[0.5, 0.35, 0.15])
    names = rng.choice([*SHAPES], size=rng.integers(1, len(SHAPES) + 1), replace=False)
    forms = [SHAPES[name] for name in names]
    for centre, r, turn in zip(_scatter(radius, w, h, rng), radius, _turn(rng, count), strict=True):
        points = r * forms[rng.integers(len(forms))] @ turn + centre
        if rng.random() < hollow:
            corners = [*points, points[0], points[1]]  # on past the first corner, so that it is joined too
            line = np.concatenate(corners).tolist()
            draw.line(line, fill=_pick(palette.inks, rng), width=round(max(4, r / 6)), joint="curve")
        else:
            draw.polygon(points.ravel().tolist(), fill=_pick(palette.inks, rng))


def _scatter(radius: np.ndarray, w: int, h: int, rng: np.random.Generator) -> np.ndarray:
    """Centres (n, 2), each the roomiest of 24 random places (Mitchell's best-candidate algorithm)."""
    centres = np.empty((len(radius), 2))
    for i, r in enumerate(radius):
        places = rng.uniform((r, r), (w - r, h - r), (24, 2))
        gaps = np.linalg.norm(places[:, None] - centres[None, :i], axis=2) - radius[:i]  # (24, i)
        centres[i] = places[gaps.min(axis=1, initial=np.inf).argmax()]
    return centres


def _turn(rng: np.random.Generator, n: int) -> np.ndarray:
    """n random rotation matrices (n, 2, 2), to multiply row vectors from the right."""
    angle = rng.uniform(0, 2 * np.pi, n)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos, sin, -sin, cos], axis=1).reshape(n, 2, 2)


def _corners(angle: np.ndarray, length: np.ndarray | float = 1.0) -> np.ndarray:
    """Points (k, 2) at these angles and distances from the centre."""
    return np.stack([np.cos(angle) * length, np.sin(angle) * length], axis=1)


def _round(corners: int) -> np.ndarray:
    """That many angles, evenly spaced around the circle."""
    return np.linspace(0, 2 * np.pi, corners, endpoint=False)


SHAPES = {  # corners (k, 2) in the unit circle
    "disc": _corners(_round(40)),
    "triangle": _corners(_round(3)),
    "square": _corners(_round(4)),
    "pentagon": _corners(_round(5)),
    "bar": _corners(np.array([0.25, np.pi - 0.25, np.pi + 0.25, -0.25])),
    "star": _corners(_round(10), np.tile([1, 0.45], 5)),
    "drop": np.stack([np.cos(_round(40)), 0.9 * np.sin(_round(40)) * np.sin(_round(40) / 2) ** 2], axis=1),
}


# --- leaves -------------------------------------------------------------------------------------------------


def _draw_leaves(draw: ImageDraw.ImageDraw, count: int, palette: Palette, rng: np.random.Generator) -> None:
    """Dead leaves: radii from a power law r^-3, each leaf over the earlier ones, until nearly everything is covered."""
    w, h = draw.im.size
    spread = rng.uniform(1.5, 5)  # largest radius / smallest
    cover = rng.uniform(3, 5)  # area of all leaves / area of the picture
    # under the power law, mean r^2 / smallest r^2
    mean_square = 2 * np.log(spread) / (1 - spread**-2)
    smallest = np.sqrt(cover * w * h / count / np.pi / mean_square)
    radius = smallest / np.sqrt(1 - rng.random(count) * (1 - spread**-2))
    form = LEAVES[rng.integers(len(LEAVES))]
    tones = rng.uniform(0.03, 0.2)
    edge = rng.choice([0.55, 0.9])  # a dark or slightly darker edge, one pixel wide
    inks = [*palette.inks, palette.ground]
    colours = [_shade(_pick(inks, rng), tone) for tone in rng.lognormal(0, tones, count)]
    centre = rng.uniform((0, 0), (w, h), (count, 2))[:, None]
    leaf = form @ _turn(rng, count)  # (count, corners, 2)
    outer = (centre + leaf * radius[:, None, None]).reshape(count, -1).tolist()
    inner = (centre + leaf * (radius[:, None, None] - OVERSAMPLING)).reshape(count, -1).tolist()
    for colour, all_of_it, inside in zip(colours, outer, inner, strict=True):
        draw.polygon(all_of_it, fill=_shade(colour, edge))
        draw.polygon(inside, fill=colour)


def _pointed_leaf() -> np.ndarray:
    along = np.linspace(-1, 1, 16)
    upper = np.stack([along, 0.5 * (1 - along**2)], axis=1)
    return 1.5 * np.concatenate([upper, upper[-2:0:-1] * (1, -1)])


LEAVES = (SHAPES["disc"], _pointed_leaf(), 1.25 * SHAPES["square"])  # each with about the unit circle's area


# --- pages --------------------------------------------------------------------------------------------------


def _draw_pages(draw: ImageDraw.ImageDraw, count: int, palette: Palette, rng: np.random.Generator) -> None:
    """A layout of cells, each holding one picture, box or headline, or several lines, bars or tiles."""
    w, h = draw.im.size
    cells = _cells((0.05 * w, 0.05 * h, 0.95 * w, 0.95 * h), max(1, round(count / rng.uniform(1, 5))), rng)
    members = 1 + rng.multinomial(count - len(cells), np.full(len(cells), 1 / len(cells)))
    for cell, k in zip(cells, members, strict=True):
        gap = 0.06 * min(cell[2] - cell[0], cell[3] - cell[1])
        inner = (cell[0] + gap, cell[1] + gap, cell[2] - gap, cell[3] - gap)
        if k == 1:
            _single(draw, inner, palette, rng)
        else:
            several = (_lines, _lines, _bars, _tiles)[rng.integers(4)]
            colour = palette.text if several is _lines else _pick(palette.inks, rng)
            several(draw, inner, int(k), colour, rng)


def _cells(page: Box, n: int, rng: np.random.Generator) -> list[Box]:
    """Cut the page into n cells, always cutting the largest across its longer side."""
    cells = [page]
    while len(cells) < n:
        cells.sort(key=lambda c: (c[2] - c[0]) * (c[3] - c[1]))
        left, top, right, bottom = cells.pop()
        at = rng.choice([0.35, 0.5, 0.5, 0.65])
        if right - left > bottom - top:
            x = left + at * (right - left)
            cells += [(left, top, x, bottom), (x, top, right, bottom)]
        else:
            y = top + at * (bottom - top)
            cells += [(left, top, right, y), (left, y, right, bottom)]
    return cells


def _single(draw: ImageDraw.ImageDraw, box: Box, palette: Palette, rng: np.random.Generator) -> None:
    """One element: a picture (a hill under a sun), a rounded box, a disc or a headline."""
    left, top, right, bottom = box
    w, h = right - left, bottom - top
    ink = _pick(palette.inks, rng)
    what = rng.choice(["picture", "box", "disc", "headline"])
    if what == "headline":
        headline = (left, top, left + rng.uniform(0.5, 1) * w, top + min(h, 0.2 * w))
        draw.rounded_rectangle(headline, 6, fill=palette.text)
    elif what == "disc":
        r = min(w, h) / 2
        draw.ellipse((left + w / 2 - r, top + h / 2 - r, left + w / 2 + r, top + h / 2 + r), fill=ink)
    else:
        draw.rounded_rectangle(box, min(w, h) * 0.08, fill=ink)
        if what == "picture":
            pale, r = _shade(ink, 1.35), min(w, h) / 8
            hill = [(left, bottom), (left + 0.4 * w, top + 0.4 * h), (left + 0.8 * w, bottom)]
            draw.polygon(hill, fill=pale)
            draw.ellipse((right - 3 * r, top + r, right - r, top + 3 * r), fill=pale)


def _lines(draw: ImageDraw.ImageDraw, box: Box, k: int, colour: Colour, rng: np.random.Generator) -> None:
    """k lines of text, each a row of words."""
    left, top, right, bottom = box
    pitch = min((bottom - top) / k, 16 * OVERSAMPLING)
    for row in range(k):
        y = top + row * pitch
        end = right if row < k - 1 else left + rng.uniform(0.4, 0.9) * (right - left)
        x = left
        while x < end:
            word = min(end, x + rng.uniform(1, 5) * pitch)
            draw.rectangle((x, y + 0.2 * pitch, word, y + 0.7 * pitch), fill=colour)
            x = word + 0.5 * pitch


def _bars(draw: ImageDraw.ImageDraw, box: Box, k: int, colour: Colour, rng: np.random.Generator) -> None:
    """A bar chart of k bars."""
    left, top, right, bottom = box
    pitch = (right - left) / k
    for i in range(k):
        height = rng.uniform(0.15, 1) * (bottom - top)
        draw.rectangle((left + i * pitch, bottom - height, left + (i + 0.7) * pitch, bottom), fill=colour)


def _tiles(draw: ImageDraw.ImageDraw, box: Box, k: int, colour: Colour, rng: np.random.Generator) -> None:
    """k tiles in rows, in several tones of one colour."""
    left, top, right, bottom = box
    columns = max(1, min(k, round(np.sqrt(k * (right - left) / (bottom - top)))))
    side_x, side_y = (right - left) / columns, (bottom - top) / -(-k // columns)
    for i in range(k):
        x, y = left + i % columns * side_x, top + i // columns * side_y
        tile = (x, y, x + 0.85 * side_x, y + 0.85 * side_y)
        tone = _shade(colour, rng.uniform(0.8, 1.25))
        draw.rounded_rectangle(tile, 0.1 * min(side_x, side_y), fill=tone)


@dataclass(frozen=True)
class Kind:
    """A kind of picture: the function that draws it, and its fewest and most elements (ratings 0 and 100)."""

    draw: Callable[[ImageDraw.ImageDraw, int, Palette, np.random.Generator], None]
    fewest: int
    most: int


KINDS = {
    "shapes": Kind(_draw_shapes, 1, 200),
    "leaves": Kind(_draw_leaves, 10, 3000),
    "pages": Kind(_draw_pages, 2, 250),
}
