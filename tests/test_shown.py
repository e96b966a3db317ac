"""What a notebook shows of our types, and their data frames: true to what they hold, every text escaped."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import draw
from small_scores import names, run_of

from drexcache import FeatureMatrix, open_cache, read_images, recipe
from drexcache.features import extract
from drexcache.recipes import recipe_from_dict
from drexcache.studies import compare
from drexcache.studies.evaluation import Predictions
from drexcache.studies.evaluation.scoring import score

EVIL = "<script>alert('&')</script>"


class Tags(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


PLAIN = {"p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}


def shown(thing: object) -> str:
    """The text that a notebook shows, of tags that do nothing."""
    page = Tags(thing._repr_html_())  # type: ignore[attr-defined]
    assert page.tags <= PLAIN
    return re.sub(r"\s+", " ", page.text)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 pictures, one of which cannot be read; one name and one label would be code in a page."""
    folder = draw(tmp_path_factory.mktemp("shown") / "pictures", 12)
    (folder / "a<b>&.png").write_bytes((folder / "000.png").read_bytes())
    (folder / "broken.png").write_bytes(b"no picture")
    with (folder / "ratings.csv").open("a") as file:
        file.write(f"a<b>&.png,10,{EVIL}\nbroken.png,20,train\n")
    table = read_images(folder, value_range=(0, 100))
    extract(table, recipe("classic"), folder.parent / "c.h5", say=lambda line: None)
    return folder.parent / "c.h5"


def test_a_cache(cache: Path) -> None:
    opened = open_cache(cache)
    frame = opened.to_pandas()
    assert list(frame.index) == list(opened.ids) and list(frame) == ["rating", "split", "cues is", "failure"]
    assert frame.loc["broken.png", "cues is"] == "failed" and "not a JPEG" in frame.loc["broken.png", "failure"]
    assert frame.loc["000.png"].tolist()[2:] == ["done", ""]
    np.testing.assert_array_equal(frame["rating"], opened.targets["rating"].values)
    text = shown(opened)
    assert "FeatureCache of pictures: 14 images, cues 16-d, rating from 0 to 100" in text
    assert "… and 4 more" in text


def test_a_matrix() -> None:
    labels = {"split": [EVIL] * 12}
    matrix = FeatureMatrix(
        np.ones((12, 6), "f4"), np.linspace(0, 1, 12), [f"<i>{i}.png" for i in range(12)], {"cues": slice(0, 6)},
        dataset=EVIL, labels=labels,
    )  # fmt: skip
    text = shown(matrix)
    assert f"FeatureMatrix of {EVIL}: 12 images, 6 features (cues 6-d)" in text
    assert "cues/3" in text and "cues/4" not in text and "<i>9.png" in text and "<i>10.png" not in text
    assert matrix.to_pandas().shape == (12, 8)
    narrow = FeatureMatrix(np.ones((2, 2), "f4"), np.ones(2), ["a", "b"], {"x": slice(0, 2)})
    assert "2 images, 2 features" in shown(narrow) and "…" not in shown(narrow)


def test_a_matrix_is_shown_without_a_copy_of_all_of_it() -> None:
    million = np.lib.stride_tricks.as_strided(np.ones(1, "f4"), (10**6, 5000), (0, 0))  # 20 GB, if it were copied
    matrix = FeatureMatrix(million, np.zeros(10**6), ["a.png"] * 10**6, {"x": slice(0, 5000)})
    assert "1,000,000 images, 5,000 features" in shown(matrix)


def test_scores_and_a_comparison() -> None:
    runs = [run_of(name, "art", EVIL, names(30)) for name in ("ridge", EVIL)]
    predictions = Predictions(runs)
    table = score(predictions, {("cross", "art", EVIL): [f"note {EVIL}"]})
    assert f"tested on (column): Pearson's r [95% interval] train → test {EVIL}" in shown(table)
    assert f"note {EVIL}" in shown(table)
    assert f"ridge − {EVIL}" in shown(compare(predictions))


def test_a_recipe() -> None:
    frame = recipe("drex").to_pandas()
    assert frame.groupby("block", sort=False)["dim"].sum().to_dict() == {"dino": 384, "resnet": 3840}
    assert "Recipe drex: " in shown(recipe("drex"))
    tap = {"name": "t", "layer": EVIL, "pool": "mean"}
    odd = recipe_from_dict({"name": EVIL, "blocks": [{"name": "b", "backbone": "resnet18", "taps": [tap]}]}, "test")
    assert f"Recipe {EVIL}: " in shown(odd) and "224×224" in shown(odd)
