"""extract -> cache -> matrix: what is computed, what is kept, what is refused."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import pytest
import timm
import torch
from conftest import draw, tiny_recipe
from PIL import Image

from drexcache import DrexcacheError, open_cache, read_images, recipe
from drexcache.datasets import ImageFile
from drexcache.features import extract, forecast, planning
from drexcache.features.backbone import Backbone
from drexcache.features.loading import load_backbone
from drexcache.recipes import Recipe


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Counts real forward passes: (block, images) of each."""
    seen: list[tuple[str, int]] = []
    original = Backbone.__call__

    def counted(self: Backbone, pixels: torch.Tensor) -> torch.Tensor:
        seen.append((self.block.name, len(pixels)))
        return original(self, pixels)

    monkeypatch.setattr(Backbone, "__call__", counted)
    return seen


def images_of(passes: list[tuple[str, int]], block: str) -> int:
    return sum(count for name, count in passes if name == block)


def quiet(line: str) -> None:
    del line


def test_features_are_those_of_the_plain_way(pictures: Path, tiny: Recipe, tmp_path: Path) -> None:
    table = read_images(pictures)
    extract(table, tiny, tmp_path / "c.h5", batch_size=3, say=quiet)
    matrix = open_cache(tmp_path / "c.h5").matrix()

    torch.manual_seed(0)
    vit, resnet = (load_backbone(block, "random", "cpu").tapped.model for block in tiny.blocks)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (tiny.blocks[0].mean, tiny.blocks[0].std))
    for row, image in enumerate(matrix.ids):
        picture = Image.open(pictures / image).convert("RGB")
        big, small = (
            (
                torch.from_numpy(np.array(picture.resize((s, s), Image.Resampling.BILINEAR))).permute(2, 0, 1) / 255
                - mean
            )
            / std
            for s in (160, 32)
        )
        with torch.inference_mode():
            x = resnet.maxpool(resnet.act1(resnet.bn1(resnet.conv1(small[None]))))
            first = resnet.layer1(x)
            last = resnet.layer4(resnet.layer3(resnet.layer2(first)))
            expected = torch.cat([first.mean((2, 3)), last.mean((2, 3)), vit.forward_features(big[None])[:, 0]], dim=1)[
                0
            ]
        np.testing.assert_allclose(matrix.X[row], expected.numpy(), rtol=1e-4, atol=1e-5)
    assert list(matrix.blocks) == ["resnet", "vit"]
    assert list(matrix.taps) == ["resnet/layer1", "resnet/layer4", "vit/cls"]


def test_ratings_ids_hashes_and_splits_stand_beside_the_features(pictures: Path, tmp_path: Path) -> None:
    table = read_images(pictures, value_range=(0, 100))
    extract(table, recipe("classic"), tmp_path / "c.h5", say=quiet)
    cache = open_cache(tmp_path / "c.h5")
    matrix = cache.matrix()
    assert tuple(matrix.ids) == tuple(sorted(p.name for p in pictures.glob("*.png")))
    np.testing.assert_allclose(matrix.raw(matrix.y), table.targets["rating"].values)
    assert matrix.y.min() >= 0 and matrix.y.max() <= 1
    assert matrix.labels["split"][:6] == ["test", "train", "train", "train", "train", "test"]
    import hashlib

    assert list(matrix.hashes) == [hashlib.sha256((pictures / i).read_bytes()).hexdigest() for i in matrix.ids]
    assert cache.verify() == []


def test_same_command_again_computes_nothing(
    pictures: Path, tiny: Recipe, tmp_path: Path, passes: list[tuple[str, int]]
) -> None:
    table = read_images(pictures)
    first = extract(table, tiny, tmp_path / "c.h5", say=quiet)
    before = (tmp_path / "c.h5").read_bytes()
    again = extract(table, tiny, tmp_path / "c.h5", say=quiet)
    assert (first.computed, first.reused, again.computed, again.reused) == (20, 0, 0, 20)
    assert images_of(passes, "vit") == 20
    assert (tmp_path / "c.h5").read_bytes() == before
    assert sorted(p.name for p in tmp_path.glob("c.h5*")) == ["c.h5", "c.h5.lock"]


def test_two_runs_write_the_same_bytes(pictures: Path, tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        extract(read_images(pictures), recipe("classic"), tmp_path / name, say=quiet)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_only_new_and_changed_images_are_computed(tmp_path: Path, tiny: Recipe, passes: list[tuple[str, int]]) -> None:
    pictures, out = draw(tmp_path / "pictures", 6), tmp_path / "c.h5"
    extract(read_images(pictures), tiny, out, say=quiet)
    old = open_cache(out).matrix()
    draw(pictures, 3, start=6)
    shutil.copy(pictures / "008.png", pictures / "002.png")
    draw(pictures, 0, start=9)
    passes.clear()
    summary = extract(read_images(pictures), tiny, out, say=quiet)
    assert (summary.computed, summary.reused) == (4, 5)
    assert images_of(passes, "vit") == images_of(passes, "resnet") == 4
    new = open_cache(out).matrix()
    same = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(new.X[same], old.X[same])
    np.testing.assert_allclose(new.X[2], new.X[8], rtol=1e-4, atol=1e-5)


def test_touched_files_with_the_same_bytes_are_kept(pictures: Path, tiny: Recipe, tmp_path: Path) -> None:
    extract(read_images(pictures), tiny, tmp_path / "c.h5", say=quiet)
    os.utime(pictures / "003.png", (1, 1))
    assert extract(read_images(pictures), tiny, tmp_path / "c.h5", say=quiet).computed == 0


def test_exchanged_files_of_one_size_and_time_are_computed_again(pictures: Path, tmp_path: Path) -> None:
    """As a set of bitmaps, or an archive with one time for all of its files, can be mixed up."""
    for path in pictures.glob("*.png"):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
        os.utime(path.with_suffix(".bmp"), (1_600_000_000, 1_600_000_000))
    cues, out = recipe("classic"), tmp_path / "c.h5"
    extract(read_images(pictures, ratings=False), cues, out, say=quiet)
    one, other, aside = pictures / "003.bmp", pictures / "007.bmp", pictures / "aside"
    assert (one.stat().st_size, one.stat().st_mtime_ns) == (other.stat().st_size, other.stat().st_mtime_ns)
    one.rename(aside), other.rename(one), aside.rename(other)
    assert extract(read_images(pictures, ratings=False), cues, out, say=quiet).computed == 2
    extract(read_images(pictures, ratings=False), cues, tmp_path / "fresh.h5", say=quiet)
    np.testing.assert_array_equal(open_cache(out).matrix().X, open_cache(tmp_path / "fresh.h5").matrix().X)


def test_rehash_reads_what_looks_unchanged(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[ImageFile] = []
    read, table = ImageFile.read, read_images(pictures)
    extract(table, recipe("classic"), tmp_path / "c.h5", say=quiet)
    monkeypatch.setattr(ImageFile, "read", lambda self: reads.append(self) or read(self))
    extract(table, recipe("classic"), tmp_path / "c.h5", say=quiet)
    assert reads == []
    assert extract(table, recipe("classic"), tmp_path / "c.h5", rehash=True, say=quiet).computed == 0
    assert len(reads) == 20


def test_a_file_that_changes_while_it_is_read_is_read_again(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ImageFile.read

    def changing(self: ImageFile) -> bytes:
        data = read(self)
        if Path(self.location).name == "003.png":
            shutil.copy(pictures / "004.png", self.location)
        return data

    with monkeypatch.context() as patch:
        patch.setattr(ImageFile, "read", changing)
        extract(read_images(pictures), recipe("classic"), tmp_path / "c.h5", say=quiet)
    assert extract(read_images(pictures), recipe("classic"), tmp_path / "c.h5", say=quiet).computed == 1


def test_a_block_is_added_without_touching_the_others(
    pictures: Path, tiny: Recipe, tmp_path: Path, passes: list[tuple[str, int]]
) -> None:
    out = tmp_path / "c.h5"
    extract(read_images(pictures), tiny.select(["vit"]), out, say=quiet)
    vit = open_cache(out).features("vit")
    passes.clear()
    extract(read_images(pictures), tiny, out, say=quiet)
    assert {name for name, _ in passes} == {"resnet"}
    np.testing.assert_array_equal(open_cache(out).features("vit"), vit)
    extract(read_images(pictures), recipe("classic"), out, say=quiet)
    assert list(open_cache(out).blocks) == ["cues", "resnet", "vit"]


def test_another_recipe_under_the_same_name_is_refused_field_by_field(
    pictures: Path, tiny: Recipe, tmp_path: Path
) -> None:
    out = tmp_path / "c.h5"
    extract(read_images(pictures), tiny, out, say=quiet)
    before = out.read_bytes()
    with pytest.raises(DrexcacheError, match=r"block resnet was computed otherwise: size: \[32, 32\] -> \[40, 40\]"):
        extract(read_images(pictures), tiny_recipe(40), out, say=quiet)
    with pytest.raises(DrexcacheError, match=r'exif: "ignore" -> "apply"'):
        extract(read_images(pictures), tiny.with_options(exif="apply"), out, say=quiet)
    assert out.read_bytes() == before
    renamed = tiny_recipe(40).select(["resnet"]).renamed(["resnet=resnet40"])
    extract(read_images(pictures), renamed, out, say=quiet)
    assert list(open_cache(out).blocks) == ["resnet", "resnet40", "vit"]


def test_removed_images_need_prune(pictures: Path, tiny: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "c.h5"
    extract(read_images(pictures), tiny, out, say=quiet)
    (pictures / "004.png").unlink()
    table = read_images(pictures, allow_unmatched=True)
    with pytest.raises(DrexcacheError, match=r"holds 1 image that is not among these images \(first: 004.png\)"):
        extract(table, tiny, out, say=quiet)
    assert extract(table, tiny, out, prune=True, say=quiet).computed == 0
    assert "004.png" not in open_cache(out).ids


def test_renamed_images_keep_their_features(tmp_path: Path, tiny: Recipe) -> None:
    images, out = draw(tmp_path / "pictures", 8), tmp_path / "c.h5"
    extract(read_images(images), tiny, out, say=quiet)
    before = open_cache(out).matrix()
    (images / "001.png").rename(images / "sub.png")
    (images / "005.png").rename(images / "z.png")
    table = read_images(images, False)
    assert forecast(table, tiny, out, prune=True).missing == {"vit": 0, "resnet": 0}
    assert extract(table, tiny, out, prune=True, say=quiet).computed == 0
    after = open_cache(out).matrix()
    assert open_cache(out).verify() == []
    names = {"001.png": "sub.png", "005.png": "z.png"}
    assert sorted(after.ids) == sorted(names.get(image, image) for image in before.ids)
    for row, image in enumerate(before.ids):
        at = after.ids.index(names.get(image, image))
        np.testing.assert_array_equal(after.X[at], before.X[row])
        assert after.y[at] == before.y[row]  # what was known of the image goes with it
    assert extract(table, tiny, out, say=quiet).computed == 0


def test_an_unreadable_image_is_a_row_and_is_tried_again(pictures: Path, tiny: Recipe, tmp_path: Path) -> None:
    good = (pictures / "007.png").read_bytes()
    (pictures / "007.png").write_bytes(good[: len(good) // 2])
    out = tmp_path / "c.h5"
    summary = extract(read_images(pictures), tiny, out, say=quiet)
    assert list(summary.failures) == ["007.png"]
    cache = open_cache(out)
    assert len(cache) == 20 and len(cache.matrix()) == 19 and "007.png" not in cache.matrix().ids
    assert cache.info()["blocks"]["vit"]["failed"] == 1
    (pictures / "007.png").write_bytes(good)
    again = extract(read_images(pictures), tiny, out, say=quiet)
    assert (again.computed, again.failures) == (1, {})
    assert open_cache(out).verify() == [] and len(open_cache(out).matrix()) == 20


def test_batch_size_and_workers_change_nothing_beyond_rounding(pictures: Path, tiny: Recipe, tmp_path: Path) -> None:
    found = []
    for batch_size, workers in ((1, 1), (7, 4), (20, 2)):
        out = tmp_path / f"{batch_size}.h5"
        extract(read_images(pictures), tiny, out, batch_size=batch_size, workers=workers, say=quiet)
        found.append(open_cache(out).matrix().X)
    scale = np.abs(found[0]).max()
    for other in found[1:]:
        assert np.abs(other - found[0]).max() <= 1e-5 * scale


def test_float16_storage_and_bf16_arithmetic(pictures: Path, tiny: Recipe, tmp_path: Path) -> None:
    table = read_images(pictures)
    extract(table, tiny, tmp_path / "a.h5", say=quiet)
    extract(table, tiny, tmp_path / "b.h5", store="float16", say=quiet)
    extract(table, tiny.with_options(precision="bf16"), tmp_path / "c.h5", say=quiet)
    full, half, brain = (open_cache(tmp_path / f"{name}.h5").matrix().X for name in "abc")
    np.testing.assert_array_equal(half, full.astype("float16").astype("float32"))
    cosine = (full * brain).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(brain, axis=1)
    assert cosine.min() > 0.99 and not np.array_equal(full, brain)


def test_random_weights_mark_the_cache(pictures: Path, tiny: Recipe, tmp_path: Path) -> None:
    said: list[str] = []
    extract(read_images(pictures), tiny, tmp_path / "c.h5", say=said.append)
    assert any("RANDOM WEIGHTS" in line for line in said)
    assert open_cache(tmp_path / "c.h5").blocks["vit"].weights_source.startswith("random")


def test_what_is_unreachable_is_found_before_an_image_is_read(pictures: Path, tmp_path: Path) -> None:
    for path in pictures.glob("*.png"):
        path.write_bytes(b"not an image")  # reading one would fail otherwise
    table = read_images(pictures)
    bad = replace(tiny_recipe(), weights=str(tmp_path / "nowhere"))
    with pytest.raises(DrexcacheError, match="nowhere"):
        extract(table, bad, tmp_path / "c.h5", say=quiet)
    assert not list(tmp_path.glob("c.h5*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "resnet_50"}, "timm has no model 'resnet_50'; did you mean resnet50?"),
        ({"layer": "layer9"}, "test_resnet has no layer named layer9; did you mean layer"),
        ({"pool": "cls"}, "pooling 'cls' does not fit"),
        ({"dim": 7}, "the recipe says dim 7"),
    ],
)
def test_wrong_recipes_say_what_there_is(
    pictures: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    block = tiny_recipe().blocks[1]
    if "backbone" in change:
        block = replace(block, backbone=str(change["backbone"]))
    else:
        block = replace(block, taps=(replace(block.taps[0], **change),))
    with pytest.raises(DrexcacheError, match=message):
        extract(read_images(pictures), Recipe("bad", (block,), weights="random"), tmp_path / "c.h5", say=quiet)


def test_any_hdf5_library_reads_it(pictures: Path, tiny: Recipe, tmp_path: Path) -> None:
    extract(read_images(pictures), tiny, tmp_path / "c.h5", say=quiet)
    matrix = open_cache(tmp_path / "c.h5").matrix()
    with h5py.File(tmp_path / "c.h5") as file:
        assert file.attrs["format"] == b"drexcache" and file["complete"][0] == 1
        assert [i.decode() for i in file["images/id"][:]] == list(matrix.ids)
        np.testing.assert_array_equal(file["blocks/resnet/features"][:], matrix.X[:, matrix.blocks["resnet"]])
        assert set(file["blocks/resnet/status"][:]) == {1}
        assert file["targets/rating/value"].shape == (20,)


def test_flip_averages_an_image_and_its_mirror(tmp_path: Path) -> None:
    folder = tmp_path / "mirror"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype="uint8")
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels[:, ::-1]).save(folder / "b.png")
    both = Recipe(
        "flip",
        tuple(replace(b, flip=True) for b in tiny_recipe().blocks if b.name == "resnet"),
        weights="random",
    )
    extract(read_images(folder), both, tmp_path / "c.h5", say=quiet)
    a, b = open_cache(tmp_path / "c.h5").matrix().X
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_timm_version_is_in_the_provenance(pictures: Path, tiny: Recipe, tmp_path: Path) -> None:
    extract(read_images(pictures), tiny, tmp_path / "c.h5", say=quiet)
    entry = open_cache(tmp_path / "c.h5").blocks["vit"].provenance[0]
    assert entry["timm"] == timm.__version__ and entry["device"] == "cpu"


def test_another_library_version_is_tried_on_some_rows_before_old_rows_are_kept(
    tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = draw(tmp_path / "pictures", 5), tmp_path / "c.h5"
    extract(read_images(images), tiny, out, say=quiet)
    draw(images, 1, start=5)
    before = out.read_bytes()
    monkeypatch.setattr(planning, "version", lambda package: "99.0" if package == "timm" else version(package))

    original = Backbone.__call__
    with monkeypatch.context() as other:
        other.setattr(Backbone, "__call__", lambda self, pixels: original(self, pixels) * 1.01)
        with pytest.raises(
            DrexcacheError, match=r"00\d.png computed again differs by .* of its scale \(timm: .* -> 99.0\)"
        ):
            extract(read_images(images), tiny, out, say=quiet)
    assert out.read_bytes() == before

    said: list[str] = []
    assert extract(read_images(images), tiny, out, say=said.append).computed == 1
    assert sum("; computed again, 5 rows agree to " in line for line in said) == 2
    assert [entry["timm"] for entry in open_cache(out).blocks["vit"].provenance] == [timm.__version__, "99.0"]


def test_a_version_that_changes_only_tall_images_is_noticed(
    tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Pillow 13, which resizes tall images in another order."""
    images, out = draw(tmp_path / "pictures", 5), tmp_path / "c.h5"
    rng = np.random.default_rng(0)
    for number, size in enumerate([(40, 60, 3), (40, 60, 3), (60, 40, 3), (40, 60, 3), (40, 60, 3)]):
        Image.fromarray(rng.integers(0, 256, size, dtype="u1")).save(images / f"{number:03}.png")
    extract(read_images(images), tiny, out, say=quiet)
    draw(images, 1, start=5)
    monkeypatch.setattr(planning, "version", lambda package: "99.0" if package == "pillow" else version(package))
    prepare = Backbone.prepare
    turn = Image.Transpose.ROTATE_180

    def otherwise(self: Backbone, rgb: Image.Image) -> np.ndarray:
        return prepare(self, rgb.transpose(turn) if rgb.height > rgb.width else rgb)

    monkeypatch.setattr(Backbone, "prepare", otherwise)
    with pytest.raises(DrexcacheError, match=r"002.png computed again differs by .* \(pillow: .* -> 99.0\)"):
        extract(read_images(images), tiny, out, say=quiet)
