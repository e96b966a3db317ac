"""Files of weights: every tensor in its place whatever the container and the names, or none is loaded."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from small_backbones import DINOV3, RESNET, SMALL, bare, same, scrambled

from drexcache.errors import DrexcacheError
from drexcache.features.checkpoint import read_checkpoint
from drexcache.features.weights import load_weights

# --- files -----------------------------------------------------------------


def test_a_file_gives_the_same_weights_and_digest_from_any_container(tmp_path: Path) -> None:
    state = dict(scrambled(timm.create_model(RESNET, num_classes=10)).state_dict())  # with a classifier
    save_file(state, tmp_path / "plain.safetensors")
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "nested.pt")
    torch.save({"model": state, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}, tmp_path / "train.bin")
    counted = {name: v for name, v in state.items() if not name.endswith("num_batches_tracked")}
    torch.save({"student": {"backbone": {}}, "teacher": {"backbone": counted}}, tmp_path / "old.pth")
    sources = {}
    for path in sorted(tmp_path.iterdir()):
        model = bare(RESNET)
        weights = load_weights(model, RESNET, "", str(path))
        assert same(weights.state, dict(model.state_dict()))
        assert all(torch.equal(weights.state[name], state[name]) for name in weights.state)
        sources[weights.source] = weights.sha256
    assert len(set(sources.values())) == 1
    assert list(sources) == [
        "file nested.pt (state_dict.module)",
        "file old.pth (teacher.backbone)",
        "file plain.pth",
        "file plain.safetensors",
        "file train.bin (model)",
    ]


def test_of_student_and_teacher_the_teacher_is_read_and_other_pairs_are_refused(tmp_path: Path) -> None:
    student, teacher = dict(bare(RESNET).state_dict()), dict(scrambled(bare(RESNET)).state_dict())
    torch.save({"student": student, "teacher": teacher}, tmp_path / "dino.pth")
    weights = load_weights(bare(RESNET), RESNET, "", str(tmp_path / "dino.pth"))
    assert weights.source == "file dino.pth (teacher)" and same(weights.state, teacher)
    torch.save({"net": student, "net_ema": teacher}, tmp_path / "ema.pth")
    with pytest.raises(DrexcacheError, match=r"ema\.pth holds several sets of weights that fit \(net\., net_ema\.\)"):
        load_weights(bare(RESNET), RESNET, "", str(tmp_path / "ema.pth"))


def test_torchvision_names_give_torchvision_features(tmp_path: Path) -> None:
    theirs = scrambled(torchvision.models.resnet18(weights=None))
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    ours = bare("resnet18")
    load_weights(ours, "resnet18", "tv_in1k", str(tmp_path / "resnet18.pth"))
    theirs.fc = torch.nn.Identity()
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_tensors_that_do_not_fit_are_counted_and_named(tmp_path: Path) -> None:
    model = bare(RESNET)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = dict(before)
    first, second = [name for name in state if name.endswith("conv1.weight")][:2]
    del state[first]
    state[second] = state[second][:3]
    state["adapter.weight"] = torch.zeros(2)
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(DrexcacheError) as error:
        load_weights(model, RESNET, "", str(tmp_path / "odd.safetensors"))
    shape = tuple(before[second].shape)
    assert str(error.value) == (
        f"file odd.safetensors does not fit test_resnet: 3 tensors differ from its {len(before)}, the"
        f" first: {first} is missing, adapter.weight is not the backbone's,"
        f" {second} has shape {(3, *shape[1:])} instead of {shape}"
    )
    assert same(before, dict(model.state_dict()))


def test_another_backbones_file_is_refused(tmp_path: Path) -> None:
    save_file(dict(bare("resnet18").state_dict()), tmp_path / "resnet18.safetensors")
    with pytest.raises(DrexcacheError, match=r"does not fit resnet34: \d+ tensors differ from its"):
        load_weights(bare("resnet34"), "resnet34", "", str(tmp_path / "resnet18.safetensors"))
    save_file(dict(bare("vit_tiny_patch16_224").state_dict()), tmp_path / "vit.safetensors")
    other = bare("vit_tiny_patch16_224", patch_size=8)  # timm's own loader would resample the patch filters
    with pytest.raises(DrexcacheError, match=r"patch_embed\.proj\.weight has shape \(192, 3, 16, 16\) instead of"):
        load_weights(other, "vit_tiny_patch16_224", "", str(tmp_path / "vit.safetensors"))


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_file_that_would_run_code_is_not_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"state_dict": dict(bare(RESNET).state_dict()), "extra": Payload(mark)}, tmp_path / "evil.pth")
    with pytest.raises(
        DrexcacheError,
        match=r"evil\.pth cannot be read as weights \(UnpicklingError\): it is damaged, or holds",
    ):
        load_weights(bare(RESNET), RESNET, "", str(tmp_path / "evil.pth"))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.safetensors", b"\x10\0\0\0\0\0\0\0{}", "cannot be read as weights"),
        ("empty.pth", b"", "cannot be read as weights"),
        ("text.pth", b"<html>not found</html>", "cannot be read as weights"),
        ("weights.onnx", b"", "expected a file of weights named .safetensors, .pth, .pt, .bin"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DrexcacheError, match=re.escape(name)) as error:
        load_weights(bare(RESNET), RESNET, "", str(tmp_path / name))
    assert message in str(error.value)


@pytest.mark.parametrize("kind", ["new.pth", "legacy.pth", "plain.safetensors"])
def test_a_file_cut_short_anywhere_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    state = {"a.weight": torch.ones(3, 4), "b": torch.arange(5)}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "new.pth")
    content = path.read_bytes()
    for cut in range(0, len(content), len(content) // 40):
        path.write_bytes(content[:cut])
        with pytest.raises(DrexcacheError, match=re.escape(str(path))):
            read_checkpoint(path)


def test_a_file_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in plain.infolist():
            bomb.writestr(member.filename, plain.read(member))
    assert (tmp_path / "bomb.pt").stat().st_size < 20_000
    with pytest.raises(DrexcacheError, match=r"bomb\.pt: holds compressed parts"):
        read_checkpoint(tmp_path / "bomb.pt")


def test_a_checkpoint_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 1, "best": [0.5]}, tmp_path / "log.pt")
    with pytest.raises(DrexcacheError, match=r"log\.pt holds no tensors; expected a state dict"):
        load_weights(bare(RESNET), RESNET, "", str(tmp_path / "log.pt"))


# --- transformers' and Meta's names -----------------------------------------------------------------


def transformers_model(kind: str, **config: Any) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers", reason="needs transformers as the reference model")
    sizes = {"hidden_size": 96, "num_attention_heads": 3, "num_hidden_layers": 11, "image_size": 224}
    return scrambled(getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**sizes, **config)))


def assert_same_tokens(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs(x).last_hidden_state  # after the final norm
        torch.testing.assert_close(ours.forward_features(x), expected, rtol=0, atol=1e-4)  # type: ignore[operator]


@pytest.fixture(scope="module")
def dinov3() -> torch.nn.Module:
    return transformers_model("DINOv3ViT", intermediate_size=384, num_register_tokens=4, patch_size=16)


def test_dinov3_from_transformers_gives_its_tokens(dinov3: torch.nn.Module, tmp_path: Path) -> None:
    dinov3.save_pretrained(tmp_path)  # type: ignore[operator]  # the names of the published files: layer.0...
    ours = bare(DINOV3, img_size=224, **SMALL)
    weights = load_weights(ours, DINOV3, "lvd1689m", str(tmp_path / "model.safetensors"))
    assert weights.licence == "dinov3-license"
    assert_same_tokens(ours, dinov3)
    torch.save(dinov3.state_dict(), tmp_path / "memory.pth")  # the names in memory: model.layer.0... since 5.0
    again = load_weights(bare(DINOV3, **SMALL), DINOV3, "lvd1689m", str(tmp_path / "memory.pth"))
    assert again.sha256 == weights.sha256


def meta_dinov3(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's DINOv3 under the names of Meta's own release, with all that timm leaves out."""
    out = {"mask_token": torch.zeros(1, 96), "rope_embed.periods": torch.ones(8)}
    for name, tensor in state.items():
        if name.endswith("q_bias"):
            value = state[name.replace("q_bias", "v_bias")]
            out[name.replace("q_bias", "qkv.bias")] = torch.cat([tensor, torch.zeros_like(tensor), value])
            out[name.replace("q_bias", "qkv.bias_mask")] = torch.full((3 * len(tensor),), torch.nan)
        elif not name.endswith("v_bias"):
            new = name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
            out[new.replace("reg_token", "storage_tokens")] = tensor
    return out


def test_dinov3_from_meta_fits_and_biases_are_never_dropped(tmp_path: Path) -> None:
    timms = dict(scrambled(bare(DINOV3, **SMALL)).state_dict())
    save_file(timms, tmp_path / "timm.safetensors")
    metas = meta_dinov3(timms)
    torch.save(metas, tmp_path / "meta.pth")
    expected = load_weights(bare(DINOV3, **SMALL), DINOV3, "lvd1689m", str(tmp_path / "timm.safetensors"))
    weights = load_weights(bare(DINOV3, **SMALL), DINOV3, "lvd1689m", str(tmp_path / "meta.pth"))
    assert same(weights.state, timms) and weights.sha256 == expected.sha256
    plain = "vit_small_patch16_dinov3"  # timm's variant without q and v biases
    with pytest.raises(
        DrexcacheError, match=r"22 tensors .*q_bias is not .*; use the backbone whose name ends in _qkvb"
    ):
        load_weights(bare(plain, **SMALL), plain, "lvd1689m", str(tmp_path / "meta.pth"))
    zeroed = {k: torch.zeros_like(v) if k.endswith("qkv.bias") else v for k, v in metas.items()}
    torch.save(zeroed, tmp_path / "zero.pth")  # as in Meta's larger distilled models
    assert "blocks.0.attn.qkv.weight" in load_weights(bare(plain, **SMALL), plain, "", str(tmp_path / "zero.pth")).state


def test_a_missing_matrix_is_not_taken_for_zeros(dinov3: torch.nn.Module, tmp_path: Path) -> None:
    state = {k: v for k, v in dinov3.state_dict().items() if not k.endswith("layer.3.attention.k_proj.weight")}
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(DrexcacheError, match=r"blocks\.3\.attn\.qkv\.weight is missing"):
        load_weights(bare(DINOV3, **SMALL), DINOV3, "lvd1689m", str(tmp_path / "cut.pth"))


@pytest.mark.parametrize(
    ("kind", "backbone"),
    [("Dinov2", "vit_small_patch14_dinov2"), ("Dinov2WithRegisters", "vit_small_patch14_reg4_dinov2")],
)
def test_dinov2_from_transformers_gives_its_tokens(kind: str, backbone: str, tmp_path: Path) -> None:
    theirs = transformers_model(kind, patch_size=14)
    theirs.save_pretrained(tmp_path)  # type: ignore[operator]
    published_names = load_file(tmp_path / "model.safetensors")
    assert any(name.endswith("attention.attention.query.weight") for name in published_names)
    torch.save(theirs.state_dict(), tmp_path / "memory.pth")
    ours = bare(backbone, img_size=224, **SMALL)
    weights = load_weights(ours, backbone, "lvd142m", str(tmp_path / "model.safetensors"))
    assert_same_tokens(ours, theirs)
    again = load_weights(ours, backbone, "lvd142m", str(tmp_path / "memory.pth"))
    assert again.sha256 == weights.sha256


@pytest.mark.parametrize("backbone", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"])
def test_positions_are_resampled_as_timm_does_and_the_digest_does_not_see_it(backbone: str, tmp_path: Path) -> None:
    path = tmp_path / f"{backbone}.pth"
    large = scrambled(bare(backbone, img_size=518, **SMALL))
    metas = dict(large.state_dict())
    if "reg_token" in metas:  # Meta's positions cover [CLS] too, timm's sum of both is the token
        metas["register_tokens"] = metas.pop("reg_token")
        metas["pos_embed"] = torch.cat([torch.full((1, 1, 96), 0.25), metas["pos_embed"]], dim=1)
        metas["cls_token"] = metas["cls_token"] - 0.25
    torch.save(metas | {"mask_token": torch.zeros(1, 96)}, path)
    small = bare(backbone, img_size=224, **SMALL)
    weights = load_weights(small, backbone, "lvd142m", str(path))
    by_timm = timm.create_model(
        backbone,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path)},
        num_classes=0,
        img_size=224,
        **SMALL,
    )
    assert same(weights.state, dict(by_timm.state_dict()))
    assert weights.sha256 == load_weights(bare(backbone, **SMALL), backbone, "lvd142m", str(path)).sha256


def test_the_papers_checkpoint_serves_both_backbones(dinov3: torch.nn.Module, tmp_path: Path) -> None:
    resnet = {k: v for k, v in torchvision.models.resnet18(weights=None).state_dict().items() if k[:3] != "fc."}
    state = {f"dino_model.{name}": tensor for name, tensor in dinov3.state_dict().items()}
    state |= {f"resnet_backbone.{name}": tensor for name, tensor in resnet.items()}
    state |= {"fusion.dino_proj.0.weight": torch.zeros(384, 384), "fusion.temperature": torch.tensor(0.7)}
    state |= {"head.0.weight": torch.zeros(128, 384), "head.0.bias": torch.zeros(128)}
    torch.save({"epoch": 10, "model_state": state}, tmp_path / "DReX.pth")
    ours = bare(DINOV3, img_size=224, **SMALL)
    weights = load_weights(ours, DINOV3, "lvd1689m", str(tmp_path / "DReX.pth"))
    assert weights.source == "file DReX.pth (model_state.dino_model)"
    assert_same_tokens(ours, dinov3)
    weights = load_weights(bare("resnet18"), "resnet18", "tv_in1k", str(tmp_path / "DReX.pth"))
    assert weights.source == "file DReX.pth (model_state.resnet_backbone)"
    assert same(weights.state, resnet)
