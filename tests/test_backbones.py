"""Backbones and taps against independent oracles: torchvision's ResNet, plain NumPy pooling, and eager for compiled."""

from __future__ import annotations

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
from drexcache.devices import resolve_device
from drexcache.features import engines
from drexcache.features.backbone import Backbone
from drexcache.features.engines import Engines
from drexcache.features.loading import load_backbone
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
    ours = load_backbone(block, str(tmp_path / "torchvision.safetensors"), CPU)(
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
    mine = load_backbone(block_of(backbone=backbone, size=size, taps=taps), "random", CPU)
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


@pytest.mark.parametrize(
    ("backbone", "size", "layers"),
    [
        ("resnet18", 64, ("bn1", "act1", "layer1.0.bn2", "layer1.0")),
        ("test_vit", 160, ("blocks.0.norm1", "blocks.0", "norm")),
        ("test_convnext", 64, ("stem", "stages.0.blocks.0.norm", "stages.3")),
        ("tf_efficientnet_lite0", 64, ("bn1", "blocks.0.0.bn1", "blocks.1")),
    ],
)
def test_a_tap_is_its_own_layer_and_not_what_is_made_of_it_in_place(
    backbone: str, size: int, layers: tuple[str, ...]
) -> None:
    """Each tap beside a clean pass: the layer's output copied at once, before anything behind it can change it."""
    mine = load_backbone(
        block_of(backbone=backbone, size=size, taps=[{"layer": layer, "pool": "mean"} for layer in layers]),
        "random",
        CPU,
    )
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, size, size), dtype=np.uint8))
    found = mine(images)
    copies: dict[str, torch.Tensor] = {}
    model = mine.tapped.model
    for name, module in model.named_modules():
        if name in layers:
            module.register_forward_hook(lambda _m, _i, o, name=name: copies.update({name: o.detach().clone()}))
    mine(images)
    prefix, nhwc = getattr(model, "num_prefix_tokens", 0), getattr(model, "output_fmt", "NCHW") == "NHWC"
    expected = []
    for layer in layers:
        x = copies[layer]
        expected.append(x[:, prefix:].mean(1) if x.ndim == 3 else x.mean((1, 2)) if nhwc else x.mean((2, 3)))
    torch.testing.assert_close(found, torch.cat(expected, dim=1), rtol=1e-5, atol=1e-6)
    assert backbone != "resnet18" or float(found[:, :64].min()) < 0  # a batch norm, not the ReLU behind it


@pytest.mark.parametrize("layer", ["head", "fc_norm"])
def test_a_layer_that_takes_no_part_is_refused(layer: str) -> None:
    with pytest.raises(DrexcacheError, match=f"layer {layer} of vit_tiny_patch16_224 takes no part in its features"):
        load_backbone(block_of(backbone="vit_tiny_patch16_224", taps=[{"layer": layer, "pool": "mean"}]), "random", CPU)


def test_a_size_that_would_cut_patches_is_refused() -> None:
    taps = [{"layer": "norm", "pool": "cls"}]
    with pytest.raises(
        DrexcacheError, match=r"size \[225, 160\] is not a multiple of .* \[16, 16\] pixels; take \[224, 160"
    ):
        load_backbone(block_of(backbone="test_vit", size=[225, 160], taps=taps), "random", CPU)


def test_out_of_memory_halves_the_batch_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is torch's own, raised as a GPU of room for three images would raise it."""
    said: list[str] = []
    block = tiny_recipe().blocks[1]
    backbone = load_backbone(block, "random", CPU, batch=16, say=said.append)
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


def test_whole_batches_give_the_same_for_any_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled takes one shape: smaller batches are filled up, and what fills them is dropped."""
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    shapes: list[int] = []
    backbone = load_backbone(tiny_recipe().blocks[1], "random", CPU, batch=3, say=quiet)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 3, 32, 32), dtype=np.uint8))
    eager = backbone(pixels)
    assert engines._try_to_compile(backbone) == "" and (backbone.mode, backbone.whole_batches) == ("compiled", True)
    backbone.tapped.register_forward_pre_hook(lambda _module, inputs: shapes.append(len(inputs[0])))
    for count in (7, 1, 2):
        torch.testing.assert_close(backbone(pixels[:count]), eager[:count], rtol=1e-5, atol=1e-6)
    assert set(shapes) == {3}


def test_what_a_compiler_stumbles_over_leaves_the_eager_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(module: torch.nn.Module, **_: object) -> None:
        raise RuntimeError("Triton fell over\nat line 3")

    monkeypatch.setattr(torch, "compile", stumble)
    monkeypatch.setattr(engines, "_why_no_compiler", lambda: "")
    said: list[str] = []
    backbone = load_backbone(tiny_recipe().blocks[1], "random", CPU, say=said.append)
    backbone.device = torch.device("cuda")
    with pytest.raises(DrexcacheError, match=r"cannot be compiled \(RuntimeError: Triton fell over\); give --compile"):
        Engines("always")(backbone, 1)
    Engines("auto")(backbone, engines.WORTH_COMPILING - 1)
    assert said == []
    Engines("auto")(backbone, engines.WORTH_COMPILING)
    assert "block resnet: EAGER, although compiling would pay for 20000 images: RuntimeError" in said[0]
    backbone.device = CPU
    assert (backbone.mode, backbone.whole_batches, backbone.run) == ("eager", False, backbone.tapped)


def test_nothing_is_compiled_on_a_cpu() -> None:
    said: list[str] = []
    backbone = load_backbone(tiny_recipe().blocks[1], "random", CPU, compile="always", say=said.append)
    backbone.get_ready(0)
    assert said == []
    backbone.get_ready(10**9)
    backbone.get_ready(5)
    assert said == ["block resnet: eager, for nothing is compiled on cpu"] and backbone.mode == "eager"


def test_auto_takes_cuda_then_mps_then_cpu() -> None:
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device("auto") == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("choice", ["never", "always"])
def test_on_cuda_the_numbers_are_the_cpus(choice: str) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 3, 160, 160), dtype=np.uint8))
    block = tiny_recipe().blocks[0]
    there = load_backbone(block, "random", torch.device("cuda"), batch=4, compile=choice)
    there.get_ready(7)
    torch.testing.assert_close(there(pixels).cpu(), load_backbone(block, "random", CPU)(pixels), rtol=1e-3, atol=1e-3)


def test_fp16_is_refused_with_the_reason() -> None:
    with pytest.raises(DrexcacheError, match="precision fp16 is refused, DINOv3's activations overflow it"):
        block_of(backbone="resnet50", precision="fp16", taps=[{"layer": "layer1", "pool": "mean"}])
    with pytest.raises(DrexcacheError, match="precision fp16 is refused, DINOv3's activations overflow it"):
        recipe("drex").with_options(precision="fp16")
