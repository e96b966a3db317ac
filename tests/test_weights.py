"""Where weights come from: each source says what it is, or one clear sentence."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_backbones import DINOV3, RESNET, bare, same
from timm.models import get_pretrained_cfg

from drexcache import open_cache, read_images
from drexcache.errors import DrexcacheError
from drexcache.features import extract
from drexcache.features.models import with_own_normalisation
from drexcache.features.sources import check_weights, licence_notice
from drexcache.features.weights import digest, load_weights
from drexcache.recipes import Block, Recipe, Tap


def test_random_weights_are_seeded_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = load_weights(bare(RESNET), RESNET, "", "random")
    torch.manual_seed(3)
    model = bare(RESNET)
    before = torch.random.get_rng_state()
    second = load_weights(model, RESNET, "", "random")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(4), expected)
    assert (first.source, first.sha256, first.licence) == (
        "random seed 0",
        second.sha256,
        "none (random numbers)",
    )
    assert same(first.state, dict(model.state_dict()))


@pytest.mark.parametrize("backbone", [RESNET, "test_efficientnet", "test_vit", "test_convnext"])
def test_random_weights_tell_images_apart(backbone: str) -> None:
    model = bare(backbone)
    load_weights(model, backbone, "", "random")
    with torch.inference_mode():
        features = model(torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0)))
    assert torch.isfinite(features).all()
    assert (features[0] - features[1]).norm() > 0.01 * features[0].norm()


def test_digest_is_the_documented_bytes() -> None:
    state = {
        "b.weight": torch.tensor([[1.0, 2.0]]),
        "a": torch.tensor(5, dtype=torch.int64),
        "bn.num_batches_tracked": torch.tensor(9),
    }
    expected = b"a\0int64\0\0" + (5).to_bytes(8, "little")
    expected += b"b.weight\0float32\x001,2\0" + bytes.fromhex("0000803f00000040")
    assert digest(state) == hashlib.sha256(expected).hexdigest()
    assert digest(state | {"b.weight": state["b.weight"].T.contiguous().T}) == digest(state)
    assert digest(state | {"b.weight": state["b.weight"].T}) != digest(state)


def test_only_dinov3_asks_for_a_licence() -> None:
    notice = licence_notice(DINOV3)
    assert notice is not None and "DINOv3 License" in notice
    assert [licence_notice(name) for name in ("resnet50", "vit_small_patch14_dinov2")] == [None, None]
    assert licence_notice(DINOV3, "eupe_lvd1689m") is None


def test_a_folder_gives_the_recipes_tag_and_never_another(tmp_path: Path) -> None:
    save_file(dict(bare(RESNET).state_dict()), tmp_path / f"{RESNET}.other.safetensors")
    with pytest.raises(DrexcacheError, match=r"holds no test_resnet\.r160_in1k .*; it holds test_resnet\.other\."):
        check_weights(RESNET, "r160_in1k", str(tmp_path))
    save_file(dict(bare(RESNET).state_dict()), tmp_path / f"{RESNET}.safetensors")
    check_weights(RESNET, "r160_in1k", str(tmp_path))
    assert load_weights(bare(RESNET), RESNET, "r160_in1k", str(tmp_path)).source == f"file {RESNET}.safetensors"
    torch.save(dict(bare(RESNET).state_dict()), tmp_path / f"{RESNET}.r160_in1k.pth")
    weights = load_weights(bare(RESNET), RESNET, "r160_in1k", str(tmp_path))
    assert (weights.source, weights.licence) == (f"file {RESNET}.r160_in1k.pth", "not stated")


def test_unknown_sources_and_backbones_are_told_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(DrexcacheError, match=r"weights 'Hub': no such file or folder; expected hub, packaged"):
        check_weights(RESNET, "r160_in1k", "Hub")
    with pytest.raises(DrexcacheError, match=r"timm has no model 'resnet5O'; did you mean resnet50"):
        check_weights("resnet5O", "", str(tmp_path))
    with pytest.raises(DrexcacheError, match=r"timm has no weights 'v2' for resnet50; its tags: a1_in1k, .*tv2_in1k"):
        check_weights("resnet50", "v2", "hub")
    with pytest.raises(DrexcacheError, match="timm has no weights '' for test_resnet; its tags: r160_in1k"):
        load_weights(bare(RESNET), RESNET, "", "hub")


@pytest.mark.parametrize(
    ("backbone", "tag", "mean"),
    [
        ("vit_base_patch16_clip_224", "openai", (0.48145466, 0.4578275, 0.40821073)),
        ("tf_efficientnet_lite0", "in1k", (0.5, 0.5, 0.5)),
        ("resnet50", "", (0.485, 0.456, 0.406)),
        ("resnet50", "of_my_own", (0.485, 0.456, 0.406)),
    ],
)
def test_a_recipe_that_states_no_mean_takes_the_models_own(backbone: str, tag: str, mean: tuple[float, ...]) -> None:
    block = Block("b", backbone, (Tap("norm", "mean", "t"),), tag=tag, std=(1.0, 0.5, 0.25))
    found = with_own_normalisation(block)
    assert (found.mean, found.std) == (mean, (1.0, 0.5, 0.25))
    assert with_own_normalisation(found) is found


def test_the_means_taken_are_said_and_kept(pictures: Path, tmp_path: Path) -> None:
    block = Block("b", "test_convnext", (Tap("stages.0", "mean", "t"),), size=(64, 64))
    said: list[str] = []
    extract(read_images(pictures), Recipe("own", (block,), weights="random"), tmp_path / "c.h5", say=said.append)
    stored = open_cache(tmp_path / "c.h5").blocks["b"].definition
    own = get_pretrained_cfg("test_convnext")
    assert (stored.mean, stored.std) == (own.mean, own.std)
    assert f"block b: mean {own.mean}, std {own.std}, as timm configures test_convnext" in said
