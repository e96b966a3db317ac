"""Frozen backbones and their taps: pixels in, one vector per image out, one forward pass for all taps."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import numpy as np
import timm
import torch
from torch import nn

from drexcache.errors import DrexcacheError
from drexcache.features.hub import known_backbone
from drexcache.features.pixels import normalise
from drexcache.features.weights import Weights, load_weights
from drexcache.recipes import Block, Tap

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def resolve_device(name: str) -> torch.device:
    """The device that "auto" (CUDA, then MPS, then CPU) or a torch device name stands for.

    Raises
    ------
    DrexcacheError : a device that this machine does not have.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DrexcacheError(f"device {name} cannot be used here ({reason}); try --device auto or cpu") from error
    return device


class Backbone:
    """One block's frozen model on a device.

    Attributes
    ----------
    block : the definition; weights : what was loaded; dims : length of each tap's vector.
    """

    def __init__(self, block: Block, source: str, device: torch.device) -> None:
        self.block, self.device = block, device
        model = build_model(block)
        self.weights: Weights = load_weights(model, block.backbone, block.tag, source)
        self.model = model.eval().requires_grad_(False)
        self.model.to(device=device, dtype=DTYPES[block.precision])
        self.model.to(memory_format=torch.channels_last)
        self._forward: Callable[[torch.Tensor], torch.Tensor] = model.forward_features  # type: ignore[assignment]
        self._captured: dict[str, torch.Tensor] = {}
        modules = dict(self.model.named_modules())
        for layer in {tap.layer for tap in block.taps}:
            if layer not in modules:
                raise DrexcacheError(_no_layer(block, layer, list(modules)))
            modules[layer].register_forward_hook(self._keep(layer))
        self.dims = self._measure()

    def _keep(self, layer: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            self._captured[layer] = output

        return hook

    def _measure(self) -> tuple[int, ...]:
        height, width = self.block.size
        vectors = self._vectors(torch.zeros(1, 3, height, width, dtype=torch.uint8))
        for tap, vector in zip(self.block.taps, vectors, strict=True):
            if tap.dim is not None and vector.shape[1] != tap.dim:
                raise DrexcacheError(
                    f"block {self.block.name}, tap {tap.name}: the recipe says dim {tap.dim}, "
                    f"{self.block.backbone} gives {vector.shape[1]}"
                )
        return tuple(vector.shape[1] for vector in vectors)

    def __call__(self, pixels: torch.Tensor) -> np.ndarray:
        """Features float32 (B, d) of pixels (B, 3, H, W), uint8 or float on [0, 1].

        When a GPU's memory does not hold the batch, it is done in halves.
        """
        try:
            return torch.cat(self._vectors(pixels), dim=1).cpu().numpy()
        except torch.OutOfMemoryError:
            if len(pixels) == 1:
                raise DrexcacheError(f"{self.device}: out of memory with a single image; try --device cpu") from None
        torch.cuda.empty_cache()
        half = len(pixels) // 2
        return np.concatenate([self(pixels[:half]), self(pixels[half:])])

    @torch.inference_mode()
    def _vectors(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        x = normalise(pixels.to(self.device, non_blocking=True), self.block.mean, self.block.std)
        x = x.to(dtype=DTYPES[self.block.precision], memory_format=torch.channels_last)  # (B, 3, H, W)
        vectors = self._pooled(x)
        if self.block.flip:
            vectors = [(a + b) / 2 for a, b in zip(vectors, self._pooled(x.flip(3)), strict=True)]
        return vectors

    def _pooled(self, x: torch.Tensor) -> list[torch.Tensor]:
        self._forward(x)
        prefix = int(getattr(self.model, "num_prefix_tokens", 0))
        last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        vectors = []
        for tap in self.block.taps:
            output = self._captured[tap.layer].float()
            vectors.append(pool(output.permute(0, 3, 1, 2) if last and output.ndim == 4 else output, tap, prefix))
        self._captured.clear()
        return vectors


def build_model(block: Block) -> nn.Module:
    """The block's timm model without its classifier, with nothing loaded.

    Raises
    ------
    DrexcacheError : a backbone that timm does not have; the message names close ones.
    """
    known_backbone(block.backbone)
    try:
        return timm.create_model(block.backbone, pretrained=False, num_classes=0, img_size=block.size)
    except TypeError:  # a convolutional network, which takes any size
        return timm.create_model(block.backbone, pretrained=False, num_classes=0)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise DrexcacheError(f"block {block.name}: {block.backbone} cannot take size {block.size} ({error})") from error


def pool(x: torch.Tensor, tap: Tap, prefix: int) -> torch.Tensor:
    """A layer's output, tokens (B, T, C) with ``prefix`` class and register tokens or maps (B, C, H, W), as vectors.

    ``gem`` is the generalised mean with p = 3 (Radenovic et al. 2018); ``grid2`` the means of a 2x2 grid, flattened.

    Raises
    ------
    DrexcacheError : a pooling that this kind of output does not have.
    """
    if x.ndim == 3:
        patches = x[:, prefix:]
        if tap.pool == "cls" and prefix >= 1:
            return x[:, 0]
        if tap.pool == "registers" and prefix >= 2:
            return x[:, 1:prefix].mean(1)
        if tap.pool == "patch_mean":
            return patches.mean(1)
        x = patches.transpose(1, 2)[..., None]  # (B, T, C) -> (B, C, T, 1), pooled like a map
    if x.ndim == 4 and tap.pool in ("mean", "std", "max", "gem"):
        flat = x.flatten(2)  # (B, C, H, W) -> (B, C, HW)
        if tap.pool == "gem":
            return flat.clamp(min=1e-6).pow(3).mean(2).pow(1 / 3)
        return flat.amax(2) if tap.pool == "max" else flat.std(2) if tap.pool == "std" else flat.mean(2)
    if x.ndim == 4 and tap.pool == "grid2" and x.shape[3] > 1:
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
    raise DrexcacheError(
        f"tap {tap.name}: pooling {tap.pool!r} does not fit the output of layer {tap.layer} "
        f"(shape {tuple(x.shape)}, {prefix} class and register tokens)"
    )


def _no_layer(block: Block, layer: str, modules: list[str]) -> str:
    shallow = [name for name in modules if name and name.count(".") <= 1 and not name.endswith((".act", ".drop"))]
    shown = difflib.get_close_matches(layer, modules, n=3) + shallow
    return (
        f"block {block.name}: {block.backbone} has no layer named {layer}; "
        f"it offers {', '.join(dict.fromkeys(shown[:40]))}{', ...' if len(shown) > 40 else ''}"
    )
