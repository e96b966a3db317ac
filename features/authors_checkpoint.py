"""Importing the checkpoint of the DReX paper's authors as a model."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from drexcache.cache import StoredBlock
from drexcache.errors import DrexcacheError
from drexcache.features.checkpoint import State, read_checkpoint
from drexcache.features.models import build_model
from drexcache.features.weights import load_weights
from drexcache.files import require_file
from drexcache.fusion import AttentionFusionRegressor, parameter_shapes
from drexcache.recipes import Block, recipe
from drexcache.regressors import Model

BACKBONES = ("dino_model.", "resnet_backbone.")
ARMS = ("fusion.dino_proj", "fusion.resnet_proj")  # in the order of the recipe's blocks
# Our layer -> theirs, numbered by its position in a torch.nn.Sequential
LAYERS = {
    "attention.0": "fusion.attention.0", "attention.1": "fusion.attention.2",
    "head.0": "head.0", "head.1": "head.3", "head.2": "head.6", "head.3": "head.9",
}  # fmt: skip


def import_reference(path: str | Path) -> Model:
    """Read the model from the authors' checkpoint (DReX.pth): their fusion head, with the recipe ``drex``.

    The model records the hashes of the two backbones in the same file, and so accepts only features computed with
    exactly those weights: ``drexcache predict MODEL IMAGES --weights DReX.pth``.

    Raises
    ------
    DrexcacheError : not a file of tensors (nothing else is unpickled), no fusion head or several, or tensors that are
        missing, unexpected, of another shape or not finite (names the first).
    """
    path = Path(path)
    require_file(path, "file; expected the authors' checkpoint, DReX.pth")
    blocks = recipe("drex").blocks
    head = _head(_one_model(read_checkpoint(path), path), blocks, path)
    return Model(
        regressor="fusion-paper", estimator=head, columns=tuple(block.name for block in blocks),
        blocks={block.name: _stored(block, path) for block in blocks},
        target="complexity", low=0.0, high=1.0, higher_is="more",
        trained={"dataset": "IC9600", "imported": path.name, "versions": {"drexcache": version("drexcache")}},
    )  # fmt: skip


def _one_model(tensors: State, path: Path) -> State:
    """The tensors of the only model in the file, without the prefix of their names (such as ``model_state.``)."""
    mark = "fusion.temperature"
    prefixes = [name.removesuffix(mark) for name in tensors if name.endswith(mark)]
    if len(prefixes) != 1:
        found = f"several fusion heads (under {', '.join(prefixes)})" if prefixes else f"no fusion head (no {mark})"
        raise DrexcacheError(f"{path} holds {found}; expected one state dict of the authors' model, as in DReX.pth")
    (prefix,) = prefixes
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _stored(block: Block, path: Path) -> StoredBlock:
    """The block with the hash of its backbone's weights in the file, as if stored in a cache."""
    weights = load_weights(build_model(block), block.backbone, block.tag, str(path))
    return StoredBlock(block, weights.sha256, weights.source, dims=tuple(tap.dim or 0 for tap in block.taps))


def _head(tensors: State, blocks: tuple[Block, ...], path: Path) -> AttentionFusionRegressor:
    """The fitted regressor with the file's complete fusion head."""
    dims = [block.dim or 0 for block in blocks]
    names, shapes = _their_names(), parameter_shapes(dims)
    # theirs are stored one by one as (out, in), ours as (in, out), with tensors of the same shape in both arms stacked
    wanted = {
        name: shapes[ours][1:] if len(theirs) > 1 else shapes[ours][::-1]
        for ours, theirs in names.items()
        for name in theirs
    }
    _refuse_differences(tensors, wanted, path)
    arrays = {}
    for ours, theirs in names.items():
        parts = [tensors[name].float().numpy() for name in theirs]
        arrays[ours] = np.ascontiguousarray((np.stack(parts) if len(parts) > 1 else parts[0].T)[None])
    ends = np.cumsum(dims).tolist()
    arms = {block.name: (end - dim, end) for block, dim, end in zip(blocks, dims, ends, strict=True)}
    settings = {"params": {"arms": arms}, "n_features_in": ends[-1], "log": []}  # the defaults are the paper's
    return AttentionFusionRegressor.from_state(arrays, settings)


def _their_names() -> dict[str, tuple[str, ...]]:
    """Our parameter -> the authors' tensors that it is made of: one, or one per arm."""
    names: dict[str, tuple[str, ...]] = {f"arm.{i}.weight": (f"{arm}.0.weight",) for i, arm in enumerate(ARMS)}
    for ours, theirs in (("arm.bias", "0.bias"), ("arm.norm.weight", "1.weight"), ("arm.norm.bias", "1.bias")):
        names[ours] = tuple(f"{arm}.{theirs}" for arm in ARMS)
    for ours, theirs in LAYERS.items():
        names |= {f"{ours}.{part}": (f"{theirs}.{part}",) for part in ("weight", "bias")}
    return names | {"temperature": ("fusion.temperature",), "alpha": ("fusion.alpha",)}


def _refuse_differences(tensors: State, wanted: dict[str, tuple[int, ...]], path: Path) -> None:
    differences = [f"{name} is missing" for name in wanted if name not in tensors]
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested or tensor.is_quantized:
            differences.append(f"{name} holds no plain numbers")
        elif name in wanted and tuple(tensor.shape) != wanted[name]:
            differences.append(f"{name} has shape {tuple(tensor.shape)} instead of {wanted[name]}")
        elif name in wanted and not torch.isfinite(tensor).all():
            differences.append(f"{name} holds NaN or inf")
        elif name not in wanted and not name.startswith(BACKBONES):
            differences.append(f"{name} is unknown")
    if differences:
        raise DrexcacheError(
            f"{path} is not the authors' model: {len(differences)} tensors differ from the {len(wanted)} of its fusion"
            f" head, the first: {', '.join(sorted(differences)[:3])}"
        )
