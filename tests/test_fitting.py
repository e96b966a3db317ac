"""How an image of any shape comes to a block's size, and that its features average over the crops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_recipe
from PIL import Image, ImageOps
from torchvision import transforms

from drexcache.features.fitting import to_size
from drexcache.features.loading import load_backbone
from drexcache.recipes import recipe

BLOCK = replace(tiny_recipe().blocks[1], resize="pil-bilinear", mean=(0.2, 0.4, 0.6), size=(32, 48))
MEAN_COLOUR = (51, 102, 153)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype="uint8"))


def pixels(image: Image.Image) -> np.ndarray:
    return np.array(image).transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("shape", "inner"), [((96, 100), (64, 96)), ((300, 64), (64, 96)), ((24, 18), (16, 24)), ((48, 32), (32, 48))]
)
def test_one_crop_is_torchvisions_centre(shape: tuple[int, int], inner: tuple[int, int]) -> None:
    way = transforms.Compose([transforms.CenterCrop(inner), transforms.Resize((32, 48))])
    np.testing.assert_array_equal(to_size(noise(*shape), replace(BLOCK, fit="crop")), pixels(way(noise(*shape))))


@pytest.mark.parametrize("shape", [(96, 100), (300, 64), (10, 31), (48, 32), (2, 40)])
def test_padding_is_pillows_pad_in_the_mean_colour(shape: tuple[int, int]) -> None:
    theirs = ImageOps.pad(noise(*shape), (48, 32), Image.Resampling.BILINEAR, color=MEAN_COLOUR)
    np.testing.assert_array_equal(to_size(noise(*shape), replace(BLOCK, fit="pad")), pixels(theirs))


def test_float_pixels_are_padded_with_the_mean_itself() -> None:
    found = to_size(noise(20, 200), replace(BLOCK, fit="pad", resize="tensor-bilinear"))
    assert found.shape == (3, 32, 48) and found[:, 0, 0].tolist() == pytest.approx([0.2, 0.4, 0.6])


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_hair_is_a_picture_too(fit: str) -> None:
    assert to_size(noise(1, 4000), replace(BLOCK, fit=fit)).shape == (3, 32, 48)


def test_crops_lie_from_end_to_end() -> None:
    image = noise(144, 32)
    found = to_size(image, replace(BLOCK, fit="crop", crops=3))
    views = [pixels(image)[:, :, left : left + 48] for left in (0, 48, 96)]
    np.testing.assert_array_equal(found, np.concatenate(views, axis=1))


@pytest.mark.parametrize("flip", [False, True])
def test_features_are_the_mean_over_crops_and_mirror_images(flip: bool) -> None:
    torch.manual_seed(0)
    crops = load_backbone(replace(BLOCK, fit="crop", crops=3, flip=flip), "random", "cpu")
    single = load_backbone(BLOCK, "random", "cpu")
    single.tapped.model.load_state_dict(crops.tapped.model.state_dict())
    image = noise(144, 32)
    views = [image.crop((left, 0, left + 48, 32)) for left in (0, 48, 96)]
    views += [ImageOps.mirror(view) for view in views] if flip else []
    expected = single([single.prepare(view) for view in views]).mean(0)
    torch.testing.assert_close(crops([crops.prepare(image)])[0], expected, rtol=1e-4, atol=1e-6)


def test_every_way_has_its_own_fingerprint_and_squeezing_keeps_the_one_it_had() -> None:
    block = recipe("drex").blocks[0]
    ways = [block, replace(block, fit="crop"), replace(block, fit="crop", crops=3), replace(block, fit="pad")]
    prints = [way.fingerprint("0" * 64) for way in ways]
    assert prints[0] == "8e15dbf5ba944e105714cc746e68a9f24b4cfdbafba77f60ba0a866e8993ce71"
    assert len(set(prints)) == 4
