"""The way back through the fusion head, written out: a third of autograd's time, straight into one buffer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from drexcache.fusion.head import HIDDEN, Activations

# named down to the overload, which torch would look for at every call
gelu_backward = torch.ops.aten.gelu_backward.default
tanh_backward = torch.ops.aten.tanh_backward.default
norm_backward = torch.ops.aten.native_layer_norm_backward.default


def backward(
    p: Mapping[str, Tensor],
    a: Activations,
    d_scores: Tensor,
    masks: Tensor,
    grads: Mapping[str, Tensor],
    *,
    fixed_average: bool = False,
) -> Tensor:
    """The gradients of a loss by all parameters but the arms' weights, and by the projections.

    p : name -> (K, *shape); a : what `fuse` left; d_scores : (K, B), the loss's gradient by the scores.
    masks : (K, B, 128 + 64 + 32), and fixed_average as given to `fuse`. grads : name -> (K, *shape), written to.
    Returns the gradient by the projected arms, (K, B, n_arms, width).
    """
    dropout = masks.split(HIDDEN, dim=-1)
    d = _linear_backward(p, f"head.{len(HIDDEN)}", a.inputs[-1], d_scores[..., None], grads)
    for i in reversed(range(len(HIDDEN))):
        d = _linear_backward(p, f"head.{i}", a.inputs[i], _gelu_backward(d * dropout[i], a.outputs[i]), grads)
    d = _norm_backward(d, *a.fused)  # (K, B, width), by the weighted sum of the arms

    d_mix = (a.arms * d[:, :, None]).sum(-1)  # (K, B, n_arms), by (weights + alpha)
    d_arms = (a.weights + p["alpha"][:, None, None])[..., None] * d[:, :, None]  # (K, B, n_arms, width)
    torch.sum(d_mix, (1, 2), out=grads["alpha"])
    inner = (d_mix * a.weights).sum(-1, keepdim=True)
    d_logits = (d_mix - inner) * a.weights / p["temperature"][:, None, None]  # through softmax and temperature
    if fixed_average:
        d_logits.zero_()
    torch.sum(-d_logits * a.logits, (1, 2), out=grads["temperature"])

    d_hidden = tanh_backward(_linear_backward(p, "attention.1", a.hidden, d_logits, grads), a.hidden)
    d_arms += _linear_backward(p, "attention.0", a.arms.flatten(2), d_hidden, grads).view_as(d_arms)

    biased, normed, *statistics = a.projections
    d_scaled = _gelu_backward(d_arms, a.scaled)
    torch.sum(d_scaled * normed, 1, out=grads["arm.norm.weight"])
    torch.sum(d_scaled, 1, out=grads["arm.norm.bias"])
    d_projected = _norm_backward(d_scaled * p["arm.norm.weight"][:, None], biased, *statistics)
    torch.sum(d_projected, 1, out=grads["arm.bias"])
    return d_projected


def _linear_backward(p: Mapping[str, Tensor], name: str, x: Tensor, d: Tensor, grads: Mapping[str, Tensor]) -> Tensor:
    """Through x @ weight + bias: x (K, B, in), d (K, B, out) -> (K, B, in)."""
    torch.bmm(x.mT, d, out=grads[f"{name}.weight"])
    torch.sum(d, 1, out=grads[f"{name}.bias"])
    return torch.bmm(d, p[f"{name}.weight"].mT)


def _gelu_backward(d: Tensor, x: Tensor) -> Tensor:
    return gelu_backward(d.mT, x.mT).mT  # transposed as in `gelu`


def _norm_backward(d: Tensor, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Through a layer norm without scale and shift of x (..., width), with the statistics it returned."""
    return norm_backward(d, x, x.shape[-1:], mean, deviation, None, None, [True, False, False])[0]
