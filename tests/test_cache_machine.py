"""A cache beside a plain dictionary: whatever is done to it in whatever order, it holds what the dictionary says.

The steps: pictures come, change, break and go; extractions, ratings and merges run to their end, are killed, lose the
power or find the disk full; a second writer comes meanwhile; readers look on; and the release before, which wrote
version 1 of the format, takes its turn.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from PIL import Image
from power_loss import recorded, restore
from test_faults import failing, instead_of, killed
from test_power_loss import Work, cheap

from drexcache import DrexcacheError, open_cache
from drexcache.cache.beside import partial_paths
from drexcache.cache.changes import merge, rate
from drexcache.cache.format import DONE
from drexcache.cache.reader import FeatureCache
from drexcache.cache.storage import Storage, create
from drexcache.cache.writer import CacheWriter
from drexcache.datasets import Columns

DATA = Path(__file__).parent / "data"
NAMES = ["a.png", "b.png", "c[1].png", "d/é.png", "e.png"]
BLOCKS = ["cues", "more"]
HOW = ["calmly", "calmly", "watched", "killed", "power cut", "full disk"]


def picture(number: int) -> bytes:
    """A file of one colour, or, for every fourth number, no picture."""
    if number % 4 == 3:
        return b"no picture %d" % number
    data = io.BytesIO()
    Image.new("RGB", (2, 2), (20 * number + 10,) * 3).save(data, "png")
    return data.getvalue()


PICTURES = [picture(number) for number in range(12)]
IMAGE_OF = {hashlib.sha256(data).digest(): number for number, data in enumerate(PICTURES)}
BROKEN = {number for number in range(len(PICTURES)) if number % 4 == 3}
FEATURES = {
    number: tuple(np.sqrt([20.0 * number + 10, 40.0 * number + 20]).astype("f4").tolist())
    for number in set(range(len(PICTURES))) - BROKEN
}

Row = tuple[str, int, str]  # image, number of the picture, block
Rows = dict[str, tuple[int, frozenset[str]]]  # image -> number of the picture, blocks that have features of it


@dataclass(frozen=True)
class Known:
    """What a cache should hold."""

    rows: Rows
    blocks: frozenset[str]
    targets: dict[str, dict[str, float]]


def held(cache: FeatureCache) -> Known:
    """What a cache does hold; every feature is checked against the picture that it should be of."""
    numbers = [IMAGE_OF.get(row.tobytes(), -1) for row in cache.hashes()]
    done = {block: cache.status(block) == DONE for block in cache.blocks}
    for block in cache.blocks:
        for row in np.flatnonzero(done[block]).tolist():
            assert tuple(cache.features(block)[row].tolist()) == FEATURES[numbers[row]]
    rows = {
        image: (numbers[row], frozenset(block for block in cache.blocks if done[block][row]))
        for row, image in enumerate(cache.ids)
    }
    targets = {
        name: {
            image: value for image, value in zip(cache.ids, target.values.tolist(), strict=True) if not np.isnan(value)
        }
        for name, target in cache.targets.items()
    }
    if cache.complete:
        assert cache.verify() == []
        assert {rows[image][0] for image in cache.failures()} <= BROKEN
        assert set(cache.failures()) == {image for image, (number, _) in rows.items() if number in BROKEN}
    return Known(rows, frozenset(cache.blocks), targets)


def computed_rows(known: Known) -> set[Row]:
    """The rows that have features."""
    return {(image, number, block) for image, (number, blocks) in known.rows.items() for block in blocks}


class Machine(RuleBasedStateMachine):
    """The folder, and what the cache should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for name in ("fsync", "fdatasync"):
            self.patch.setattr(os, name, lambda descriptor: None)  # what is not recorded loses no power
        self.work = cheap(Work(Path(tempfile.mkdtemp(prefix="drexcache-"))), self.patch)
        self.out = self.work.out
        self.pictures: dict[str, int] = {}
        self.known: Known | None = None
        self.readers: list[tuple[FeatureCache, Known]] = []

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.work.folder)

    # --- what happens to the pictures ---

    @rule(name=st.sampled_from(NAMES), number=st.integers(0, len(PICTURES) - 1))
    def put_picture(self, name: str, number: int) -> None:
        path = self.work.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_bytes(PICTURES[number])
        path.with_suffix(".new").replace(path)
        self.pictures[name] = number

    @precondition(lambda self: len(self.pictures) > 1)
    @rule(data=st.data())
    def remove_picture(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.pictures)))
        (self.work.images / name).unlink()
        del self.pictures[name]

    # --- the commands ---

    @precondition(lambda self: self.pictures)
    @rule(blocks=st.sampled_from([BLOCKS[:1], BLOCKS[1:], BLOCKS]), prune=st.booleans(), how=st.sampled_from(HOW),
          at=st.integers(1, 40))  # fmt: skip
    def extract(self, blocks: list[str], prune: bool, how: str, at: int) -> None:
        sources = self.sources()
        if not prune and any(known.rows.keys() - self.pictures.keys() for known in sources):
            with pytest.raises(DrexcacheError, match="give --prune"):
                self.work.extract(*blocks)
            return
        there = {row for known in sources for row in computed_rows(known)}
        every = frozenset(blocks).union(*(known.blocks for known in sources))
        rows = {
            image: (number, frozenset(b for b in every if b in blocks or (image, number, b) in there))
            if number not in BROKEN else (number, frozenset())
            for image, number in self.pictures.items()
        }  # fmt: skip
        targets: dict[str, dict[str, float]] = {}
        for known in sources:
            for name, values in known.targets.items():
                targets.setdefault(name, {image: v for image, v in values.items() if image in rows})
        self.run(lambda: self.work.extract(*blocks, prune=prune), Known(rows, every, targets), how, at)
        if how in ("calmly", "watched"):
            assert self.beside() == []

    @precondition(lambda self: self.known)
    @rule(value=st.integers(0, 9), name=st.sampled_from(["beauty", "skill"]), how=st.sampled_from(HOW),
          at=st.integers(1, 30))  # fmt: skip
    def rate(self, value: int, name: str, how: str, at: int) -> None:
        assert self.known
        values = {image: float((value + 3 * place) % 10) for place, image in enumerate(sorted(self.known.rows))}
        file, columns = self.work.folder / "ratings.csv", Columns(rating="r")
        file.write_text("file,r\n" + "".join(f"{image},{v}\n" for image, v in values.items()), encoding="utf-8")
        self.run(
            lambda: rate(self.out, file, name, value_range=(0, 9), columns=columns, replace_target=True),
            replace(self.known, targets=self.known.targets | {name: values}), how, at,
        )  # fmt: skip

    @precondition(lambda self: len(self.pictures) > 1)
    @rule(how=st.sampled_from(HOW), at=st.integers(1, 30))
    def merge_shards(self, how: str, at: int) -> None:
        shards = [self.work.folder / f"shard{number}.h5" for number in (1, 2)]
        for number, path in enumerate(shards, 1):
            path.unlink(missing_ok=True)
            self.work.extract(*BLOCKS, out=path, shard=number)
        self.out.unlink(missing_ok=True)
        self.known = None
        done = {image: frozenset(BLOCKS if number not in BROKEN else ()) for image, number in self.pictures.items()}
        rows = {image: (number, done[image]) for image, number in self.pictures.items()}
        self.run(lambda: merge(shards, self.out), Known(rows, frozenset(BLOCKS), {}), how, at)

    @precondition(lambda self: self.known)
    @rule()
    def the_release_before_wrote_it(self) -> None:
        for path in [self.out, *partial_paths(self.out)]:
            as_version_1(path)

    @precondition(lambda self: self.known)
    @rule()
    def open_a_reader(self) -> None:
        assert self.known
        self.readers = [*self.readers[-1:], (open_cache(self.out), self.known)]

    @invariant()
    def readers_hold_what_they_held(self) -> None:
        for cache, known in self.readers:
            assert held(cache) == known

    @invariant()
    def the_cache_holds_what_the_dictionary_says(self) -> None:
        assert (held(open_cache(self.out)) if self.out.exists() else None) == self.known

    # --- how a command runs ---

    def sources(self) -> list[Known]:
        """What the cache and the partial files hold."""
        partials = [held(FeatureCache(path)) for path in partial_paths(self.out)]
        return [self.known, *partials] if self.known else partials

    def beside(self) -> list[str]:
        """Files that a writer makes and takes away again."""
        return sorted(p.name for p in self.out.parent.glob("c.h5*") if p.name not in ("c.h5", "c.h5.lock"))

    def run(self, command: Callable[[], object], new: Known, how: str, at: int) -> None:
        """Run a command; at its end the new state holds, or, where it was stopped, that or the old one."""
        before = {row for known in self.sources() for row in computed_rows(known)}
        self.work.computed, images = set(), sorted(self.pictures, key=str.encode)
        vouched = set[Row]()
        if how == "killed":
            through = not killed(command, at)
        elif how == "power cut":
            through, vouched = False, self.power_cut(command, at)
        elif how == "full disk":
            through = full_disk(command, at)
        else:
            with self.watched() if how == "watched" else pytest.MonkeyPatch.context():
                command()
            through = True
        if how != "power cut":
            computed = {(images[row], self.pictures[images[row]], block) for block, row in self.work.computed}
            assert not computed & before, "computed again"
        found = held(open_cache(self.out)) if self.out.exists() else None
        assert found == new or (not through and found == self.known)
        self.known = found
        after = {row for known in self.sources() for row in computed_rows(known)}
        current = {row for row in before | vouched if self.pictures.get(row[0]) == row[1]}
        assert current <= after, "lost"
        if through:
            assert not [name for name in self.beside() if "partial" not in name or name.endswith(".new")]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Meanwhile a second writer is refused, and a reader sees the last finished version."""
        tick, known = CacheWriter.tick, self.known

        def look(writer: CacheWriter) -> None:
            tick(writer)
            if not writer.path.name.startswith("c.h5"):
                return
            with pytest.raises(DrexcacheError, match="being written by process"):
                self.work.extract("cues", prune=True)
            if known:
                assert held(open_cache(self.out)) == known
            else:
                with pytest.raises(DrexcacheError, match=r"has not finished yet|no such file"):
                    open_cache(self.out)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CacheWriter, "tick", look)
            yield

    def power_cut(self, command: Callable[[], object], seed: int) -> set[Row]:
        """Leave the disk in a state that a cut in this run may leave; the rows for which a finished sync vouched."""
        commit, vouched = CacheWriter.commit, [(0, set[Row]())]

        def noted(writer: CacheWriter) -> None:
            commit(writer)
            if ".partial-" in writer.path.name:
                vouched.append((recorder.synced, computed_rows(held(writer.cache))))

        with recorded(self.work.folder, "c.h5") as recorder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(CacheWriter, "commit", noted)
            command()
        rng = random.Random(seed)
        moment = rng.choice(recorder.moments)
        restore(self.work.folder, "c.h5", moment.after_a_cut(rng))
        return max((entry for entry in vouched if entry[0] <= moment.synced), key=lambda entry: entry[0])[1]


def full_disk(command: Callable[[], object], at: int) -> bool:
    """Run it on a disk that is full from its ``at``-th change on; whether it came to its end before."""
    try:
        with instead_of(at, failing(errno.ENOSPC), persists=True):
            command()
    except DrexcacheError as error:
        assert "no space left on the disk" in str(error)
        return False
    return True


def as_version_1(path: Path) -> None:
    """Write the file anew as release 0.1 would have."""
    cache, fresh = FeatureCache(path), path.with_name("version-1")
    attributes = cache.contents.attributes()
    attributes["/"]["version"] = 1
    shapes = {name: shape for name, shape in cache.contents.datasets().items() if not name.endswith("/seal")}
    create(fresh, attributes, shapes)
    old, new = cache.storage, Storage(fresh, writable=True)
    for name in shapes:
        new.write(name, old.read(name))
    if cache.version > 1:
        counts = np.ones(len(cache), bool) if cache.complete else cache.sealed()
        new.write("/images/failure", np.where(counts, old.read("/images/failure"), b""))
        new.write("/images/bytes", cache.stats()[:, 0])
        new.write("/images/mtime_ns", cache.stats()[:, 1])
        for block in cache.blocks:
            new.write(f"/blocks/{block}/status", cache.status(block))
    new.write("/images/checksum", np.frombuffer(new.sha256("/images/sha256", "/images/failure"), "u1"))
    for block in cache.blocks:
        here = f"/blocks/{block}"
        new.write(f"{here}/checksum", np.frombuffer(new.sha256(f"{here}/crc32", f"{here}/status"), "u1"))
    fresh.replace(path)


def test_version_1_is_written_as_release_0_1_wrote_it(tmp_path: Path) -> None:
    path = shutil.copy(DATA / "release-0.1-cache.h5", tmp_path / "c.h5")
    as_version_1(path)
    found, wanted = Storage(path), Storage(DATA / "release-0.1-cache.h5")
    assert found.attributes == wanted.attributes
    assert {name: (e.shape, e.dtype) for name, e in found.extents.items()} == {
        name: (e.shape, e.dtype) for name, e in wanted.extents.items()
    }
    for name in wanted.extents:
        assert found.read(name).tobytes() == wanted.read(name).tobytes(), name


SETTINGS = settings(
    stateful_step_count=15, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
)


@pytest.mark.parametrize("examples", [40, pytest.param(2000, marks=pytest.mark.thorough)])
def test_whatever_is_done_the_cache_holds_what_the_dictionary_says(examples: int) -> None:
    chosen = settings(SETTINGS, max_examples=examples, derandomize=examples == 40)
    run_state_machine_as_test(Machine, settings=chosen)
