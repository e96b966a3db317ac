"""The attention-fusion head: its parameters in one flat buffer, and its forward pass for K heads at once.

The forward pass takes torch's tensors and NumPy's arrays alike: predicting with NumPy does not wait for torch, which
takes more than a second to import.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import special

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Array = Tensor | np.ndarray

ATTENTION_WIDTH = 128
NORM_EPS = 1e-5  # torch.nn.LayerNorm's default
HIDDEN = (128, 64, 32)  # the head is width -> 128 -> 64 -> 32 -> 1

Shapes = dict[str, tuple[int, ...]]


def parameter_shapes(dims: Sequence[int], width: int = 384) -> Shapes:
    """Name -> shape of one head's parameters, for arms with ``dims`` features each.

    Weights are stored as (in, out), the transpose of ``torch.nn.Linear``: their gradient is then ``x.T @ d``,
    which a CPU writes twice as fast. The arms' weights, nine tenths of all parameters, come first.

    >>> sum(math.prod(shape) for shape in parameter_shapes([384, 3840]).values())
    1782661
    """
    n = len(dims)
    shapes: Shapes = {f"arm.{i}.weight": (d, width) for i, d in enumerate(dims)}
    shapes |= {"arm.bias": (n, width), "arm.norm.weight": (n, width), "arm.norm.bias": (n, width)}
    shapes |= {"attention.0.weight": (n * width, ATTENTION_WIDTH), "attention.0.bias": (ATTENTION_WIDTH,)}
    shapes |= {"attention.1.weight": (ATTENTION_WIDTH, n), "attention.1.bias": (n,)}
    shapes |= {"temperature": (), "alpha": ()}
    sizes = (width, *HIDDEN, 1)
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        shapes |= {f"head.{i}.weight": (fan_in, fan_out), f"head.{i}.bias": (fan_out,)}
    return shapes


def parameter_views(flat: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    """The parameters of K heads as views (K, *shape) into their flat buffer (K, P)."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    parts = flat.split(sizes, dim=1)
    return {name: part.view(len(flat), *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def init_head(dims: Sequence[int], width: int, generator: torch.Generator, offset: float = 0.0) -> Tensor:
    """Initial parameters (P,) of one head: layers as torch.nn initialises them, temperature 0.7, alpha 0.1.

    offset : if not 0, the arms' biases are instead normal with this standard deviation. With a large bias the layer
    norm hardly depends on the image, so the small projection of an image near the mean is not amplified to noise.
    """
    import torch

    shapes = parameter_shapes(dims, width)
    flat = torch.empty(1, sum(math.prod(shape) for shape in shapes.values()))
    p = {name: view[0] for name, view in parameter_views(flat, shapes).items()}
    layers = [(p[f"arm.{i}.weight"], p["arm.bias"][i]) for i in range(len(dims))]
    layers += [(p[f"attention.{i}.weight"], p[f"attention.{i}.bias"]) for i in range(2)]
    layers += [(p[f"head.{i}.weight"], p[f"head.{i}.bias"]) for i in range(len(HIDDEN) + 1)]
    for weight, bias in layers:
        bound = 1 / math.sqrt(weight.shape[0])  # torch.nn.Linear: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for both
        weight.uniform_(-bound, bound, generator=generator)
        bias.uniform_(-bound, bound, generator=generator)
    p["arm.norm.weight"].fill_(1.0)
    p["arm.norm.bias"].zero_()
    p["temperature"].fill_(0.7)
    p["alpha"].fill_(0.1)
    if offset:
        p["arm.bias"].normal_(0, offset, generator=generator)
    return flat[0]


class Scored(NamedTuple):
    """The output of K heads for B rows."""

    scores: Any  # (K, B)
    weights: Any  # (K, B, n_arms): attention, each row sums to 1


def project(p: Mapping[str, Array], x: Array, arms: Sequence[slice]) -> Any:
    """Project each arm's features to a common width, without bias: x (K, B, d) -> (K, B, n_arms, width)."""
    return _library(x).stack([x[..., cols] @ p[f"arm.{i}.weight"] for i, cols in enumerate(arms)], 2)


def fuse(
    p: Mapping[str, Array], projected: Array, masks: Tensor | None = None, *, fixed_average: bool = False
) -> Scored:
    """Fuse projected arms by attention and score them (DReX, arXiv 2511.16991).

    projected : (K, B, n_arms, width), from `project`; the result is of its kind, tensors or NumPy arrays.
    masks : (K, B, 128 + 64 + 32) dropout factors, 0 or 1 / (1 - rate); None for prediction.
    fixed_average : give every arm the same weight.
    """
    library = _library(projected)
    arms = gelu(_normed(projected + p["arm.bias"][:, None], p["arm.norm.weight"], p["arm.norm.bias"]))
    # (K, B, n_arms * width) -> (K, B, 128) -> (K, B, n_arms)
    hidden = library.tanh(_linear(p, "attention.0", arms.reshape(*arms.shape[:2], -1)))
    logits = _linear(p, "attention.1", hidden) / p["temperature"][:, None, None]
    weights = _softmax(library.zeros_like(logits) if fixed_average else logits)
    # sum_i w_i a_i + alpha sum_i a_i = sum_i (w_i + alpha) a_i
    fused = ((weights + p["alpha"][:, None, None])[..., None] * arms).sum(2)  # (K, B, width)
    z = _normed(fused)
    for i in range(len(HIDDEN)):
        z = gelu(_linear(p, f"head.{i}", z))  # (K, B, 384 -> 128 -> 64 -> 32)
        z = z if masks is None else z * masks.split(HIDDEN, dim=-1)[i]
    return Scored(_linear(p, f"head.{len(HIDDEN)}", z)[..., 0], weights)


# --- what torch and NumPy compute each in their own way -------------------------------------------------------------


def _library(x: Array) -> Any:
    return np if isinstance(x, np.ndarray) else importlib.import_module("torch")


def _normed(x: Any, weight: Any = None, bias: Any = None) -> Any:
    """Layer norm of x (K, B, ..., width), then scaled by weight and bias (K, ..., width)."""
    if isinstance(x, np.ndarray):
        x = x - x.mean(-1, keepdims=True)
        x /= np.sqrt((x * x).mean(-1, keepdims=True) + NORM_EPS)
        return x if weight is None else x * weight[:, None] + bias[:, None]
    import torch

    x = torch.nn.functional.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
    return x if weight is None else torch.addcmul(bias[:, None], x, weight[:, None])


def gelu(x: Array) -> Any:
    """GELU; by torch's own loop: the transposed view avoids oneDNN's, which takes 20 us longer to start."""
    if isinstance(x, np.ndarray):
        return x * special.ndtr(x)
    import torch

    return torch.nn.functional.gelu(x.transpose(-1, -2)).transpose(-1, -2)


def _softmax(x: Array) -> Any:
    return special.softmax(x, axis=-1) if isinstance(x, np.ndarray) else x.softmax(-1)


def _linear(p: Mapping[str, Any], name: str, x: Array) -> Any:
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"][:, None]
    return x @ weight + bias if isinstance(x, np.ndarray) else bias.baddbmm(x, weight)
