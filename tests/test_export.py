"""An exported file says what `predict` says, in ONNX Runtime and in OpenVINO, for images of any size."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from click.testing import CliRunner
from conftest import draw, tiny_recipe
from PIL import Image

from drexcache import DrexcacheError, open_cache, read_images, recipe
from drexcache.cache import FeatureCache, import_features
from drexcache.cli import main
from drexcache.features import export, extract, predict
from drexcache.features import onnx as exporting
from drexcache.features.expressed import expressed
from drexcache.features.pixels import normalise, to_pixels
from drexcache.recipes import Recipe
from drexcache.regressors import Model, make_regressor, train_model

SMALL = {
    "fusion": {"width": 128, "epochs": 5, "min_steps": 0},
    "fusion-paper": {"width": 128, "epochs": 5, "min_steps": 0},
}
EXPRESSED = ["mean", "ridge", "elastic-net", "pls", "kernel-ridge", "svr", "gaussian-process", "mlp", "best"]
EXPRESSED += ["fusion", "fusion-paper"]


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return cache_of(tiny_recipe(160), tmp_path_factory.mktemp("cache"))


def cache_of(recipe: Recipe, folder: Path) -> FeatureCache:
    table = read_images(draw(folder / "p", 20), value_range=(0, 100), higher_is="less")
    extract(table, recipe, folder / "c.h5", say=quiet)
    return open_cache(folder / "c.h5")


def trained(name: str, cache: FeatureCache, columns: tuple[str, ...] = ()) -> Model:
    matrix = cache.matrix(columns) if columns else cache.matrix()
    return train_model(name, matrix, cache, columns or tuple(cache.blocks), seed=0, settings=SMALL.get(name))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Larger and smaller than the backbones' sizes, upright and wide."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate([(500, 333), (20, 400), (160, 160), (31, 17)]):
        coarse = Image.fromarray(rng.normal(128, 40, (9, 12, 3)).clip(0, 255).astype("uint8"))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def pixels_of(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))]


@pytest.mark.parametrize("name", ["ridge", "best", "fusion", "fusion-paper"])
def test_two_runtimes_say_what_predict_says(name: str, cache: FeatureCache, photos: Path, tmp_path: Path) -> None:
    model, out = trained(name, cache), tmp_path / "m.onnx"
    export(model, out, say=quiet)
    expected, _ = predict(model, photos, say=quiet)
    session = onnxruntime.InferenceSession(out)
    compiled = openvino.Core().compile_model(out, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    limit = (2e-4 if name == "best" else 1e-4) * 100  # kernels magnify what float32 features of noise differ by
    for at, image in enumerate(pixels_of(photos)):
        ours = expected.value[at]
        found = dict(zip((one.name for one in session.get_outputs()), session.run(None, {"image": image}), strict=True))
        assert found["score"].shape == (1,) and abs(found["score"][0] - ours) <= limit
        assert abs(compiled(image)["score"][0] - ours) <= limit
        assert ("attention" in found) == name.startswith("fusion")
        if "attention" in found:
            weights = [expected.attention[arm][at] for arm in model.estimator.arms_]
            np.testing.assert_allclose(found["attention"], [weights], atol=1e-4)
            np.testing.assert_allclose(compiled(image)["attention"], [weights], atol=1e-4)


@pytest.mark.parametrize("name", EXPRESSED)
def test_expressed_regressors_predict_what_they_predict(name: str, cache: FeatureCache) -> None:
    matrix = cache.matrix()
    model = make_regressor(name, matrix, seed=0, settings=SMALL.get(name)).fit(matrix.X, matrix.y)
    with torch.inference_mode():
        found = expressed(model)(torch.from_numpy(matrix.X))
    scores = found[0] if isinstance(found, tuple) else found[:, 0]
    np.testing.assert_allclose(scores.numpy(), model.predict(matrix.X).reshape(-1), atol=2e-5)


@pytest.mark.parametrize("resize", ["pil-bilinear", "pil-bicubic", "tensor-bilinear"])
@pytest.mark.parametrize("size", [(333, 500), (400, 20), (17, 31), (64, 48)])
def test_the_resize_inside_is_the_one_outside(resize: Any, size: tuple[int, int]) -> None:
    block = replace(tiny_recipe().blocks[1], size=(64, 48), resize=resize)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    mean, std = block.mean, block.std
    assert mean and std
    expected = normalise(to_pixels(Image.fromarray(image), block.size, resize)[None], mean, std)
    found = exporting.pixels(torch.from_numpy(image), block)
    far = np.abs(found.numpy() - expected)
    assert far.max() <= 2e-5


def test_what_stands_in_the_file(cache: FeatureCache, tmp_path: Path) -> None:
    export(trained("fusion", cache), tmp_path / "m.onnx", say=quiet)
    read = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(read)
    assert [entry.version for entry in read.opset_import if entry.domain in ("", "ai.onnx")] == [exporting.OPSET]
    about = json.loads({entry.key: entry.value for entry in read.metadata_props}["drexcache"])
    assert (about["target"], about["low"], about["high"], about["higher_is"]) == ("rating", 0, 100, "less")
    assert about["arms"] == ["resnet", "vit"] and about["exif"] == ["ignore"]


def test_single_taps_are_picked(cache: FeatureCache, photos: Path, tmp_path: Path) -> None:
    model = trained("ridge", cache, ("resnet/layer4", "vit"))
    export(model, tmp_path / "m.onnx", say=quiet)
    expected, _ = predict(model, photos, say=quiet)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    found = [session.run(None, {"image": image})[0][0] for image in pixels_of(photos)]
    np.testing.assert_allclose(found, expected.value, atol=1e-3 * 100)  # fewer columns, with larger weights


@pytest.mark.parametrize("name", ["neighbours", "random-forest", "boosting"])
def test_what_cannot_be_expressed_is_refused(name: str, cache: FeatureCache, tmp_path: Path) -> None:
    trained(name, cache).save(tmp_path / "m.drex")
    said = CliRunner().invoke(main, ["export", str(tmp_path / "m.drex"), "-o", str(tmp_path / "m.onnx")])
    assert said.exit_code == 1 and not (tmp_path / "m.onnx").exists()
    assert "Regressor cannot be exported; fusion, mlp, linear and RBF kernel regressors and stacks" in said.output
    assert len(said.output.strip().splitlines()) <= 1 + said.output.count("block ")


def test_hand_made_cues_are_refused(tmp_path: Path) -> None:
    model = trained("ridge", cache_of(recipe("classic"), tmp_path))
    with pytest.raises(DrexcacheError, match=r"block cues holds hand-made cues, which cannot be exported"):
        export(model, tmp_path / "m.onnx", say=quiet)


def test_imported_features_are_refused(tmp_path: Path) -> None:
    rows, ids = np.random.default_rng(0).normal(size=(20, 5)), [f"{i}.png" for i in range(20)]
    np.savez(tmp_path / "clip.npz", X=rows, ids=ids)
    (tmp_path / "r.csv").write_text("file,rating\n" + "".join(f"{name},{i}\n" for i, name in enumerate(ids)))
    cache = import_features(
        tmp_path / "clip.npz", tmp_path / "c.h5", "clip", ratings=tmp_path / "r.csv", value_range=(0, 20), say=quiet
    )
    with pytest.raises(DrexcacheError, match=r"block clip holds imported features, which cannot be exported"):
        export(trained("ridge", cache), tmp_path / "m.onnx", say=quiet)


def test_images_that_are_not_squeezed_are_refused(tmp_path: Path) -> None:
    blocks = tuple(replace(block, fit="pad") for block in tiny_recipe(160).blocks)
    model = trained("ridge", cache_of(replace(tiny_recipe(160), blocks=blocks), tmp_path))
    with pytest.raises(DrexcacheError, match=r"block \w+ has fit 'pad', which cannot be exported; only 'squeeze' can"):
        export(model, tmp_path / "m.onnx", say=quiet)


def test_other_weights_are_refused(cache: FeatureCache, tmp_path: Path) -> None:
    model = trained("ridge", cache)
    blocks = {name: replace(block, weights_sha256="0" * 64) for name, block in model.blocks.items()}
    with pytest.raises(DrexcacheError, match=r"weights random: block .* is not what the model was trained on: weights"):
        export(replace(model, blocks=blocks), tmp_path / "m.onnx", say=quiet)


def test_a_file_that_says_something_else_is_not_written(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained("ridge", cache)
    monkeypatch.setattr(exporting, "expressed", lambda estimator: torch.nn.Linear(estimator.n_features_in_, 1))
    with pytest.raises(DrexcacheError, match=r"differs from the model's by .* of the range of rating; nothing is"):
        export(model, tmp_path / "m.onnx", say=quiet)
    assert not (tmp_path / "m.onnx").exists()


def test_without_the_packages(cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name))
    with pytest.raises(DrexcacheError, match=r"needs the package onnxruntime; run: pip install 'drexcache\[onnx\]'"):
        export(trained("ridge", cache), tmp_path / "m.onnx", say=quiet)
