"""merge, rate, diff, export: caches made from caches."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import draw, tiny_recipe

from drexcache import DrexcacheError, open_cache, read_images, recipe
from drexcache.cache.changes import diff, export, merge, rate
from drexcache.datasets import Columns
from drexcache.features import extract


def classic(images: Path, out: Path, shard: tuple[int, int] | None = None) -> Path:
    table = read_images(images, value_range=(0, 100))
    extract(table.shard(*shard) if shard else table, recipe("classic"), out, say=lambda line: None)
    return out


def test_merged_shards_are_the_whole(pictures: Path, tmp_path: Path) -> None:
    (pictures / "005.png").write_bytes(b"broken")
    whole = classic(pictures, tmp_path / "whole.h5")
    parts = [classic(pictures, tmp_path / f"{i}.h5", (i, 3)) for i in (2, 3, 1)]
    merged = merge(parts, tmp_path / "merged.h5")
    assert diff(merged, open_cache(whole)) == []
    assert (
        merged.failures()
        == open_cache(whole).failures()
        == {"005.png": "not a JPEG, PNG, GIF, WebP, BMP or TIFF image, nor AVIF, HEIC or JPEG XL"}
    )
    assert merged.verify() == [] and merged.shard == ""
    assert (tmp_path / "merged.h5").read_bytes() == whole.read_bytes()


def test_shards_that_do_not_fit_are_refused(pictures: Path, tmp_path: Path) -> None:
    one, two = (classic(pictures, tmp_path / f"{i}.h5", (i, 2)) for i in (1, 2))
    out = tmp_path / "out.h5"
    with pytest.raises(DrexcacheError, match=r"the 10 images given are not the whole table: .*1.h5 \(1/2, 10 images\)"):
        merge([one], out)
    with pytest.raises(DrexcacheError, match=r"1.h5 and .*1.h5: hold 10 images in common"):
        merge([one, two, one], out)
    other = draw(tmp_path / "other", 6)
    with pytest.raises(DrexcacheError, match="they are not shards of one table"):
        merge([one, classic(other, tmp_path / "o.h5", (2, 2))], out)
    table = read_images(pictures, value_range=(0, 100)).shard(2, 2)
    extract(table, recipe("classic").with_options(exif="apply"), tmp_path / "e.h5", say=lambda line: None)
    with pytest.raises(DrexcacheError, match='block cues: exif: "ignore" -> "apply"'):
        merge([one, tmp_path / "e.h5"], out)
    assert not out.exists()


def test_rate_adds_a_target_and_leaves_features_alone(pictures: Path, tmp_path: Path) -> None:
    path = classic(pictures, tmp_path / "c.h5")
    before = open_cache(path)
    lines = ["file,beauty", *(f"{i:03}.png,{1 + i % 7}" for i in range(20))]
    (tmp_path / "beauty.csv").write_text("\n".join(lines))
    columns = Columns(rating="beauty")
    rate(path, tmp_path / "beauty.csv", "beauty", value_range=(1, 7), columns=columns)
    after = open_cache(path)
    assert diff(before, after) == [f"target beauty only in {path}"]
    np.testing.assert_array_equal(after.targets["beauty"].values, [1 + i % 7 for i in range(20)])
    np.testing.assert_array_equal(after.matrix(target="beauty").X, before.matrix().X)
    with pytest.raises(DrexcacheError, match="several targets"):
        after.matrix()
    with pytest.raises(DrexcacheError, match="has a target named beauty"):
        rate(path, tmp_path / "beauty.csv", "beauty", value_range=(1, 7), columns=columns)
    rate(path, tmp_path / "beauty.csv", "beauty", value_range=(0, 10), columns=columns, replace_target=True)
    assert open_cache(path).targets["beauty"].high == 10
    assert (
        extract(read_images(pictures, value_range=(0, 100)), recipe("classic"), path, say=lambda line: None).computed
        == 0
    )
    assert "beauty" in open_cache(path).targets


def test_rate_changes_a_label_only_when_told_to(pictures: Path, tmp_path: Path) -> None:
    path, ratings = classic(pictures, tmp_path / "c.h5"), tmp_path / "new.csv"
    splits = open_cache(path).labels["split"]

    def write(splits: Sequence[str]) -> None:
        lines = [f"{i:03}.png,{1 + i % 7},{split}" for i, split in enumerate(splits)]
        ratings.write_text("\n".join(["file,rating,split", *lines]))

    write(["", *splits[1:]])
    rate(path, ratings, "equal", value_range=(1, 7))
    assert open_cache(path).labels["split"] == splits
    write(["train", *splits[1:-2], "", "test"])
    differ = r"new.csv: label split of 2 images is not what .*c.h5 holds \(first: 000.png, 'train' instead of 'test'\)"
    with pytest.raises(DrexcacheError, match=differ):
        rate(path, ratings, "other", value_range=(1, 7))
    assert (open_cache(path).labels["split"], list(open_cache(path).targets)) == (splits, ["equal", "rating"])
    rate(path, ratings, "other", value_range=(1, 7), replace_target=True)
    assert open_cache(path).labels["split"] == ("train", *splits[1:-2], "", "test")


def test_shards_rated_on_two_ranges_are_refused(pictures: Path, tmp_path: Path) -> None:
    one, two = (classic(pictures, tmp_path / f"{i}.h5", (i, 2)) for i in (1, 2))
    (tmp_path / "beauty.csv").write_text("\n".join(["file,beauty", *(f"{i:03}.png,{1 + i % 7}" for i in range(20))]))
    columns = Columns(rating="beauty")
    for path, high in ((one, 7), (two, 9)):
        rate(path, tmp_path / "beauty.csv", "beauty", value_range=(1, high), columns=columns, allow_unmatched=True)
    with pytest.raises(DrexcacheError, match=r"target beauty has the range 1..9, higher is more, instead of 1..7"):
        merge([one, two], tmp_path / "out.h5")


def test_diff_says_by_how_much_ratings_and_which_labels_differ(pictures: Path, tmp_path: Path) -> None:
    a, b = classic(pictures, tmp_path / "a.h5"), classic(pictures, tmp_path / "b.h5")
    for path, third, split in ((a, "3", "train"), (b, "5.5", "test")):
        scores = ["1", "2", third, *(["4"] * 16), "" if path == b else "4"]
        lines = [f"{i:03}.png,{score},{split if i == 2 else 'train'}" for i, score in enumerate(scores)]
        (tmp_path / "r.csv").write_text("\n".join(["file,beauty,part", *lines]))
        columns = Columns(rating="beauty", split=None, groups=("part",))
        high = 7 if path == a else 6
        rate(path, tmp_path / "r.csv", "beauty", value_range=(1, high), columns=columns, allow_unmatched=True)
    assert diff(open_cache(a), open_cache(b)) == [
        "target beauty: range 1..7, higher is more against 1..6, higher is more",
        "target beauty: 1 image is rated in one only",
        "target beauty: 1 rating differs, by 2.5 on average, at most 2.5 (002.png: 3 against 5.5)",
        "label part: 1 image has another (first: 002.png)",
    ]


def test_diff_says_where_and_by_how_much(tmp_path: Path) -> None:
    images = draw(tmp_path / "pictures", 6)
    a = classic(images, tmp_path / "a.h5")
    (images / "003.png").write_bytes((images / "001.png").read_bytes())
    draw(images, 1, start=6)
    (images / "003.png").write_bytes((images / "001.png").read_bytes())
    b = classic(images, tmp_path / "b.h5")
    found = diff(open_cache(a), open_cache(b))
    assert found[:2] == [f"1 image only in {b} (first: 006.png)", "1 image has other file contents"]
    assert found[2].startswith("block cues: 1 row differs, by at most ")


@pytest.mark.parametrize("form", ["npz", "csv", "parquet"])
def test_export_has_named_columns(pictures: Path, tmp_path: Path, form: str) -> None:
    cache = open_cache(classic(pictures, tmp_path / "c.h5"))
    matrix, out = cache.matrix(), tmp_path / f"out.{form}"
    assert export(cache, out) == 20
    if form == "npz":
        with np.load(out, allow_pickle=False) as data:
            X, ids, ratings, columns = (
                data["X"],
                data["id"].tolist(),
                data["rating"],
                data["columns"].tolist(),
            )
    elif form == "csv":
        rows = list(csv.DictReader(out.open()))
        columns = [name for name in rows[0] if "/" in name]
        X = np.array([[float(row[name]) for name in columns] for row in rows], "f4")
        ids, ratings = [row["id"] for row in rows], np.array([float(row["rating"]) for row in rows])
    else:
        parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
        table = parquet.read_table(out)
        columns = [name for name in table.column_names if "/" in name]
        X = np.stack([table[name].to_numpy() for name in columns], axis=1)
        ids, ratings = table["id"].to_pylist(), table["rating"].to_numpy()
    assert columns[:2] == ["cues/edge_density/0", "cues/gradient_mean/0"]
    assert ids == list(matrix.ids)
    np.testing.assert_array_equal(X, matrix.X)
    np.testing.assert_allclose(ratings, matrix.raw(matrix.y))
    with pytest.raises(DrexcacheError, match=r"expected one of \.npz, \.parquet, \.csv"):
        export(cache, tmp_path / "out.mat")


def test_readers_keep_what_they_opened_while_a_writer_replaces_it(pictures: Path, tmp_path: Path) -> None:
    path = classic(pictures, tmp_path / "c.h5")
    reader = open_cache(path)
    before = reader.matrix().X
    extract(
        read_images(draw(pictures, 5, start=20), value_range=(0, 100)),
        tiny_recipe(),
        path,
        say=lambda line: None,
    )
    np.testing.assert_array_equal(reader.matrix().X, before)
    assert len(open_cache(path)) == 25


def test_an_export_loses_no_column_whatever_the_targets_are_called(pictures: Path, tmp_path: Path) -> None:
    table = read_images(pictures, value_range=(0, 100), target="id")
    extract(table, recipe("classic"), tmp_path / "c.h5", say=lambda line: None)
    cache = open_cache(tmp_path / "c.h5")
    export(cache, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as found:
        assert sorted(found) == ["X", "columns", "id", "split", "target/id"]
        assert found["id"].tolist() == list(cache.ids)
        np.testing.assert_array_equal(found["target/id"], cache.targets["id"].values)
