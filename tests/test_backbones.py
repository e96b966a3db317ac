"""Backbones and taps against independent oracles: torchvision's ResNet, plain NumPy pooling, and eager for compiled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import tiny_recipe
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms

from drexcache import DrexcacheError, recipe
from drexcache.features import engines as compiled
from drexcache.features.backbone import Backbone, resolve_device
from drexcache.features.engines import settle
from drexcache.features.pixels import to_pixels
from drexcache.recipes import Block, recipe_from_dict

CPU = torch.device("cpu")


def block_of(**fields: object) -> Block:
    return recipe_from_dict({"name": "one", "blocks": [{"name": "b", **fields}]}, "test").blocks[0]


def quiet(line: str) -> None:
    del line


def test_resnet50_stage_means_are_torchvisions(tmp_path: Path) -> None:
    """The drex recipe's second arm: the same weights and the same picture at 512x512, by torchvision alone."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(weights=None).eval()
    for name, buffer in theirs.named_buffers():  # statistics as training leaves them, not zeros and ones
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    save_file(theirs.state_dict(), tmp_path / "torchvision.safetensors")
    block = recipe("drex").blocks[1]
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8))
    ours = Backbone(block, str(tmp_path / "torchvision.safetensors"), CPU)(
        to_pixels(picture, (512, 512), block.resize)[None]
    )
    prepare = transforms.Compose(
        [transforms.Resize((512, 512)), transforms.ToTensor(), transforms.Normalize(block.mean, block.std)]
    )
    with torch.inference_mode():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(prepare(picture)[None]))))
        expected = []
        for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            x = stage(x)
            expected.append(x.mean((2, 3)))
    for mine, other in zip(ours.split([256, 512, 1024, 2048], dim=1), expected, strict=True):
        assert float((mine - other).abs().max() / other.abs().max()) < 1e-5


POOLS = ("cls", "registers", "patch_mean", "mean", "std", "max", "gem", "grid2")


def by_hand(output: np.ndarray, pool: str, prefix: int) -> np.ndarray:
    """A layer's output for one image, tokens (T, C) or a map (C, H, W), pooled with NumPy."""
    if pool in ("cls", "registers"):
        return output[0] if pool == "cls" else output[1:prefix].mean(0)
    if pool == "patch_mean":
        return output[prefix:].mean(0)
    if pool == "grid2":
        _, h, w = output.shape
        parts = [output[:, y : y + h // 2, x : x + w // 2].mean((1, 2)) for y in (0, h // 2) for x in (0, w // 2)]
        return np.stack(parts, axis=1).ravel()
    flat = output.T if output.ndim == 2 else output.reshape(len(output), -1)  # (C, T) or (C, H * W)
    rules = {"mean": flat.mean(1), "std": flat.std(1, ddof=1), "max": flat.max(1)}
    return rules.get(pool, np.maximum(flat, 1e-6).__pow__(3).mean(1) ** (1 / 3))


@pytest.mark.parametrize(
    ("backbone", "layer", "size", "pools"),
    [
        ("vit_small_patch16_dinov3_qkvb", "blocks.3", 64, ("cls", "registers", "patch_mean", "max", "std")),
        ("test_resnet", "layer2", 64, ("mean", "std", "max", "gem", "grid2")),
    ],
)
def test_every_pooling_is_what_it_says(backbone: str, layer: str, size: int, pools: tuple[str, ...]) -> None:
    taps = [{"layer": layer, "pool": pool, "name": pool} for pool in pools]
    mine = Backbone(block_of(backbone=backbone, size=size, taps=taps), "random", CPU)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, size, size), dtype=np.uint8))
    outputs: list[torch.Tensor] = []
    module = dict(mine.tapped.model.named_modules())[layer]
    module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    found = mine(pixels).numpy()
    prefix = getattr(mine.tapped.model, "num_prefix_tokens", 0)
    pooled = [
        np.concatenate(
            [by_hand(image[prefix:] if pool in ("max", "std") and prefix else image, pool, prefix) for pool in pools]
        )
        for image in outputs[0].numpy()
    ]
    np.testing.assert_allclose(found, np.stack(pooled), rtol=1e-4, atol=1e-5)


def test_out_of_memory_halves_the_batch_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is torch's own, raised as a GPU of room for three images would raise it."""
    said: list[str] = []
    block = tiny_recipe().blocks[1]
    backbone = Backbone(block, "random", CPU, batch=16, say=said.append)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32), dtype=np.uint8))
    whole, original, room = backbone(pixels), Backbone._features, 3

    def small(self: Backbone, part: torch.Tensor) -> torch.Tensor:
        if len(part) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, part)

    monkeypatch.setattr(Backbone, "_features", small)
    torch.testing.assert_close(backbone(pixels), whole, rtol=1e-5, atol=1e-6)
    assert backbone.batch == 2
    assert said == [f"block resnet: cpu is out of memory, going on with batches of {n}" for n in (5, 2)]
    room = 0
    with pytest.raises(DrexcacheError, match="cpu: out of memory with a single image; try --device cpu"):
        backbone(pixels)


def test_compiled_is_eager_within_rounding_for_any_number_of_images() -> None:
    """One compilation for one padded shape: its features are eager's to 1e-5 of their largest value."""
    if compiled.missing_compiler(CPU):
        pytest.skip("needs a C++ compiler")
    resnet = tiny_recipe().blocks[1]
    block = replace(resnet, taps=resnet.taps[:1])  # what lies behind the last tap is not compiled
    backbone, said = Backbone(block, "random", CPU, batch=3), list[str]()
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 3, 32, 32), dtype=np.uint8))
    eager = backbone(pixels)
    settle(backbone, 7, "always", said.append)
    assert backbone.compiled and said[0].startswith("block resnet: compiled in ")
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for count in (7, 1, 2):
        error = (backbone(pixels[:count]) - eager[:count]).abs().max() / eager.abs().max()
        assert float(error) <= 1e-5
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


def test_compiling_is_decided_by_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    backbone = Backbone(tiny_recipe().blocks[1], "random", CPU)
    settle(backbone, 99, "auto", said.append)
    settle(backbone, 10**9, "never", said.append)
    settle(backbone, 0, "always", said.append)
    assert said == [] and not backbone.compiled
    monkeypatch.setattr(Backbone, "seconds_per_image", lambda self: 0.25)
    settle(backbone, 1000, "auto", said.append)
    assert (
        said == ["block resnet: eager (1000 images at 0.250 s would save about 25 s, compiling takes about 60 s)"]
        and not backbone.compiled
    )


def test_without_a_compiler_it_goes_eager_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CXX", "/nowhere/g++")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/nowhere/g++",))
    monkeypatch.setattr(Backbone, "seconds_per_image", lambda self: 0.25)
    said: list[str] = []
    backbone = Backbone(tiny_recipe().blocks[1], "random", CPU)
    settle(backbone, 10_000, "auto", said.append)
    assert len(said) == 1 and not backbone.compiled
    assert said[0].startswith("block resnet: EAGER, although compiling would pay (10000 images at 0.250 s")
    assert "no C++ compiler such as g++ was found" in said[0]
    with pytest.raises(DrexcacheError, match=r"block resnet: cannot be compiled \(no C\+\+ compiler.*--compile never"):
        settle(backbone, 10, "always", quiet)


def test_auto_takes_cuda_then_mps_then_cpu() -> None:
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device("auto").type == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("choice", ["never", "always"])
def test_on_cuda_the_numbers_are_the_cpus(choice: str) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 3, 160, 160), dtype=np.uint8))
    block = tiny_recipe().blocks[0]
    there = Backbone(block, "random", torch.device("cuda"), batch=4)
    settle(there, 7, choice, quiet)
    torch.testing.assert_close(there(pixels).cpu(), Backbone(block, "random", CPU)(pixels), rtol=1e-3, atol=1e-3)


def test_fp16_is_refused_with_the_reason() -> None:
    with pytest.raises(DrexcacheError, match="precision fp16 is refused, DINOv3's activations overflow it"):
        block_of(backbone="resnet50", precision="fp16", taps=[{"layer": "layer1", "pool": "mean"}])
    with pytest.raises(DrexcacheError, match="precision fp16 is refused, DINOv3's activations overflow it"):
        recipe("drex").with_options(precision="fp16")
