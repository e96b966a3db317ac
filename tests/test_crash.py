"""Real processes, really killed: nothing committed is lost, and the end is as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw, tiny_recipe

from drexcache import DrexcacheError, open_cache, read_images, recipe
from drexcache.cache import writer
from drexcache.cache.beside import partial_paths
from drexcache.cache.format import DONE
from drexcache.cache.reader import FeatureCache
from drexcache.cache.writer import CacheWriter
from drexcache.features import extract
from drexcache.features import pipeline as engine
from drexcache.features.backbone import Backbone
from drexcache.regressors import train_model


def arithmetic(self: Backbone, images: list[torch.Tensor]) -> torch.Tensor:
    """Stands in for a backbone where two runs must agree to the last bit: its result does not depend on the batch."""
    flat = np.stack(images).astype("f4").reshape(len(images), -1).cumsum(axis=1)
    return torch.from_numpy(flat[:, -sum(self.dims) :])


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backbone, "__call__", arithmetic)


def run(images: Path, out: Path, log: Path) -> None:
    """In a process of its own: extract with a commit after every batch, writing down each row that is computed."""
    put = CacheWriter.put
    file = log.open("a", buffering=1)

    def counted(self: CacheWriter, block: str, rows: np.ndarray, features: np.ndarray) -> None:
        file.write("".join(f"{block} {row}\n" for row in rows))
        put(self, block, rows, features)

    CacheWriter.put = counted  # type: ignore[method-assign]
    Backbone.__call__ = arithmetic  # type: ignore[method-assign]
    writer.COMMIT_SECONDS = 0.0
    torch.set_num_threads(1)
    file.write("ready\n")
    extract(read_images(images), tiny_recipe(), out, batch_size=2, workers=1, say=lambda line: None)


FORKS = multiprocessing.get_context("forkserver")  # pays for the imports once
FORKS.set_forkserver_preload(["drexcache.features.loading", "test_crash"])


def committed(out: Path) -> dict[str, set[int]]:
    """Rows that count, per block, as the newest partial file has them."""
    paths = partial_paths(out)
    if not paths:
        return {}
    cache = FeatureCache(paths[-1])
    return {name: set(np.flatnonzero(cache.status(name) == DONE).tolist()) for name in cache.blocks}


def assert_equal(a: Path, b: Path) -> None:
    one, two = open_cache(a), open_cache(b)
    assert one.verify() == two.verify() == []
    assert one.ids == two.ids
    np.testing.assert_array_equal(one.hashes(), two.hashes())
    for block in two.blocks:
        np.testing.assert_array_equal(one.features(block), two.features(block))
        np.testing.assert_array_equal(one.status(block), two.status(block))


def kill_until_done(images: Path, out: Path, log: Path, kills: int, seed: int) -> int:
    """Kill runs at random moments until ``kills`` have been killed, then let one finish; the number killed."""
    rng, killed = random.Random(seed), 0
    while killed < kills:
        before = committed(out)
        seen = len(log.read_text().splitlines()) if log.exists() else 0
        process = FORKS.Process(target=run, args=(images, out, log))
        process.start()
        while process.is_alive() and len(log.read_text().splitlines() if log.exists() else []) <= seen:
            time.sleep(0.002)  # the interpreter's own start is not what is tested
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        assert not out.exists() or process.exitcode == 0 or not partial_paths(out)
        computed = [line.split() for line in log.read_text().splitlines()[seen:] if " " in line]
        again = {(block, int(row)) for block, row in computed} & {(b, r) for b, rows in before.items() for r in rows}
        assert again == set(), "a committed row was computed again"
        if out.exists():
            out.unlink()
            log.unlink()
        else:
            killed += 1
    return killed


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.thorough)])
def test_killed_at_random_moments_and_run_again(tmp_path: Path, kills: int) -> None:
    images = draw(tmp_path / "pictures", 24)
    out, log = tmp_path / "c.h5", tmp_path / "log"
    assert kill_until_done(images, out, log, kills, seed=kills) == kills
    undisturbed = tmp_path / "undisturbed.h5"
    for path in (out, undisturbed):
        process = FORKS.Process(target=run, args=(images, path, log))
        process.start()
        process.join()
        assert process.exitcode == 0
    assert_equal(out, undisturbed)
    assert partial_paths(out) == []


def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int = 8) -> tuple[Path, Path]:
    """A folder of 20 pictures and the cache of an extraction that stopped after ``rows`` of them."""
    images, out = draw(tmp_path / "pictures", 20), tmp_path / "c.h5"
    count = 0

    original = engine._compute

    def limited(*args: object) -> None:
        nonlocal count
        if count == rows // 2:
            raise KeyboardInterrupt
        count += 1
        original(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_compute", limited)
        with pytest.raises(KeyboardInterrupt):
            extract(read_images(images), tiny_recipe(), out, batch_size=2, say=lambda line: None)
    assert len(committed(out)["vit"]) == rows
    return images, out


def finish(images: Path, out: Path) -> tuple[int, list[str]]:
    said: list[str] = []
    summary = extract(read_images(images), tiny_recipe(), out, batch_size=2, say=said.append)
    return summary.computed, said


def test_an_interrupted_cache_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out = interrupted(tmp_path, monkeypatch)
    with pytest.raises(DrexcacheError, match="run the same extract command again"):
        open_cache(out)


def test_going_on_computes_only_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, out = interrupted(tmp_path, monkeypatch)
    assert finish(images, out)[0] == 12


def test_more_images_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, out = interrupted(tmp_path, monkeypatch)
    draw(images, 4, start=20)
    assert finish(images, out)[0] == 16
    assert partial_paths(out) == []
    assert open_cache(out).verify() == []


@pytest.mark.parametrize("cut", [1, 200, 3000, 20_000])
def test_a_truncated_partial_file_costs_only_the_lost_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    images, out = interrupted(tmp_path, monkeypatch)
    partial = partial_paths(out)[-1]
    os.truncate(partial, partial.stat().st_size - cut)
    computed, said = finish(images, out)
    assert 12 <= computed <= 20
    assert computed == 12 or any("computed again" in line for line in said)
    extract(read_images(images), tiny_recipe(), tmp_path / "whole.h5", batch_size=2, say=lambda line: None)
    assert_equal(out, tmp_path / "whole.h5")


@pytest.mark.parametrize("finished", [False, True])
def test_a_flipped_bit_in_features_costs_that_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    images, out = interrupted(tmp_path, monkeypatch)
    if finished:
        finish(images, out)
    path = out if finished else partial_paths(out)[-1]
    extent = FeatureCache(path).storage.extents["/blocks/resnet/features"]
    flip(path, extent.offset + 3 * extent.row_bytes + 5)
    if finished:
        assert open_cache(out).verify() == ["/blocks/resnet: 1 row does not match the checksum (first: 003.png)"]
    computed, said = finish(images, out)
    assert computed == (1 if finished else 13)
    assert any("1 row did not match the checksum: computed again" in line for line in said)
    assert open_cache(out).verify() == []


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def test_flips_anywhere_in_a_partial_file_never_reach_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = interrupted(tmp_path, monkeypatch)
    partial = partial_paths(out)[-1]
    data = partial.read_bytes()
    extract(read_images(images), tiny_recipe(), tmp_path / "whole.h5", batch_size=2, say=lambda line: None)
    rng = random.Random(0)
    for _ in range(12):
        for path in tmp_path.glob("c.h5*"):
            path.unlink()
        partial.write_bytes(data)
        flip(partial, rng.randrange(len(data)))
        finish(images, out)
        assert_equal(out, tmp_path / "whole.h5")


def test_ctrl_c_stops_within_two_seconds_and_says_how_to_go_on(tmp_path: Path) -> None:
    images, out = draw(tmp_path / "pictures", 150), tmp_path / "c.h5"
    options = ["-o", str(out), "--recipe", "classic", "--range", "0", "100"]
    command = [sys.executable, "-m", "drexcache.cli", "extract", str(images), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not any(committed(out).values()):
        time.sleep(0.05)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    said = [line for line in iter(process.stderr.readline, "") if "Run the same command again" in line]
    assert time.monotonic() - asked < 5  # a tenth of a second on a quiet machine, and then the interpreter's own end
    assert len(said) == 1 and process.wait(timeout=20) == 130
    before = committed(out)["cues"]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    assert f"{150 - len(before)} computed, {len(before)} already there" in result.stderr


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.thorough)])
def test_a_killed_prediction_keeps_what_it_computed(count: int, tmp_path: Path) -> None:
    images, model, kept = draw(tmp_path / "pictures", count), tmp_path / "m.drex", tmp_path / "kept.h5"
    extract(read_images(draw(tmp_path / "rated", 20), value_range=(0, 100)), recipe("classic"), tmp_path / "c.h5")
    cache = open_cache(tmp_path / "c.h5")
    train_model("ridge", cache.matrix(), cache, tuple(cache.blocks), seed=0).save(model)
    command = [sys.executable, "-m", "drexcache.cli", "predict", str(model), str(images), "--cache", str(kept)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not any(committed(kept).values()):
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = len(committed(kept)["cues"])
    assert 0 < before < count
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{count - before} computed, {before} already there" in result.stderr
    plain = subprocess.run(command[:-2], capture_output=True, text=True, check=True)
    assert result.stdout == plain.stdout and len(result.stdout.splitlines()) == count + 1


def test_a_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    images, out = draw(tmp_path / "pictures", 4), tmp_path / "c.h5"
    hold = (
        "import sys,time; from pathlib import Path; from drexcache.cache.beside import writer_lock\n"
        "with writer_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", hold, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(DrexcacheError, match=f"being written by process {process.pid} on "):
        extract(read_images(images), tiny_recipe(), out, say=lambda line: None)
    process.kill()
    process.wait()
    assert extract(read_images(images), tiny_recipe(), out, say=lambda line: None).computed == 4


def test_where_no_lock_file_can_be_made_the_folder_and_the_reason_are_named(tmp_path: Path) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("needs /proc, in which no file can be made even by root")
    table = read_images(draw(tmp_path / "pictures", 2))
    with pytest.raises(DrexcacheError) as caught:
        extract(table, tiny_recipe(), Path("/proc/c.h5"), say=lambda line: None)
    assert str(caught.value) == (
        "/proc/c.h5: writing failed (No such file or directory) in /proc; check the disk or choose another and run the"
        " same command again, rows already committed are kept"
    )
