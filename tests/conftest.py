"""What several test files need: small real pictures, a tiny real backbone, and the rated photographs where they are."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

# Several test processes that each want every core slow each other down a hundredfold; set before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The tests of the engine itself ask for OpenVINO; what it keeps on the disk goes with the tests.
os.environ.setdefault("DREXCACHE_ENGINE_CPU", "torch")
os.environ.setdefault("XDG_CACHE_HOME", tempfile.mkdtemp(prefix="drexcache-tests-"))

import numpy as np
import pytest
from PIL import Image

from drexcache.recipes import Recipe, recipe_from_dict

# A shell's background job, and all that it starts, ignores the Ctrl-C that tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

SAVOIAS = Path(__file__).parents[2] / "shared" / "savoias-dev"


@pytest.fixture
def savoias() -> Path:
    """The folder of rated photographs, which are not part of the project."""
    if not SAVOIAS.is_dir():
        pytest.skip("needs the SAVOIAS images beside the checkout (shared/savoias-dev), which are not redistributable")
    return SAVOIAS


def draw(folder: Path, count: int, start: int = 0) -> Path:
    """``count`` small pictures of noise on a colour, and a ratings.csv on 0..100 that follows the noise."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["file,rating,split"]
    for number in range(start + count):
        rng = np.random.default_rng(number)
        amount = rng.uniform(0, 100)
        pixels = rng.uniform(60, 190, 3) + rng.normal(0, amount / 2, (24, 32, 3))
        if number >= start:
            Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(folder / f"{number:03}.png")
        lines.append(f"{number:03}.png,{amount:.3f},{'test' if number % 5 == 0 else 'train'}")
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 20 rated pictures."""
    return draw(tmp_path / "pictures", 20)


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def tiny_recipe(size: int = 32) -> Recipe:
    """Two real but tiny timm backbones: a convolutional network and a transformer."""
    vit = {
        "name": "vit",
        "backbone": "test_vit",
        "size": 160,
        **IMAGENET,
        "taps": [{"name": "cls", "layer": "norm", "pool": "cls"}],
    }
    stages = [{"name": f"layer{i}", "layer": f"layer{i}", "pool": "mean"} for i in (1, 4)]
    resnet = {"name": "resnet", "backbone": "test_resnet", "size": size, "taps": stages, **IMAGENET}
    return recipe_from_dict({"name": "tiny", "weights": "random", "blocks": [vit, resnet]}, "tests")


@pytest.fixture
def tiny() -> Recipe:
    """The tiny recipe with random weights."""
    return tiny_recipe()
