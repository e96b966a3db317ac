"""Recipe files: what may be left out, and one sentence for what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import draw

from drexcache import DrexcacheError, open_cache, read_images, recipe
from drexcache.features import extract
from drexcache.recipes import Tap, recipe_from_dict

TAP = {"layer": "layer1", "pool": "mean"}
VIT_POOLS = ("cls", "mean", "std")
BLOCK = {"name": "b", "backbone": "resnet50", "taps": [TAP]}


def with_block(**fields: object) -> dict[str, object]:
    return {"name": "r", "blocks": [{**BLOCK, **fields}]}


def test_what_a_file_leaves_out_has_its_default() -> None:
    block = recipe_from_dict(with_block(size=96, std=[1, 1, 0.5]), "r.toml").blocks[0]
    assert block.taps == (Tap(layer="layer1", pool="mean", name="layer1.mean"),)
    assert (block.size, block.mean, block.std) == ((96, 96), None, (1.0, 1.0, 0.5))
    assert (block.resize, block.precision, block.flip, block.alpha, block.exif) == (
        "pil-bilinear", "fp32", False, "drop", "ignore",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "r", "bloks": []}, "r.toml: unknown field 'bloks'; known fields: name, blocks, about"),
        ({"name": "r"}, "r.toml: object missing required field `blocks`"),
        ({"name": "r", "blocks": []}, "r.toml: field 'blocks': expected `array` of length >= 1; found []"),
        ({"name": "r", "blocks": [3]}, "r.toml, block 1: field 'blocks': expected `object`, got `int`; found 3"),
        ({"name": 3, "blocks": [BLOCK]}, "r.toml: field 'name': expected `str`, got `int`; found 3"),
        (with_block(sizes=3), "r.toml, block 1: unknown field 'sizes'; known fields: name, backbone, taps"),
        (with_block(backbone=""), "r.toml, block 1 (b): field 'backbone': expected `str` of length >= 1; found ''"),
        (with_block(size=0), "r.toml, block 1 (b): field 'size': expected `int` >= 1; found 0"),
        (with_block(size=[1, 2, 3]), "block 1 (b): field 'size': expected `array` of length 2, got 3; found [1, 2, 3]"),
        (with_block(resize="area"), "field 'resize' must be one of pil-bilinear, pil-bicubic, tensor-bilinear; found"),
        (with_block(fit="stretch"), "field 'fit' must be one of squeeze, crop, pad; found 'stretch'"),
        (with_block(fit="crop", crops=0), "r.toml, block 1 (b): field 'crops': expected `int` >= 1; found 0"),
        (with_block(fit="pad", crops=3), "r.toml, block 1 (b): crops need fit 'crop'; found 'pad'"),
        (with_block(precision="fp16"), "r.toml, block 1 (b): precision fp16 is refused, DINOv3's activations overflow"),
        (with_block(std=[1, 0, 1]), "r.toml, block 1 (b): field 'std': expected `float` > 0.0; found 0"),
        (with_block(flip="yes"), "r.toml, block 1 (b): field 'flip': expected `bool`, got `str`; found 'yes'"),
        (with_block(name="a/b"), "r.toml, block 1: name 'a/b' must be printable and without a slash"),
        (with_block(taps=[{"layer": "l"}]), "block 1 (b), tap 1 (l.None): object missing required field `pool`"),
        (with_block(taps=[{**TAP, "dim": 0}]), "block 1 (b), tap 1 (layer1.mean): field 'dim': expected `int` >= 1"),
        (with_block(taps=[{**TAP, "pool": "sum"}]), "tap 1 (layer1.sum): field 'pool' must be one of cls, patch_mean"),
        (with_block(taps=[TAP, TAP]), "r.toml, block 1 (b): two taps share a name; found: layer1.mean, layer1.mean"),
        ({"name": "r", "blocks": [BLOCK, BLOCK]}, "r.toml: two blocks share a name; found: b, b"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(DrexcacheError) as caught:
        recipe_from_dict(fields, "r.toml")
    assert message in str(caught.value)


def test_a_file_that_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("name = ")
    with pytest.raises(DrexcacheError, match=r"r.toml: not TOML, in which a recipe is written"):
        recipe(tmp_path / "r.toml")
    with pytest.raises(DrexcacheError, match=r"no recipe and no .toml file named dreks; did you mean drex"):
        recipe("dreks")


def test_options_are_checked_as_in_a_file() -> None:
    changed = recipe("offline").with_options(precision="bf16", exif=None)
    assert {(block.precision, block.exif) for block in changed.blocks} == {("bf16", "ignore")}
    assert recipe("classic").with_options(precision="bf16").blocks[0].spec() == recipe("classic").blocks[0].spec()
    with pytest.raises(DrexcacheError, match=r"block 1 \(dino\): field 'alpha' must be one of drop, white"):
        recipe("drex").with_options(alpha="black")


@pytest.mark.parametrize("name", ["complexity", "complexity-lean", "drex-wide"])
def test_the_wide_recipes_read_their_backbones_alike(name: str) -> None:
    """Several depths of a transformer; mean, spread and most of every stage of a network at two sizes."""
    vit, small, large = recipe(name).blocks
    assert (small.size, large.size, small.taps) == ((256, 256), (512, 512), large.taps)
    assert [tap.name for tap in vit.taps] == [f"{pool}{depth}" for depth in (3, 6, 9, 12) for pool in VIT_POOLS]
    assert [tap.pool for tap in large.taps] == ["mean", "std", "max"] * (len(large.taps) // 3)


@pytest.mark.parametrize("name", ["complexity", "complexity-lean", "drex-wide"])
def test_the_wide_recipes_run(name: str, tmp_path: Path) -> None:
    images, wide = read_images(draw(tmp_path / "pictures", 2)), replace(recipe(name), weights="random")
    extract(images, wide, tmp_path / "c.h5", engine_cpu="torch", say=lambda line: None)
    matrix = open_cache(tmp_path / "c.h5").matrix()
    assert matrix.X.shape == (2, wide.dim) and np.isfinite(matrix.X).all() and (matrix.X[0] != matrix.X[1]).any()
