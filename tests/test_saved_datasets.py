"""A dataset that Hugging Face's datasets saved gives the ids, features and ratings of the folder it was made of."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_packed import cache_of

from drexcache import DrexcacheError, read_images

pa = pytest.importorskip("pyarrow", reason="needs pyarrow, of drexcache[parquet]")


def save_to_disk(folder: Path, frame: pd.DataFrame, parts: int, compression: str | None = None) -> None:
    """What Dataset.save_to_disk writes (datasets 5.2): Arrow streams, their list, and a description."""
    folder.mkdir(parents=True)
    kinds = {"bytes": pa.binary(), "path": pa.string()}
    schema = pa.schema([("image", pa.struct(kinds)), ("rating", pa.float64())])
    names = [f"data-{at:05}-of-{parts:05}.arrow" for at in range(parts)]
    options = pa.ipc.IpcWriteOptions(compression=compression)
    for at, name in enumerate(names):
        rows = frame.iloc[at * len(frame) // parts : (at + 1) * len(frame) // parts]
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, schema, options=options) as writer:
            writer.write_table(pa.Table.from_pandas(rows, schema, preserve_index=False), max_chunksize=3)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "a", "_format_type": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def rows_of(pictures: Path) -> pd.DataFrame:
    rated = pd.read_csv(pictures / "ratings.csv")
    images = [{"bytes": (pictures / name).read_bytes(), "path": name} for name in rated["file"]]
    return pd.DataFrame({"image": images, "rating": rated["rating"].astype(float)})


def test_it_is_the_folder_that_it_was_made_of(pictures: Path, tmp_path: Path) -> None:
    save_to_disk(tmp_path / "photos", rows_of(pictures), parts=2)
    mine, theirs = cache_of(tmp_path / "photos", tmp_path / "t.h5"), cache_of(pictures, tmp_path / "f.h5")
    assert mine.ids == theirs.ids and mine.dataset == "photos"
    np.testing.assert_array_equal(mine.matrix().X, theirs.matrix().X)
    np.testing.assert_allclose(mine.matrix().y, theirs.matrix().y)
    np.testing.assert_array_equal(mine.hashes(), theirs.hashes())
    assert read_images(mine.matrix().images, False).ids == mine.ids  # where its pictures are found again


def test_splits_are_folders_and_a_column(pictures: Path, tmp_path: Path) -> None:
    frame, saved = rows_of(pictures), tmp_path / "photos"
    frame["image"] = [{**one, "path": None} for one in frame["image"]]  # then their numbers are their names
    save_to_disk(saved / "train", frame[:16], parts=2)
    save_to_disk(saved / "test", frame[16:], parts=1)
    (saved / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    table = read_images(saved, value_range=(0, 100))
    order = [*range(16, len(frame)), *range(16)]
    assert list(table.ids) == [f"test/{at - 16:06}.png" if at >= 16 else f"train/{at:06}.png" for at in order]
    assert list(table.labels["split"]) == ["test" if at >= 16 else "train" for at in order]
    np.testing.assert_allclose(table.targets["rating"].values, frame["rating"].to_numpy()[order])
    assert [file.read() for file in table.files] == [frame["image"][at]["bytes"] for at in order]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("[]", "state.json: not what datasets' save_to_disk writes"),
        ('{"_data_files": [{"filename": "../a.arrow"}]}', "names '../a.arrow', which is not beside it"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', "names 'gone.arrow', which is not beside it"),
        ('{"_data_files": [{"filename": "dataset_info.json"}]}', "not a readable Arrow stream"),
    ],
)
def test_a_list_that_is_damaged(state: str, said: str, pictures: Path, tmp_path: Path) -> None:
    save_to_disk(tmp_path / "photos", rows_of(pictures), parts=1)
    (tmp_path / "photos" / "state.json").write_text(state)
    with pytest.raises(DrexcacheError, match=re.escape(said)):
        read_images(tmp_path / "photos")


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_batches_are_refused_unread(compression: str, pictures: Path, tmp_path: Path) -> None:
    save_to_disk(tmp_path / "photos", rows_of(pictures), parts=1, compression=compression)
    with pytest.raises(DrexcacheError, match="that is compressed"):
        read_images(tmp_path / "photos")


def test_a_dataset_that_was_saved_again_gives_no_image_under_another_name(pictures: Path, tmp_path: Path) -> None:
    save_to_disk(tmp_path / "photos", rows_of(pictures), parts=1)
    table = read_images(tmp_path / "photos")
    (file,) = (tmp_path / "photos").glob("*.arrow")
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(OSError, match="changed after its images were listed"):
        table.files[0].read()


def test_no_damage_ends_in_a_traceback(pictures: Path, tmp_path: Path) -> None:
    save_to_disk(tmp_path / "photos", rows_of(pictures)[:4], parts=1)
    (file,) = (tmp_path / "photos").glob("*.arrow")
    data, rng, refused = file.read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        mutant = bytearray(data[: len(data) // 2] if rng.random() < 0.1 else data)
        for at in rng.integers(0, min(len(mutant), 1200), 3):
            mutant[at] = rng.integers(256)
        file.write_bytes(mutant)
        try:
            for image in read_images(tmp_path / "photos", False).files:
                image.read()
        except (DrexcacheError, OSError):
            refused += 1
    assert refused > 50
