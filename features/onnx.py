"""Exporting a model and its backbones as one ONNX file, from an image's pixels to its score, including the resize.

The resize is written out as two products with matrices that are made of the image's size, so that every runtime
computes Pillow's and torch's antialiased resize alike: ONNX's own operator is not the same everywhere.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch import nn

from drexcache.errors import DrexcacheError
from drexcache.features.backbone import TappedBackbone, normalise
from drexcache.features.expressed import Fusion, expressed
from drexcache.features.loading import check_reach, load_backbone
from drexcache.features.planning import stored_blocks
from drexcache.features.prediction import sources_of_weights
from drexcache.files import write_file
from drexcache.recipes import IMPORTED, Block
from drexcache.regressors import Model

OPSET = 18
DOWN_FIRST = int(PIL.__version__.split(".")[0]) >= 13  # where Pillow resizes tall images down before across
AGREES = (
    1e-3  # of the range: how far ONNX Runtime may be from torch on noise, where a value at a half may round either way
)


def export(model: Model, out: str | Path, *, weights: str | None = None, say: Callable[[str], None] = print) -> None:
    """Write the model as an ONNX file that takes an image and returns its score and, for fusion, the arms' attention.

    The input ``image`` is uint8 (height, width, 3), the RGB values of an image of any size. The outputs are ``score``,
    float32 (1,) in the target's own range, and ``attention``, float32 (1, n_arms) in the order of the metadata's
    ``arms``. Everything is computed in float32.

    Parameters
    ----------
    weights : where the backbones' weights come from; default: as in training. They must be the same weights.

    Raises
    ------
    DrexcacheError : other weights than in training, a block of hand-made cues, a regressor that cannot be expressed,
        a file that ONNX Runtime computes otherwise, or the packages of ``drexcache[onnx]`` are not installed.
    """
    _require_packages()
    scorer = expressed(model.estimator)
    whole = Pictures(model, scorer, _backbones(model, weights, say)).eval()
    try:
        graph = _described(_traced(whole, isinstance(scorer, Fusion)), model)
    except Exception as error:  # whatever the exporter cannot handle, such as a file of more than 2 GB
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DrexcacheError(f"the model cannot be written as ONNX ({reason})") from error
    _refuse_other_numbers(graph, whole, model)
    write_file(out, graph)
    if rounded := [name for name, block in model.blocks.items() if block.definition.precision != "fp32"]:
        say(f"block {', '.join(rounded)}: in float32, where the model was trained on bf16; scores differ a little")


class Pictures(nn.Module):
    """An image uint8 (H, W, 3) to the model's score (1,), and for fusion its attention (1, n_arms)."""

    def __init__(self, model: Model, scorer: nn.Module, backbones: dict[str, TappedBackbone]) -> None:
        super().__init__()
        self.scorer, self.backbones = scorer, nn.ModuleDict(backbones)
        self._blocks = {name: backbone.block for name, backbone in backbones.items()}
        self._columns = [_place(model, column) for column in model.columns]
        width = model.high - model.low
        self._first, self._step = (model.low, width) if model.higher_is == "more" else (model.high, -width)

    def forward(self, image: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Score in the target's own range."""
        scored = self.scorer(self.features(image))
        if isinstance(scored, tuple):
            return self.in_range(scored[0]), scored[1]
        return self.in_range(scored[:, 0])

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """The regressor's input, (1, d)."""
        found = {name: backbone(pixels(image, self._blocks[name])) for name, backbone in self.backbones.items()}
        return torch.cat([found[name][:, columns] for name, columns in self._columns], dim=1)

    def in_range(self, unit: Any) -> Any:
        """Convert scores on [0, 1], where 1 is the most, to the target's own range and direction."""
        return self._first + self._step * unit


def _place(model: Model, column: str) -> tuple[str, slice]:
    """Block and columns of a "block" or "block/tap" name."""
    name, _, tap = column.partition("/")
    block = model.blocks[name]
    return name, block.taps[tap] if tap else slice(0, block.dim)


def pixels(image: torch.Tensor, block: Block) -> torch.Tensor:
    """The block's normalised pixels (1, 3, h, w) of an image uint8 (H, W, 3)."""
    x = image.permute(2, 0, 1).to(torch.float64)  # (3, H, W); in float64 sums of Pillow's weights are exact
    (height, width), (h, w), cubic = x.shape[1:], block.size, block.resize == "pil-bicubic"
    rounds = block.resize != "tensor-bilinear"
    tall = (height > h) & (height - h > 2 * (width - w)) if DOWN_FIRST and rounds else False
    across, down = (_resize_weights(*sides, cubic=cubic) for sides in ((width, w), (height, h)))
    if rounds:  # as Pillow's are, to 22 bits
        across, down = (torch.floor(weights * 2**22 + 0.5) / 2**22 for weights in (across, down))
    assert block.mean is not None and block.std is not None
    return normalise(
        _resized()(x, across.T, down, torch.as_tensor(tall), rounds)[None].to(torch.float32) / 255,
        block.mean,
        block.std,
    )


@lru_cache(maxsize=1)
def _resized() -> Callable[..., torch.Tensor]:
    """`_in_two_passes` as a script, which the exporter writes as an If: which pass comes first depends on the image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return torch.jit.script(_in_two_passes)


def _in_two_passes(
    x: torch.Tensor, across: torch.Tensor, down: torch.Tensor, down_first: torch.Tensor, rounds: bool
) -> torch.Tensor:
    """down @ x @ across, rounded after each product as Pillow does."""
    if bool(down_first):
        x = torch.matmul(torch.floor(torch.matmul(down, x) + 0.5).clamp(0, 255), across)
    elif rounds:
        x = torch.matmul(down, torch.floor(torch.matmul(x, across) + 0.5).clamp(0, 255))
    else:
        x = torch.matmul(down, torch.matmul(x, across))
    return torch.floor(x + 0.5).clamp(0, 255) if rounds else x


def _resize_weights(size: int, wanted: int, *, cubic: bool) -> torch.Tensor:
    """The antialiased resize of ``size`` pixels to ``wanted`` as a matrix (wanted, size) whose rows sum to 1.

    Each pixel wanted is the mean of those around its place, by a triangle or Keys' cubic (1981, a = -0.5), which is as
    wide as the step between the places.
    """
    step = torch.as_tensor(size, dtype=torch.float64) / wanted
    places = (torch.arange(wanted, dtype=torch.float64) + 0.5) * step
    pixels = torch.arange(size, dtype=torch.float64) + 0.5
    far = ((pixels[None] - places[:, None]) / step.clamp(min=1.0)).abs()
    weights = (1 - far).clamp(min=0)
    if cubic:
        near = (1.5 * far - 2.5) * far * far + 1
        beyond = ((2.5 - 0.5 * far) * far - 4) * far + 2
        weights = torch.where(far < 1, near, torch.where(far < 2, beyond, torch.zeros_like(far)))
    return weights / weights.sum(1, keepdim=True)


def _backbones(model: Model, weights: str | None, say: Callable[[str], None]) -> dict[str, TappedBackbone]:
    """The model's backbones in float32, with the weights that it was trained on."""
    foreign = {IMPORTED: "imported features", "classic": "hand-made cues"}
    for name, block in model.blocks.items():
        if kind := foreign.get(block.definition.backbone):
            raise DrexcacheError(f"block {name} holds {kind}, which cannot be exported; train without it")
    sources = sources_of_weights(model, weights)
    check_reach([block.definition for block in model.blocks.values()], sources)
    found, here = {}, {}
    for name, block in model.blocks.items():
        if (fit := block.definition.fit) != "squeeze":
            raise DrexcacheError(f"block {name} has fit {fit!r}, which cannot be exported; only 'squeeze' can")
        backbone = load_backbone(replace(block.definition, precision="fp32"), sources[name], "cpu", say=say)
        found[name] = backbone.tapped
        here[name] = replace(stored_blocks({name: backbone})[name], definition=block.definition)
    model.check(here, f"weights {', '.join(sorted(set(sources.values())))}")
    return found


def _traced(whole: Pictures, fusion: bool) -> bytes:
    """The graph as torch's exporter writes it."""
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's, about constants: what is traced is checked
        torch.onnx.export(
            whole, (_noise(97, 131),), file,  # type: ignore[arg-type]  # a file is taken, too
            dynamo=False, opset_version=OPSET, input_names=["image"],
            output_names=["score", "attention"][: 1 + fusion], dynamic_axes={"image": {0: "height", 1: "width"}},
        )  # fmt: skip
    return file.getvalue()


def _noise(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)


def _described(graph: bytes, model: Model) -> bytes:
    """The graph with the metadata that its users need."""
    import onnx

    read = onnx.load_from_string(graph)
    definitions = {name: block.definition for name, block in model.blocks.items()}
    about: dict[str, Any] = {
        "target": model.target, "low": model.low, "high": model.high, "higher_is": model.higher_is,
        "regressor": model.regressor, "arms": list(getattr(model.estimator, "arms_", [])),
        "exif": sorted({block.exif for block in definitions.values()}),
        "alpha": sorted({block.alpha for block in definitions.values()}),
    }  # fmt: skip
    onnx.helper.set_model_props(read, {"drexcache": json.dumps(about)})
    return read.SerializeToString()


def _refuse_other_numbers(graph: bytes, whole: Pictures, model: Model) -> None:
    """Raise unless ONNX Runtime's score of a noise picture agrees with the regressor's own prediction."""
    import onnxruntime

    image = _noise(150, 70)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found = session.run(["score"], {"image": image.numpy()})[0]
    with torch.inference_mode():
        features = whole.features(image).numpy()
    expected = whole.in_range(np.asarray(model.estimator.predict(features)).reshape(-1))
    error = float(np.abs(found - expected).max()) / (model.high - model.low)
    if not error <= AGREES:  # NaN is refused, too
        raise DrexcacheError(
            f"ONNX Runtime's score of the exported file differs from the model's by {error:.1g} of the range of "
            f"{model.target}; nothing is written"
        )


def _require_packages() -> None:

    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise DrexcacheError(f"an export needs the package {package}; run: pip install 'drexcache[onnx]'")
