"""Backbones on OpenVINO: the numbers are torch's, what is kept on the disk is whole, and what goes wrong is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw, tiny_recipe
from PIL import Image

from drexcache import DrexcacheError, open_cache, read_images, recipe
from drexcache.features import converted, extract, loading
from drexcache.features.backbone import Backbone
from drexcache.features.converted import Way, kept_path, read_kept, threads, why_not
from drexcache.features.loading import load_backbone, load_extractors
from drexcache.features.openvino import OpenVinoBackbone, Tuner, ways
from drexcache.recipes import Block, Recipe, recipe_from_dict

pytest.importorskip("openvino", reason="needs the extra openvino")
CPU = "cpu"


def quiet(line: str) -> None:
    del line


def on_openvino(block: Block, source: str = "random", say: object = quiet) -> OpenVinoBackbone:
    found = load_extractors([block], source, CPU, say, batch=4, engine_cpu="openvino")[block.name]  # type: ignore[arg-type]
    assert isinstance(found, OpenVinoBackbone)
    return found


def block_of(backbone: str, size: int, *taps: tuple[str, str], **fields: object) -> Block:
    listed = [{"layer": layer, "pool": pool} for layer, pool in taps]
    block = {"name": "b", "backbone": backbone, "size": size, "taps": listed, **fields}
    return recipe_from_dict({"name": "one", "blocks": [block]}, "test").blocks[0]


def far(found: np.ndarray | torch.Tensor, expected: np.ndarray | torch.Tensor) -> float:
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


KINDS = {
    "ViT with registers": block_of(
        "vit_small_patch16_dinov3_qkvb", 64, ("blocks.3", "cls"), ("blocks.7", "registers"), ("norm", "patch_mean")
    ),
    "ViT, flip, another resize": block_of(
        "test_vit", 160, ("blocks.1", "gem"), ("norm", "cls"), flip=True, resize="tensor-bilinear"
    ),
    "ResNet": block_of("test_resnet", 64, ("layer1", "std"), ("layer2", "max"), ("layer4", "mean"), flip=True),
    "ViT, crops": block_of("test_vit", 160, ("blocks.1", "std"), ("norm", "cls"), flip=True, fit="crop", crops=3),
    "ConvNeXt": block_of("test_convnext", 64, ("stages.1", "mean"), ("stages.3", "grid2"), std=(0.2, 0.3, 0.4)),
}
SWIN = block_of("swin_tiny_patch4_window7_224", 224, ("layers.1", "mean"), ("norm", "mean"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_features_are_torchs(kind: str) -> None:
    block = KINDS[kind]
    backbone, ours = load_backbone(block, "random", CPU), on_openvino(block)
    noise = np.random.default_rng(0).integers(0, 256, (7, 40, 50, 3), dtype=np.uint8)
    images = [ours.prepare(Image.fromarray(pixels)) for pixels in noise]
    assert far(ours(images), backbone(images)) <= 1e-5
    assert (ours.mode, ours.dims, ours.weights_sha256) == ("openvino", backbone.dims, backbone.weights_sha256)
    assert ours.weights_source == backbone.weights_source


def test_a_model_that_converts_to_other_numbers_runs_on_torch_and_says_so() -> None:
    # A converted Swin is right for the first image of a batch only.
    said: list[str] = []
    found = load_extractors([SWIN], "random", CPU, said.append, batch=4)["b"]
    image = found.prepare(Image.new("RGB", (50, 40), "navy"))
    assert far(found([image, image]), load_backbone(SWIN, "random", CPU)([image, image])) <= 1e-5
    assert (found.mode, isinstance(found, OpenVinoBackbone)) == ("eager", False) or any("torch" in s for s in said)
    with pytest.raises(DrexcacheError, match="differ from torch's"):
        on_openvino(SWIN)([image, image])


@pytest.mark.parametrize("block", recipe("offline").blocks, ids=lambda block: block.name)
def test_packaged_backbones_on_real_pictures(block: Block, savoias: Path) -> None:
    paths = sorted(path for path in savoias.rglob("*") if path.suffix.lower() in (".jpg", ".png"))[:3]
    backbone, ours = load_backbone(block, "packaged", CPU), on_openvino(block, "packaged")
    images = [ours.prepare(Image.open(path).convert("RGB")) for path in paths]
    assert far(ours(images), backbone(images)) <= 1e-5


def test_every_way_of_running_gives_the_same() -> None:
    block = KINDS["ResNet"]
    backbone = load_backbone(block, "random", CPU)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3, 64, 64), dtype=np.uint8)
    model = converted.convert(backbone)
    mean, std = backbone.block.mean, backbone.block.std
    assert mean and std
    for way in (Way(1, "LATENCY"), Way(4, "LATENCY"), Way(1, "THROUGHPUT"), Way(3, "THROUGHPUT")):
        found = converted.Runner(model, way, "fp32", mean, std)(list(pixels))
        assert far(found, backbone(pixels)) <= 1e-5


def test_the_second_run_reads_the_model_from_the_disk_without_timm(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    said: list[str] = []
    table, tiny = read_images(pictures), tiny_recipe()
    extract(table, tiny, tmp_path / "a.h5", engine_cpu="openvino", say=said.append)
    assert sum("converted in" in line for line in said) == 2
    assert len(list((tmp_path / "kept" / "drexcache" / "openvino").glob("*.model"))) == 2
    said.clear()
    monkeypatch.setattr(loading, "build_model", None)
    extract(table, tiny, tmp_path / "b.h5", engine_cpu="openvino", say=said.append)
    assert sum("read from the disk in" in line for line in said) == 2
    first, second = (open_cache(tmp_path / f"{name}.h5") for name in "ab")
    np.testing.assert_array_equal(first.matrix().X, second.matrix().X)
    entry = second.blocks["vit"].provenance[0]
    assert (entry["mode"], entry["openvino"][:4], entry["device"]) == ("openvino", "2026", "cpu")


@pytest.mark.parametrize("damage", ["cut short", "one byte", "empty", "no model"])
def test_a_damaged_kept_model_is_not_used(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    block, said = tiny_recipe().blocks[1], list[str]()
    pixels = [np.full((3, 32, 32), 9, np.uint8)]
    expected = on_openvino(block)(pixels)
    path = kept_path(block, "random seed 0")
    whole = path.read_bytes()
    assert read_kept(path) is not None
    damaged = {"cut short": whole[:-9], "one byte": whole[:-9] + b"x" + whole[-8:], "empty": b"", "no model": b"{}\n"}
    path.write_bytes(damaged[damage])
    assert read_kept(path) is None
    again = on_openvino(block, say=said.append)
    assert np.array_equal(again(pixels), expected) and any("converted in" in line for line in said)
    assert read_kept(path) is not None


def test_all_that_changes_the_model_changes_its_name() -> None:
    block = tiny_recipe().blocks[1]
    others = [
        (replace(block, size=(48, 48)), "a"), (replace(block, flip=True), "a"), (block, "b"),
        (replace(block, taps=block.taps[:1]), "a"), (replace(block, mean=(0.5, 0.5, 0.5)), "a"),
    ]  # fmt: skip
    assert len({kept_path(*each) for each in [(block, "a"), *others]}) == 6
    assert kept_path(block, "a") == kept_path(replace(block, name="other", precision="bf16", exif="apply"), "a")


def test_torchs_rows_are_kept_after_one_is_computed_again(tmp_path: Path) -> None:
    """The engine is provenance and no part of the fingerprint."""
    images, out, said = draw(tmp_path / "p", 5), tmp_path / "c.h5", list[str]()
    extract(read_images(images), tiny_recipe(), out, engine_cpu="torch", say=quiet)
    draw(images, 1, start=5)
    assert extract(read_images(images), tiny_recipe(), out, engine_cpu="openvino", say=said.append).computed == 1
    assert sum("rows of another setting kept (mode: eager -> openvino" in line for line in said) == 2
    assert [entry["mode"] for entry in open_cache(out).blocks["vit"].provenance] == ["eager", "openvino"]


def test_bf16_is_near_fp32() -> None:
    if reason := why_not("bf16"):
        pytest.skip(reason)
    block = KINDS["ViT with registers"]
    pixels = list(np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64), dtype=np.uint8))
    full, half = on_openvino(block)(pixels), on_openvino(replace(block, precision="bf16"))(pixels)
    assert 0 < far(half, full) < 0.05
    assert float(torch.nn.functional.cosine_similarity(*map(torch.as_tensor, (half, full))).min()) > 0.999


def test_what_cannot_be_converted_is_run_by_torch_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    block, said = tiny_recipe().blocks[1], list[str]()
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")
    monkeypatch.setenv("DREXCACHE_ENGINE_CPU", "auto")
    pixels = [np.full((3, 32, 32), 9, np.uint8)]
    expected = load_backbone(block, "random", CPU)(pixels)

    def fails(backbone: Backbone) -> None:
        raise RuntimeError("no rule for aten::nonsense\nmore")

    monkeypatch.setattr("drexcache.features.openvino.convert", fails)
    found = load_extractors([block], "random", CPU, said.append)["resnet"]
    assert np.array_equal(found(pixels), expected) and found.mode == "eager"
    assert said[-1] == "block resnet: TORCH, for OpenVINO cannot run test_resnet (no rule for aten::nonsense)"
    with pytest.raises(DrexcacheError, match=r"OpenVINO cannot run test_resnet .*; give --engine-cpu torch"):
        on_openvino(block)(pixels)


def test_a_conversion_that_gives_other_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")
    original = converted.convert

    def other(backbone: Backbone) -> object:
        wrong = load_backbone(replace(backbone.block, flip=True), "random", CPU)
        return original(wrong)

    monkeypatch.setattr("drexcache.features.openvino.convert", other)
    with pytest.raises(DrexcacheError, match=r"OpenVINO cannot run test_resnet \(its features differ from torch's by"):
        on_openvino(tiny_recipe().blocks[1])([np.zeros((3, 32, 32), np.uint8)])


@pytest.mark.parametrize(
    ("version", "able", "precision", "reason"),
    [
        ("2026.4.1", ["FP32"], "fp32", "this processor has no AVX2, without which OpenVINO was never tried"),
        ("2024.6.0", ["FP32"], "fp32", "OpenVINO 2024.6.0 is older than 2026.4; run: pip install -U"),
        ("2026.4.1", ["FP32"], "bf16", "this processor has no arithmetic for bf16"),
        (None, [], "fp32", "OpenVINO is not installed; run: pip install 'drexcache"),
    ],
)
def test_where_it_cannot_be_used(
    version: str | None, able: list[str], precision: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            return able

    def of(package: str) -> str:
        if version is None:
            raise converted.PackageNotFoundError(package)
        return version

    monkeypatch.setattr(converted, "version", of)
    monkeypatch.setattr(converted, "core", Core)
    monkeypatch.setattr(converted.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(converted, "has_avx2", lambda: "AVX2" not in reason)
    block, said = replace(tiny_recipe().blocks[1], precision=precision), list[str]()
    with pytest.raises(DrexcacheError, match=f"block resnet: {reason}.*--engine-cpu torch"):
        on_openvino(block)
    monkeypatch.setenv("DREXCACHE_ENGINE_CPU", "auto")
    assert isinstance(load_extractors([block], "random", CPU, said.append)["resnet"], Backbone)
    assert any(f"block resnet: torch, for {reason}" in line for line in said) == (version is not None)


def test_the_fastest_way_is_found_and_remembered(tmp_path: Path) -> None:
    candidates = [Way(1, "LATENCY"), Way(4, "LATENCY"), Way(1, "THROUGHPUT")]
    seconds = {candidates[0]: [4.0, 4.4], candidates[1]: [9.0, 2.0], candidates[2]: [3.2, 3.2]}
    tuner, notes = Tuner(candidates, 4, tmp_path / "way.json"), []
    for turn in range(7):
        way = tuner.next_way()
        notes.append(tuner.note(way, 4, seconds[way][min(turn // 3, 1)]))
    assert notes == [False] * 5 + [True, False] and tuner.next_way() == candidates[1]
    assert tuner.verdict() == ("runs images 4 at a time, 500 ms each (other ways 1000, 800 ms)")
    assert Tuner(candidates, 4, tmp_path / "way.json").next_way() == candidates[1]
    assert Tuner(candidates[:1], 4, tmp_path / "way.json", remember=False).next_way() == candidates[0]
    (tmp_path / "way.json").write_text('{"images": 4')
    assert Tuner(candidates, 4, tmp_path / "way.json").ways == candidates


def test_a_single_image_is_computed_alone_whatever_is_fastest_for_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sizes: list[int] = []
    run = converted.Runner.__call__
    monkeypatch.setattr(converted.Runner, "__call__", lambda self, x: sizes.append(self._images) or run(self, x))
    block, pixels = tiny_recipe().blocks[1], np.zeros((3, 32, 32), np.uint8)
    on_openvino(block)([pixels])
    kept_path(block, "random seed 0").with_suffix(f".fp32-4-{threads()}.json").write_text(
        '{"images": 3, "hint": "THROUGHPUT"}'
    )
    on_openvino(block)([pixels])
    on_openvino(block)([pixels] * 4)
    assert sizes[-2:] == [1, 3]


def test_few_images_are_not_spent_on_timing() -> None:
    assert ways(1, 8) == ways(20, 8) == [Way(1, "LATENCY")]
    assert len(ways(10_000, 8)) >= 2


def test_an_unknown_engine(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(DrexcacheError, match="engine_cpu is one of auto, torch, openvino, not 'onnx'"):
        extract(read_images(pictures), Recipe("none", ()), tmp_path / "c.h5", engine_cpu="onnx", say=quiet)
