"""Reading from where people read: workers of a DataLoader, read-only places, beside a writer, after a replacement."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw
from torch.utils.data import DataLoader, Dataset

from drexcache import DrexcacheError, open_cache, read_images, recipe
from drexcache.cache import storage
from drexcache.cache.beside import partial_paths
from drexcache.cache.changes import export, rate
from drexcache.cache.format import DONE
from drexcache.cache.reader import FeatureCache
from drexcache.cache.writer import CacheWriter


def classic(images: Path, out: Path) -> FeatureCache:
    from drexcache.features import extract  # here, so that spawned readers need not import every backbone

    extract(read_images(images, value_range=(0, 100)), recipe("classic"), out, batch_size=2, say=lambda line: None)
    return open_cache(out)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cache of 20 pictures."""
    folder = tmp_path_factory.mktemp("reading")
    return classic(draw(folder / "pictures", 20), folder / "c.h5").path


class Rows(Dataset[torch.Tensor]):
    """The dataset that a user would write; the loader asks for a batch at a time."""

    def __init__(self, cache: FeatureCache) -> None:
        self.cache = cache

    def __len__(self) -> int:
        return len(self.cache)

    def __getitem__(self, row: int) -> torch.Tensor:
        return torch.from_numpy(self.cache.features("cues", [row])[0])

    def __getitems__(self, rows: list[int]) -> list[torch.Tensor]:
        return list(torch.from_numpy(self.cache.features("cues", rows)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_dataloader_workers_read_what_the_parent_reads(path: Path, method: str) -> None:
    cache = open_cache(path)
    loader = DataLoader(
        Rows(cache), batch_size=3, shuffle=True, num_workers=2, multiprocessing_context=method,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    found = torch.cat(list(loader)).numpy()
    order = list(DataLoader(range(20), batch_size=None, shuffle=True, generator=torch.Generator().manual_seed(0)))
    np.testing.assert_array_equal(found, cache.features("cues")[order])
    np.testing.assert_array_equal(cache.features("cues", np.arange(20)), cache.features("cues"))


def test_rows_in_any_order_and_none(path: Path) -> None:
    cache = open_cache(path)
    whole = cache.features("cues")
    np.testing.assert_array_equal(cache.features("cues", [7, 3, 3, 19, 0]), whole[[7, 3, 3, 19, 0]])
    np.testing.assert_array_equal(cache.features("cues", slice(4, 9)), whole[4:9])
    assert cache.features("cues", []).shape == (0, whole.shape[1])
    for wrong in ([20], [-1]):
        with pytest.raises(IndexError):
            cache.features("cues", wrong)


@pytest.fixture
def read_only(path: Path, tmp_path: Path) -> Iterator[Path]:
    """The cache in a folder in which nothing can be written."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    (folder / "c.h5").write_bytes(path.read_bytes())
    (folder / "c.h5").chmod(0o444)
    folder.chmod(0o555)
    mounted = False
    if os.geteuid() == 0:  # whom no permissions bind
        bind = ["mount", "--bind", str(folder), str(folder)]
        mounted = not subprocess.call(bind, stderr=subprocess.DEVNULL)
        if not mounted or subprocess.call(["mount", "-o", "remount,ro,bind", str(folder)], stderr=subprocess.DEVNULL):
            pytest.skip("running as root, without the right to mount a folder read-only")
    yield folder / "c.h5"
    if mounted:
        subprocess.check_call(["umount", "-l", str(folder)])
    folder.chmod(0o755)


def test_a_read_only_place_is_enough_for_reading(path: Path, read_only: Path, tmp_path: Path) -> None:
    cache, original = open_cache(read_only), open_cache(path)
    np.testing.assert_array_equal(cache.matrix().X, original.matrix().X)
    assert cache.verify() == [] and cache.info()["images"] == 20
    assert export(cache, tmp_path / "out.csv") == 20
    assert [p.name for p in read_only.parent.iterdir()] == ["c.h5"]


def test_writing_in_a_read_only_place_is_refused_in_one_sentence(read_only: Path, tmp_path: Path) -> None:
    ratings = tmp_path / "beauty.csv"
    ratings.write_text("file,rating\n" + "".join(f"{i:03}.png,{i}\n" for i in range(20)))
    with pytest.raises(DrexcacheError, match=r"writing failed \((Read-only file system|Permission denied)\)"):
        rate(read_only, ratings, "beauty", value_range=(0, 20))


def test_readers_see_the_last_commit_while_a_writer_works(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = classic(pictures, tmp_path / "c.h5")
    old, tick, seen = cache.matrix().X, CacheWriter.tick, []

    def look(self: CacheWriter) -> None:
        tick(self)
        np.testing.assert_array_equal(open_cache(cache.path).matrix().X, old)
        if self.cache.ids != cache.ids and partial_paths(cache.path):
            half = FeatureCache(partial_paths(cache.path)[-1])
            assert half.intact("cues").all() and not half.complete
            seen.append(int((half.status("cues") == DONE).sum()))

    monkeypatch.setattr("drexcache.cache.writer.COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(CacheWriter, "tick", look)
    new = classic(draw(pictures, 6, start=20), cache.path)
    assert seen == [20, 22, 24, 26]
    assert len(new) == 26 and len(cache) == 20
    np.testing.assert_array_equal(cache.matrix().X, old)


def test_a_pickled_cache_is_the_same_file_or_refused(pictures: Path, tmp_path: Path) -> None:
    cache = classic(pictures, tmp_path / "c.h5")
    packed = pickle.dumps(cache)
    assert len(packed) < 1000  # the name, not the contents
    np.testing.assert_array_equal(pickle.loads(packed).matrix().X, cache.matrix().X)
    assert not cache.replaced()
    classic(draw(pictures, 1, start=20), cache.path)
    assert cache.replaced()
    with pytest.raises(DrexcacheError, match="the cache was rewritten after it was opened; open it again"):
        pickle.loads(packed)
    assert len(cache.matrix()) == 20, "who has it open keeps what was opened"


def test_what_is_read_is_one_file_although_another_takes_its_name_meanwhile(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outline of one and the rows of the other once gave ratings that were wrong by a factor of ten."""
    old = classic(pictures, tmp_path / "c.h5").matrix()
    other = classic(draw(tmp_path / "others", 30), tmp_path / "other.h5")
    outline = storage.read_outline

    def replaced(*args: object) -> object:
        found = outline(*args)
        other.path.rename(tmp_path / "c.h5")
        return found

    monkeypatch.setattr(storage, "read_outline", replaced)
    cache = open_cache(tmp_path / "c.h5")
    assert list(cache.matrix().ids) == list(old.ids) and cache.verify() == []
    np.testing.assert_array_equal(cache.matrix().X, old.X)
    np.testing.assert_array_equal(cache.matrix().y, old.y)
    assert cache.replaced()
