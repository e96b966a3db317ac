"""The power fails: whatever state the disk is left in, the same command again ends as if nothing had happened."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from conftest import draw
from power_loss import Moment, recorded, restore, states
from test_faults import cheap_cues

from drexcache import DrexcacheError, open_cache, read_images
from drexcache.cache import changes, storage, writer
from drexcache.cache.changes import merge, rate
from drexcache.cache.parser import Outline, read_outline
from drexcache.cache.reader import FeatureCache
from drexcache.cache.writer import CacheWriter
from drexcache.datasets import Columns, ImageTable
from drexcache.features import extract, planning
from drexcache.features.cues import Cues
from drexcache.recipes import Recipe, recipe_from_dict

IMAGES = 5
RARER = ("changed image of a finished cache", "added block to half", "finish, then changed", "shard")


def cues(*blocks: str) -> Recipe:
    taps = [{"name": "edge_density", "layer": "edge_density", "pool": "value"}]
    taps.append({"name": "colourfulness", "layer": "colourfulness", "pool": "value"})
    named = [{"name": name, "backbone": "classic", "taps": taps} for name in blocks]
    return recipe_from_dict({"name": "cheap", "blocks": named}, "tests")


@dataclass
class Work:
    """A folder to work in, and which rows the last run computed."""

    folder: Path
    computed: set[tuple[str, int]] = field(default_factory=set)
    table: ImageTable | None = None  # read once where the pictures stay as they are

    @property
    def images(self) -> Path:
        return self.folder / "pictures"

    @property
    def out(self) -> Path:
        return self.folder / "c.h5"

    def extract(self, *blocks: str, out: Path | None = None, shard: int = 0, **options: object) -> None:
        table = self.table or read_images(self.images)
        if shard:
            table = table.shard(shard, 2)
        recipe = cues(*(blocks or ("cues",)))
        extract(table, recipe, out or self.out, batch_size=2, workers=1, say=len, **options)  # type: ignore[arg-type]


class StoppedError(Exception):
    """The run ends here."""


def stopped(work: Work, after: int, *blocks: str) -> None:
    """An extraction that ends after so many commits."""
    tick, count = CacheWriter.tick, 0

    def until(self: CacheWriter) -> None:
        nonlocal count
        tick(self)
        count += 1
        if count == after:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CacheWriter, "tick", until)
        with pytest.raises(StoppedError):
            work.extract(*blocks)


def repaint(path: Path, seed: int = 7) -> None:
    """Another picture under the same name."""
    draw(path.parent / "other", 1, start=40 + seed)
    (path.parent / "other" / f"{40 + seed:03}.png").replace(path)
    shutil.rmtree(path.parent / "other")


def nothing(work: Work) -> None:
    pass


def half(work: Work) -> None:
    stopped(work, 1)


def changed(work: Work) -> None:
    stopped(work, 2)
    for name in ("000.png", "001.png"):
        repaint(work.images / name)


def removed(work: Work) -> None:
    stopped(work, 3)
    (work.images / "001.png").unlink()
    lines = (work.images / "ratings.csv").read_text().splitlines()
    (work.images / "ratings.csv").write_text("\n".join(line for line in lines if "001.png" not in line) + "\n")


def finished(work: Work) -> None:
    work.extract()


def finished_and_changed(work: Work) -> None:
    work.extract()
    repaint(work.images / "002.png")


def broken(work: Work) -> None:
    (work.images / "000.png").write_bytes(b"not a picture")
    (work.images / "002.png").write_bytes(b"nor this")
    stopped(work, 1)
    repaint(work.images / "000.png")


def all_rows(work: Work) -> None:
    stopped(work, 3, "cues", "more")


def all_but_the_end(work: Work) -> None:
    """Stopped between the last sync and the rename."""

    def stop(self: Path, target: Path) -> None:
        raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "sync_folder", lambda folder: None)
        real = Path.replace
        patch.setattr(Path, "replace", lambda a, b: real(a, b) if "partial" in Path(b).name else stop(a, b))
        with pytest.raises(StoppedError):
            work.extract()


def all_but_the_end_then_changed(work: Work) -> None:
    all_but_the_end(work)
    repaint(work.images / "003.png")


def shards(work: Work) -> None:
    for number in (1, 2):
        work.extract(out=work.folder / f"shard{number}.h5", shard=number)


def rated(work: Work) -> None:
    work.extract()
    text = "file,beauty\n" + "".join(f"{i:03}.png,{i}\n" for i in range(IMAGES))
    (work.folder / "beauty.csv").write_text(text)


def add_rating(work: Work) -> None:
    columns = Columns(rating="beauty")
    rate(work.out, work.folder / "beauty.csv", "beauty", value_range=(0, 9), columns=columns, replace_target=True)


def merge_shards(work: Work) -> None:
    if not work.out.exists():
        merge([work.folder / f"shard{number}.h5" for number in (1, 2)], work.out)


SCENARIOS: dict[str, tuple[Callable[[Work], None], Callable[[Work], None]]] = {
    "fresh": (nothing, Work.extract),
    "resumed": (half, Work.extract),
    "changed image": (changed, Work.extract),
    "changed image of a finished cache": (finished_and_changed, Work.extract),
    "removed image": (removed, lambda work: work.extract(prune=True)),
    "added block": (finished, lambda work: work.extract("cues", "more")),
    "added block to half": (half, lambda work: work.extract("cues", "more")),
    "failed images": (broken, Work.extract),
    "finish": (all_rows, lambda work: work.extract("cues", "more")),
    "finish, then changed": (all_but_the_end_then_changed, Work.extract),
    "shard": (nothing, lambda work: work.extract(shard=1)),
    "out of shards": (shards, lambda work: work.extract(also=[work.folder / "shard1.h5"])),
    "merge": (shards, merge_shards),
    "rate": (rated, add_rating),
}


def contents(path: Path) -> dict[str, object]:
    """All that a cache says, but for the values of rows without features."""
    cache = open_cache(path)
    assert cache.verify() == []
    done = {name: cache.status(name) == 1 for name in cache.blocks}
    return {
        "ids": cache.ids, "hashes": cache.hashes().tolist(), "stats": cache.stats().tolist(),
        "failures": cache.failures(), "labels": cache.labels,
        "targets": {name: target.values.tolist() for name, target in cache.targets.items()},
        "status": {name: cache.status(name).tolist() for name in cache.blocks},
        "features": {name: cache.features(name)[done[name]].tolist() for name in cache.blocks},
    }  # fmt: skip


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    return workplace(tmp_path, monkeypatch)


def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """A folder of small pictures in which every step is cheap."""
    draw(tmp_path / "pictures", IMAGES)
    return cheap(Work(tmp_path), monkeypatch)


def cheap(made: Work, monkeypatch: pytest.MonkeyPatch) -> Work:
    """Cues that cost nothing, a commit after every batch, and what is computed is noted."""
    monkeypatch.setattr(Cues, "prepare", cheap_cues)
    monkeypatch.setattr(writer, "COMMIT_SECONDS", -1.0)
    monkeypatch.setattr(planning, "version", lambda package: "1.0")  # slow to find out
    monkeypatch.setattr(storage, "read_outline", remembered())
    put, take = CacheWriter.put, writer.take_rows
    copying = False

    def counted(self: CacheWriter, block: str, rows: np.ndarray, features: np.ndarray) -> None:
        if not copying:
            made.computed |= {(block, row) for row in rows.tolist()}
        put(self, block, rows, features)

    def copied(*args: object) -> int:
        nonlocal copying
        copying = True
        try:
            return take(*args)  # type: ignore[arg-type]
        finally:
            copying = False

    monkeypatch.setattr(CacheWriter, "put", counted)
    for module in (writer, changes):
        monkeypatch.setattr(module, "take_rows", copied)
    return made


def remembered() -> Callable[[int, Path], Outline]:
    """`read_outline`, which is half of the work here, run once for all files that differ in their datasets alone."""
    found: list[tuple[list[tuple[int, int]], bytes, Outline]] = []

    def read(descriptor: int, path: Path) -> Outline:
        data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        for between, metadata, outline in found:
            if b"".join(data[start:stop] for start, stop in between) == metadata:
                return outline
        outline = read_outline(descriptor, path)
        starts = sorted((e.offset, e.offset + e.shape[0] * e.row_bytes) for e in outline.datasets.values())
        between = list(zip([0, *(stop for _, stop in starts)], [*(start for start, _ in starts), 1 << 50], strict=True))
        found.append((between, b"".join(data[start:stop] for start, stop in between), outline))
        return outline

    return read


def cut(work: Work, scenario: str, count: int, seed: int = 0) -> tuple[int, list[str]]:
    """Cut the power in that many different ways; the number of states, and what went wrong in which."""
    prepare, command = SCENARIOS[scenario]
    prepare(work)
    commit, vouched = CacheWriter.commit, list[tuple[int, set[tuple[str, int]]]]()
    with recorded(work.folder, "c.h5") as recorder, pytest.MonkeyPatch.context() as patch:

        def noted(self: CacheWriter) -> None:
            commit(self)
            rows = {(name, row) for name in self.cache.blocks for row in np.flatnonzero(self.done(name)).tolist()}
            vouched.append((recorder.synced, rows))

        patch.setattr(CacheWriter, "commit", noted)
        work.computed = set()
        command(work)
    expected, computed, wrong, tried = contents(work.out), set(work.computed), list[str](), 0
    work.table = read_images(work.images)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, lambda descriptor: None)  # this disk does not fail
        for moment, state in states(recorder, count, seed):
            restore(work.folder, "c.h5", state)
            tried += 1
            work.computed = set()
            try:
                command(work)
                found = contents(work.out)
            except (DrexcacheError, AssertionError) as error:
                wrong.append(str(error))
                continue
            wrong += [f"{name} differ" for name in expected if found[name] != expected[name]]
            if lost := work.computed - (computed - known(moment, vouched)):
                wrong.append(f"computed again: {sorted(lost)}")
            left = sorted(path.name for path in work.folder.glob("c.h5*") if path.name != "c.h5.lock")
            wrong += [f"left over: {name}" for name in left if name != "c.h5"]
    return tried, wrong


def known(moment: Moment, vouched: list[tuple[int, set[tuple[str, int]]]]) -> set[tuple[str, int]]:
    """The rows that the commits before this moment made count."""
    return max((entry for entry in vouched if entry[0] <= moment.synced), default=(0, set()), key=lambda e: e[0])[1]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_after_a_power_cut_the_same_command_ends_as_if_nothing_had_happened(work: Work, scenario: str) -> None:
    count = 30 if scenario in RARER else 300
    tried, wrong = cut(work, scenario, count)
    assert wrong == [] and tried == count


@pytest.mark.thorough
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_after_many_more_cuts(work: Work, scenario: str) -> None:
    tried, wrong = cut(work, scenario, 1500, seed=1)
    assert wrong == [] and tried > 1000


def test_without_seals_a_changed_image_gives_wrong_rows(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """The states that are built are the bad ones: what the seals are for happens in them."""
    monkeypatch.setattr(FeatureCache, "sealed", lambda self, block=None: np.ones(len(self), bool))
    _, wrong = cut(work, "changed image", 300)
    assert "features differ" in wrong
