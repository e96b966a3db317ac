"""The drawn sets: same bytes for the same seed, and ratings that follow what was drawn."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.stats import spearmanr

from drexcache.errors import DrexcacheError
from drexcache.features.demo_pictures import KINDS, Palette, draw_picture, draw_set, element_count, rating

EACH_KIND = pytest.mark.parametrize("kind", KINDS)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def ratings(folder: Path) -> dict[str, float]:
    with (folder / "ratings.csv").open(newline="") as file:
        return {row["file"]: float(row["rating"]) for row in csv.DictReader(file)}


@EACH_KIND
def test_a_set_is_n_pictures_and_their_ratings(kind: str, tmp_path: Path) -> None:
    draw_set(kind, 3, tmp_path / "new" / kind, seed=1)
    names = [f"{kind}-{i:03d}.png" for i in range(3)]
    folder = tmp_path / "new" / kind
    assert sorted(contents(folder)) == sorted([*names, "ratings.csv"])
    assert (folder / "ratings.csv").read_text().splitlines()[0] == "file,rating"
    assert list(ratings(folder)) == names
    for name in names:
        with Image.open(folder / name) as image:
            assert image.mode == "RGB"
            assert all(320 <= side <= 448 for side in image.size)


@EACH_KIND
def test_same_seed_same_bytes_and_another_seed_others(kind: str, tmp_path: Path) -> None:
    for name, n, seed in (("a", 3, 5), ("b", 2, 5), ("c", 3, 6)):
        draw_set(kind, n, tmp_path / name, seed)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    for name in (f"{kind}-000.png", f"{kind}-001.png"):
        assert a[name] == b[name]  # a larger set begins with the smaller one
        assert a[name] != c[name]
    assert a["ratings.csv"].startswith(b["ratings.csv"])


def test_the_kinds_do_not_share_their_ratings(tmp_path: Path) -> None:
    for kind in KINDS:
        draw_set(kind, 2, tmp_path / kind, seed=0)
    assert len({tuple(ratings(tmp_path / kind).values()) for kind in KINDS}) == len(KINDS)


def test_drawing_again_touches_only_what_differs(tmp_path: Path) -> None:
    draw_set("pages", 3, tmp_path, seed=0)
    before = contents(tmp_path)
    (tmp_path / "pages-001.png").write_bytes(b"half a file")
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    draw_set("pages", 3, tmp_path, seed=0)
    assert contents(tmp_path) == before
    touched = [path.name for path in tmp_path.iterdir() if path.stat().st_mtime_ns != written[path.name]]
    assert touched == ["pages-001.png"]


@EACH_KIND
def test_rating_runs_from_0_to_100_and_rises_with_every_element(kind: str) -> None:
    low, high = KINDS[kind].fewest, KINDS[kind].most
    values = [rating(kind, count) for count in range(low, high + 1)]
    assert (values[0], values[-1]) == pytest.approx((0, 100))
    assert (np.diff(values) > 0).all()


@EACH_KIND
def test_counts_are_even_over_the_ratings_range(kind: str) -> None:
    rng = np.random.default_rng(0)
    values = np.array([rating(kind, element_count(kind, rng)) for _ in range(2000)])
    assert values.min() >= 0
    assert values.max() <= 100
    assert np.quantile(values, [0.25, 0.5, 0.75]) == pytest.approx([25, 50, 75], abs=8)  # few small integers


def patches(kind: str, count: int, seed: int) -> int:
    """The connected patches of a drawing in black on white, at the size that it is drawn at."""
    image = Image.new("RGB", (1152, 1152), "white")
    palette = Palette(ground=(255, 255, 255), inks=[(0, 0, 0)], text=(0, 0, 0))
    KINDS[kind].draw(ImageDraw.Draw(image), count, palette, np.random.default_rng(seed))
    label, _ = ndimage.label(np.asarray(image.convert("L")) < 128, np.ones((3, 3)))
    return int(np.count_nonzero(np.bincount(label.ravel())[1:] > 9))  # a sharp tip may end in single pixels


@pytest.mark.parametrize("count", [1, 3, 30, 200])
def test_as_many_shapes_as_were_counted(count: int) -> None:
    found = [patches("shapes", count, seed) for seed in range(8)]
    assert max(found) <= count
    assert np.mean(found) > 0.97 * count  # few touch each other


@pytest.mark.parametrize("count", [2, 20, 250])
def test_a_page_has_a_patch_for_every_element_and_one_for_every_word(count: int) -> None:
    found = [patches("pages", count, seed) for seed in range(8)]
    assert min(found) >= count
    assert max(found) < 20 * count


def test_more_leaves_are_smaller_leaves() -> None:
    def colours(count: int) -> int:
        picture = draw_picture("leaves", count, np.random.default_rng(0))
        return len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0))

    few, some, many = (colours(count) for count in (10, 200, 3000))
    assert few < some < many


@EACH_KIND
def test_rating_follows_jpeg_size_but_is_not_told_by_it(kind: str) -> None:
    rng = np.random.default_rng(0)
    sizes, values = [], []
    for _ in range(20):
        count = element_count(kind, rng)
        buffer = io.BytesIO()
        draw_picture(kind, count, rng).save(buffer, "JPEG", quality=75)
        sizes.append(buffer.tell())
        values.append(rating(kind, count))
    assert 0.2 < spearmanr(sizes, values).statistic < 0.97


def test_an_unknown_kind_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        DrexcacheError, match="no kind of drawn pictures named 'trees'; there are: shapes, leaves, pages"
    ):
        draw_set("trees", 1, tmp_path / "x", seed=0)
    assert not (tmp_path / "x").exists()
