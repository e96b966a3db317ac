"""The engine: one decode and one forward pass per image, overlap that loses no error, shards, dry runs, compiling."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import draw, tiny_recipe
from PIL import Image
from test_crash import FORKS

from drexcache import DrexcacheError, open_cache, read_images, recipe
from drexcache.cache.changes import merge
from drexcache.cli import main
from drexcache.features import dry_run, extract, forecast, pipeline
from drexcache.features.backbone import Backbone
from drexcache.features.engines import Engines
from drexcache.features.pipeline import WriteBehind
from drexcache.files import size_text
from drexcache.recipes import Recipe


def quiet(line: str) -> None:
    del line


def two_sizes_and_many_taps() -> Recipe:
    """One backbone at two input sizes with three taps each, another with flip."""
    vit, resnet = tiny_recipe().blocks
    taps = (*resnet.taps, replace(resnet.taps[0], name="spread", pool="std"))
    small = replace(resnet, name="resnet32", taps=taps)
    large = replace(resnet, name="resnet48", size=(48, 48), taps=taps)
    return Recipe("wide", (replace(vit, flip=True), small, large), weights="random")


def test_one_decode_for_all_blocks_and_one_forward_pass_for_all_taps(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted inside the models, by torch's own hooks: flip is the one thing that takes a second pass."""
    passes: dict[str, int] = {}
    read: list[int] = []
    build, decoded = Backbone.__init__, pipeline.decoded

    def counting(self: Backbone, *args: object, **options: object) -> None:
        build(self, *args, **options)  # type: ignore[arg-type]
        first = next(module for module in self.tapped.model.modules() if isinstance(module, torch.nn.Conv2d))
        name = self.block.name

        def count(_module: object, inputs: tuple[torch.Tensor], _output: object) -> None:
            passes[name] = passes.get(name, 0) + len(inputs[0])

        first.register_forward_hook(count)

    monkeypatch.setattr(Backbone, "__init__", counting)
    monkeypatch.setattr(pipeline, "decoded", lambda data, how: read.append(1) or decoded(data, how))
    extract(read_images(pictures), two_sizes_and_many_taps(), tmp_path / "c.h5", batch_size=6, say=quiet)
    assert passes == {"vit": 40, "resnet32": 20, "resnet48": 20}
    assert len(read) == 20
    assert list(open_cache(tmp_path / "c.h5").blocks) == ["resnet32", "resnet48", "vit"]


def test_only_what_is_missing_is_prepared(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "c.h5"
    extract(read_images(pictures), tiny_recipe().select(["vit"]), out, say=quiet)
    made: list[tuple[int, int]] = []
    prepare = Backbone.prepare
    monkeypatch.setattr(Backbone, "prepare", lambda self, rgb: made.append(self.block.size) or prepare(self, rgb))
    extract(read_images(pictures), tiny_recipe(), out, say=quiet)
    assert set(made) == {(32, 32)} and len(made) == 20


def test_writing_goes_on_beside_the_caller_in_order_and_bounded() -> None:
    done: list[int] = []
    gate = threading.Event()

    def job(number: int) -> None:
        gate.wait(10)
        done.append(number)

    with WriteBehind(most=2) as behind:
        for number in range(2):
            behind.submit(lambda number=number: job(number))  # type: ignore[misc]
        assert done == []  # the caller was not held up
        threading.Timer(0.05, gate.set).start()
        behind.submit(lambda: job(2))  # the third waits for the first
        assert done[:1] == [0]
    assert done == [0, 1, 2]


def test_after_a_failed_write_nothing_is_written_and_the_caller_hears_of_it() -> None:
    done: list[str] = []

    def fail() -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"), WriteBehind(most=9) as behind:
        for job in (lambda: done.append("before"), fail, lambda: done.append("after")):
            behind.submit(job)
    assert done == ["before"]


def extract_shard(images: Path, index: int, out: Path) -> None:
    """In a process of its own, as if CUDA_VISIBLE_DEVICES had given it one GPU."""
    extract(read_images(images).shard(index, 2), tiny_recipe(), out, device="cpu", say=quiet)


def test_shards_by_processes_make_the_same_cache(pictures: Path, tmp_path: Path) -> None:
    """As one would use the GPUs of a machine: a process each, at the same time, then a merge."""
    parts = [tmp_path / "part1.h5", tmp_path / "part2.h5"]
    processes = [FORKS.Process(target=extract_shard, args=(pictures, i, part)) for i, part in enumerate(parts, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    merge(parts, tmp_path / "whole.h5")
    extract(read_images(pictures), tiny_recipe(), tmp_path / "one.h5", say=quiet)
    whole, one = open_cache(tmp_path / "whole.h5").matrix(), open_cache(tmp_path / "one.h5").matrix()
    assert list(whole.ids) == list(one.ids)
    np.testing.assert_allclose(whole.X, one.X, rtol=0, atol=1e-5 * float(np.abs(one.X).max()))
    # and a run over the whole table takes the shards' rows over instead
    assert extract(read_images(pictures), tiny_recipe(), tmp_path / "also.h5", also=parts, say=quiet).computed == 0
    np.testing.assert_array_equal(open_cache(tmp_path / "also.h5").matrix().X, whole.X)


def test_a_dry_run_says_what_is_missing_and_leaves_no_trace(tmp_path: Path) -> None:
    images, out = draw(tmp_path / "pictures", 6), tmp_path / "c.h5"
    extract(read_images(images), tiny_recipe().select(["vit"]), out, say=quiet)
    draw(images, 2, start=6)
    (tmp_path / "c.h5.lock").unlink()
    before = sorted(path.name for path in tmp_path.rglob("*")), out.read_bytes()
    found = forecast(read_images(images), tiny_recipe(), out)
    assert (found.images, found.missing, found.trouble) == (8, {"vit": 2, "resnet": 8}, ())
    assert found.seconds is not None and 0 < found.seconds < 60
    assert (sorted(path.name for path in tmp_path.rglob("*")), out.read_bytes()) == before
    extract(read_images(images), tiny_recipe(), out, say=quiet)
    assert abs(found.bytes - out.stat().st_size) < 20_000  # HDF5's own, and this tiny cache's, metadata
    again = forecast(read_images(images), tiny_recipe(), out)
    assert again.missing == {"vit": 0, "resnet": 0} and again.lines()[-1] == "weights: within reach"
    assert again.lines()[3] == f"time: none; size: {size_text(again.bytes)}"


def test_a_dry_run_tells_of_trouble_and_ends_with_1(pictures: Path, tmp_path: Path) -> None:
    extract(read_images(pictures), tiny_recipe(), tmp_path / "c.h5", say=quiet)
    other = forecast(read_images(pictures), tiny_recipe(40), tmp_path / "c.h5")
    assert "block resnet was computed otherwise: size: [32, 32] -> [40, 40]" in other.trouble[0]
    nowhere = forecast(read_images(pictures), tiny_recipe(), tmp_path / "d.h5", weights=str(tmp_path / "nowhere"))
    assert len(nowhere.trouble) == 2 and "nowhere" in nowhere.trouble[0] and nowhere.seconds is not None
    text = 'name = "r"\n[[blocks]]\nname = "b"\nbackbone = "test_resnet"\nsize = 32\n'
    (tmp_path / "r.toml").write_text(text + 'taps = [{ layer = "layer1", pool = "mean" }]\n')
    chosen = ["--recipe", str(tmp_path / "r.toml"), "--weights", str(tmp_path / "no")]
    options = ["-o", str(tmp_path / "e.h5"), "--dry-run", *chosen]
    result = CliRunner().invoke(main, ["extract", str(pictures), *options])
    assert result.exit_code == 1 and "would fail: " in result.output and "20 of 20 rows to compute" in result.output
    assert not list(tmp_path.glob("e.h5*"))


def test_the_summary_counts_and_says_what_bounds(pictures: Path, tmp_path: Path) -> None:
    (pictures / "003.png").write_bytes(b"no image")
    command_line = ["extract", str(pictures), "-o", str(tmp_path / "c.h5"), "--recipe", "classic"]
    result = CliRunner().invoke(main, command_line)
    size = size_text((tmp_path / "c.h5").stat().st_size)
    assert f"20 images, 20 computed (1 of them failed), 0 already there; {size}" in result.output
    assert "images/s" in result.output and "time went to decode " in result.output
    summary = extract(read_images(pictures), tiny_recipe(), tmp_path / "t.h5", say=quiet)
    assert sum(summary.shares.values()) == pytest.approx(1) and 0 < summary.computing < summary.seconds
    assert summary.bytes == (tmp_path / "t.h5").stat().st_size


def test_the_engine_is_provenance_and_not_another_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a compiled run are kept by an eager one after one of them was computed again; no compiler is needed."""
    images, out = draw(tmp_path / "pictures", 5), tmp_path / "c.h5"
    with monkeypatch.context() as compiled:
        compiled.setattr(Engines, "__call__", lambda self, backbone, images: setattr(backbone, "mode", "compiled"))
        extract(read_images(images), tiny_recipe(), out, say=quiet)
    first = out.read_bytes()
    extract(read_images(images), tiny_recipe(), out, compile="never", say=quiet)
    assert out.read_bytes() == first, "nothing was computed, so nothing changes"
    draw(images, 1, start=5)
    said: list[str] = []
    assert extract(read_images(images), tiny_recipe(), out, compile="never", say=said.append).computed == 1
    assert sum("rows of another setting kept (mode: compiled -> eager)" in line for line in said) == 2
    assert [entry["mode"] for entry in open_cache(out).blocks["vit"].provenance] == ["compiled", "eager"]
    with pytest.raises(DrexcacheError, match="compile is one of auto, always, never, not 'yes'"):
        extract(read_images(images), tiny_recipe(), out, compile="yes", say=quiet)


def test_a_picture_of_one_pixel_is_computed_and_a_map_of_one_pixel_has_no_spread(tmp_path: Path) -> None:
    images = draw(tmp_path / "pictures", 1)
    Image.new("RGB", (1, 1), (90, 120, 30)).save(images / "one.png")
    table = read_images(images, ratings=False)
    for chosen in (tiny_recipe(), recipe("classic")):
        assert extract(table, chosen, tmp_path / "c.h5", say=quiet).failures == {}
    assert np.isfinite(open_cache(tmp_path / "c.h5").matrix().X).all()
    resnet = tiny_recipe().blocks[1]
    for pool in ("std", "grid2"):
        bad = replace(resnet, taps=(replace(resnet.taps[1], pool=pool),))
        with pytest.raises(DrexcacheError, match=f"pooling '{pool}' does not fit the output of layer layer4"):
            extract(table, Recipe("bad", (bad,), weights="random"), tmp_path / "d.h5", say=quiet)


def test_values_that_are_not_finite_never_get_into_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, original = draw(tmp_path / "pictures", 3), Backbone.__call__
    monkeypatch.setattr(Backbone, "__call__", lambda self, pixels: original(self, pixels) * 1e9)
    with pytest.raises(DrexcacheError, match=r"000.png gives values that are not finite as float16; give --store"):
        extract(read_images(images), tiny_recipe(), tmp_path / "c.h5", store="float16", say=quiet)
    extract(read_images(images), tiny_recipe(), tmp_path / "d.h5", say=quiet)
    monkeypatch.setattr(Backbone, "__call__", lambda self, pixels: original(self, pixels) * float("nan"))
    with pytest.raises(DrexcacheError, match="not finite as float32; are the weights damaged"):
        extract(read_images(images), tiny_recipe(), tmp_path / "e.h5", say=quiet)


def extraction_within(images: Path, out: Path, recipe: str) -> int:
    """Peak memory in MB that an extraction adds, in a process of its own."""
    code = (
        "import resource, sys, torch\n"
        "from drexcache import read_images, recipe; from drexcache.features import extract\n"
        "table, chosen = read_images(sys.argv[1]), recipe(sys.argv[3])\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); extract(table, chosen, sys.argv[2], workers=1, weights='random', device='cpu')\n"
        "print((peak() - before) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(images), str(out), recipe], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.thorough
def test_a_picture_of_300_megapixels_is_computed(tmp_path: Path) -> None:
    images = draw(tmp_path / "pictures", 2)
    Image.new("RGB", (20_000, 15_000), (90, 120, 30)).save(images / "huge.jpg", quality=50)
    (images / "ratings.csv").unlink()
    grown = extraction_within(images, tmp_path / "c.h5", "offline")
    assert open_cache(tmp_path / "c.h5").failures() == {}
    assert grown < 2600  # its 900 MB of pixels, a file's bytes, a band of floats, and two backbones


@pytest.mark.thorough
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """Many times the images, hard links of one small picture: only ids, hashes and status bytes are kept for each."""
    one = tmp_path / "one.png"
    Image.new("RGB", (16, 16), (90, 120, 30)).save(one)
    found = []
    for count in (300, 4_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            (folder / f"{number:06}.png").hardlink_to(one)
        found.append(extraction_within(folder, tmp_path / f"{count}.h5", "classic"))
    assert found[1] - found[0] < 40, found  # MB for 3,700 images


class OneAtATime:
    """An extractor whose images can only be prepared one after the other, as Python's own code is."""

    block, batch, dims = recipe("classic").blocks[0], 8, (1,)
    lock = threading.Lock()

    def prepare(self, rgb: Image.Image) -> torch.Tensor:
        with self.lock:
            time.sleep(0.01)
        return torch.zeros(1)

    def __call__(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(inputs)


def test_a_dry_run_times_reading_with_as_many_threads_as_the_run_has(pictures: Path) -> None:
    table = read_images(pictures, ratings=False)
    missing = {OneAtATime.block.name: np.ones(len(table), bool)}
    for workers in (1, 4):
        found = dry_run._seconds(table, {OneAtATime.block.name: OneAtATime()}, missing, workers, on_cpu=True)
        assert found is not None and 0.9 * 0.01 * len(table) < found < 3 * 0.01 * len(table)
