"""Small timm backbones for the tests of weights, bare and with numbers that show every swap."""

from __future__ import annotations

from typing import Any

import timm
import torch

DINOV3 = "vit_small_patch16_dinov3_qkvb"
# ViTs of few channels keep these tests quick; 11 blocks, so that a block's number has two digits
SMALL: dict[str, Any] = {"embed_dim": 96, "depth": 11, "num_heads": 3}
RESNET = "test_resnet"  # timm's own miniature, 0.5 M parameters, tag r160_in1k


def bare(backbone: str, **kwargs: Any) -> torch.nn.Module:
    return timm.create_model(backbone, num_classes=0, **kwargs).eval()


def scrambled(model: torch.nn.Module) -> torch.nn.Module:
    """The model with every float tensor random, norms and LayerScale too, so that a swap cannot go unseen."""
    generator = torch.Generator().manual_seed(7)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator) * 0.05
            tensor.copy_(noise.abs() + 0.5 if tensor.ndim == 1 and not name.endswith("bias") else noise)
    return model.eval()


def same(state: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)
