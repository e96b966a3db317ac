"""The authors' checkpoint as a model of ours, against a forward pass built from torchvision and transformers alone."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner
from PIL import Image
from small_backbones import scrambled
from test_checkpoint import Payload
from torch import nn
from torchvision import transforms

from drexcache import DrexcacheError, load_model, open_cache, read_images, recipe
from drexcache.cli import main
from drexcache.features import extract, predict
from drexcache.features.authors_checkpoint import import_reference

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def quiet(line: str) -> None:
    del line


class Fusion(nn.Module):
    """The paper's fusion as its text and figures have it."""

    def __init__(self) -> None:
        super().__init__()
        self.dino_proj = nn.Sequential(nn.Linear(384, 384), nn.LayerNorm(384), nn.GELU())
        self.resnet_proj = nn.Sequential(nn.Linear(3840, 384), nn.LayerNorm(384), nn.GELU())
        self.attention = nn.Sequential(nn.Linear(768, 128), nn.Tanh(), nn.Linear(128, 2))
        self.temperature, self.alpha = nn.Parameter(torch.tensor(0.55)), nn.Parameter(torch.tensor(0.23))

    def forward(self, dino: torch.Tensor, resnet: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        d, r = self.dino_proj(dino), self.resnet_proj(resnet)
        w = torch.softmax(self.attention(torch.cat([d, r], 1)) / self.temperature, 1)  # (B, 2)
        fused = w[:, :1] * d + w[:, 1:] * r + self.alpha * (d + r)
        return nn.functional.layer_norm(fused, (384,)), w


class Reference(nn.Module):
    """The whole model, with its parts under the names of the authors' checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        transformers = pytest.importorskip("transformers", reason="needs transformers as the reference model")
        torch.manual_seed(5)
        sizes = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12, "intermediate_size": 1536}
        config = transformers.DINOv3ViTConfig(**sizes, patch_size=16, image_size=224, num_register_tokens=4)
        self.dino_model = scrambled(transformers.DINOv3ViTModel(config))
        self.resnet_backbone = torchvision.models.resnet50(weights=None)
        del self.resnet_backbone.fc
        self.fusion, layers = Fusion(), []
        for wide, narrow in ((384, 128), (128, 64), (64, 32)):
            layers += [nn.Linear(wide, narrow), nn.GELU(), nn.Dropout(0.1)]
        self.head = nn.Sequential(*layers, nn.Linear(32, 1))
        for norm in (self.fusion.dino_proj[1], self.fusion.resnet_proj[1]):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
        names = ("DINOv3ViTImageProcessorFast", "DINOv3ViTImageProcessor")
        self.processor = next(getattr(transformers, name) for name in names if hasattr(transformers, name))()
        self.eval()

    def stages(self, x: torch.Tensor) -> torch.Tensor:
        net, means = self.resnet_backbone, []
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = stage(x)
            means.append(x.mean((2, 3)))
        return torch.cat(means, 1)  # (B, 3840)

    @torch.inference_mode()
    def forward(self, image: Image.Image) -> tuple[float, list[float]]:
        pixels = self.processor(image, return_tensors="pt")["pixel_values"]
        dino = self.dino_model(pixels).last_hidden_state[:, 0]
        prepare = [transforms.Resize((512, 512)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        fused, weights = self.fusion(dino, self.stages(transforms.Compose(prepare)(image)[None]))
        return self.head(fused).item(), weights[0].tolist()


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.fixture(scope="module")
def checkpoint(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "DReX.pth"
    torch.save({"epoch": 10, "model_state": reference.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of several shapes, kinds and modes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(3)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype="u1")).resize((640, 427), Image.Resampling.BICUBIC)
    smooth.save(folder / "smooth.jpg", quality=90)
    Image.fromarray(rng.integers(0, 256, (211, 130, 3), dtype="u1")).save(folder / "noise.png")
    Image.linear_gradient("L").resize((90, 300)).save(folder / "grey.png")
    return folder


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stderr


def test_predictions_are_those_of_an_independent_forward_pass(
    reference: Reference, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    model, weights, out = tmp_path / "drex.model", ("--weights", checkpoint), tmp_path / "p.csv"
    assert "1,782,661 parameters, predicts complexity on 0 to 1" in run("import-reference", checkpoint, "-o", model)
    run("predict", model, images, *weights, "-o", out)
    rows = list(csv.DictReader(out.open()))
    assert [row["id"] for row in rows] == ["grey.png", "noise.png", "smooth.jpg"]
    scores, attention = zip(*[reference(Image.open(images / row["id"]).convert("RGB")) for row in rows], strict=True)
    assert np.ptp(scores) > 1e-3  # a hundred times the tolerance: the pictures matter
    np.testing.assert_allclose([float(row["prediction"]) for row in rows], scores, rtol=0, atol=1e-5)
    arms = [[float(row[f"attention_{arm}"]) for arm in ("dino", "resnet")] for row in rows]
    np.testing.assert_allclose(arms, attention, rtol=0, atol=1e-5)


def test_only_features_of_the_same_weights_are_taken(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    import_reference(checkpoint).save(tmp_path / "drex.model")
    model = load_model(tmp_path / "drex.model")
    one, dino = read_images(images, ratings=False).shard(2, 3), recipe("drex").select(["dino"])
    for weights in (str(checkpoint), "random"):
        extract(one, dino, tmp_path / f"{Path(weights).stem}.h5", weights=weights, say=quiet)
    assert open_cache(tmp_path / "DReX.h5").blocks["dino"].fingerprint == model.blocks["dino"].fingerprint
    with pytest.raises(DrexcacheError, match="block dino is not what the model was trained on: weights_sha256: "):
        model.predict(open_cache(tmp_path / "random.h5"))
    with pytest.raises(DrexcacheError, match=r"from file DReX\.pth \(.*; give that file with --weights"):
        predict(model, images / "noise.png", say=quiet)


def refusal(path: Path, content: object) -> str:
    torch.save(content, path)
    with pytest.raises(DrexcacheError) as caught:
        import_reference(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_tensors_that_do_not_fit_are_named(reference: Reference, tmp_path: Path) -> None:
    path = tmp_path / "odd.pth"
    head = {name: tensor for name, tensor in reference.state_dict().items() if name.startswith(("fusion.", "head."))}
    assert sum(tensor.numel() for tensor in head.values()) == 1_782_661
    verdict = f"{path} is not the authors' model: "
    missing = {name: tensor for name, tensor in head.items() if name != "head.9.bias"}
    assert refusal(path, missing) == (
        f"{verdict}1 tensors differ from the 22 of its fusion head, the first: head.9.bias is missing"
    )
    odd = head | {"head.0.weight": torch.zeros(64, 384), "gate.weight": torch.zeros(2), "fusion.alpha": torch.ones(1)}
    assert refusal(path, {"model_state": odd}) == (
        f"{verdict}3 tensors differ from the 22 of its fusion head, the first: fusion.alpha has shape (1,) instead of"
        " (), gate.weight is unknown, head.0.weight has shape (64, 384) instead of (128, 384)"
    )
    assert refusal(path, head | {"fusion.temperature": torch.tensor(torch.nan)}).endswith(
        "the first: fusion.temperature holds NaN or inf"
    )
    strange = {"head.6.bias": torch.zeros(32).to_sparse(), "dino_model.norm.bias": torch.zeros(384, device="meta")}
    assert refusal(path, head | strange).endswith(
        "the first: dino_model.norm.bias holds no plain numbers, head.6.bias holds no plain numbers"
    )
    assert "no fusion head (no fusion.temperature)" in refusal(path, {"layer.weight": torch.zeros(2)})
    assert "several fusion heads (under a., ema.)" in refusal(path, {"a": head, "ema": head})
    assert re.search(r"odd\.pth does not fit vit_small_patch16_dinov3_qkvb: \d+ tensors differ", refusal(path, head))


def test_hostile_files_are_one_sentence(reference: Reference, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    said = refusal(tmp_path / "evil.pth", {"model_state": reference.fusion.state_dict(), "extra": Payload(mark)})
    assert "evil.pth cannot be read as weights (UnpicklingError)" in said and not mark.exists()
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    for name, sentence in (("text.pth", "cannot be read as weights"), ("none.pth", "no such file")):
        result = CliRunner().invoke(main, ["import-reference", str(tmp_path / name), "-o", str(tmp_path / "m")])
        assert result.exit_code == 1 and result.stderr.startswith(f"Error: {tmp_path / name}")
        assert sentence in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "m").exists()
