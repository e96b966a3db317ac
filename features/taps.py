"""A frozen backbone and its taps as one module: pixels in, one vector per image out, one forward pass for all taps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from drexcache.errors import DrexcacheError, nearest
from drexcache.recipes import Block, Tap


class TappedBackbone(nn.Module):
    """Normalised pixels (B, 3, H, W) to features float32 (B, d), the taps' vectors side by side.

    ``dims`` : length of each tap's vector. The taps are forward hooks, so that any module of any timm model can be
    tapped, and they are inside this module's forward, so that the whole of it can be compiled.

    Raises
    ------
    DrexcacheError : a layer that the model does not have, a pooling that does not fit it, or another length of its
        vector than the recipe says.
    """

    def __init__(self, model: nn.Module, block: Block) -> None:
        super().__init__()
        self.model, self.block = model, block
        self._forward: Callable[[torch.Tensor], torch.Tensor] = model.forward_features  # type: ignore[assignment]
        self._captured: dict[str, torch.Tensor] = {}
        modules = dict(model.named_modules())
        for layer in {tap.layer for tap in block.taps}:
            if layer not in modules:
                raise DrexcacheError(_no_layer(block, layer, list(modules)))
            modules[layer].register_forward_hook(self._keep(layer))
        self.dims = self._measure()

    def _keep(self, layer: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            self._captured[layer] = output

        return hook

    @torch.inference_mode()
    def _measure(self) -> tuple[int, ...]:
        weight = next(self.model.parameters())
        vectors = self._pooled(torch.zeros(1, 3, *self.block.size, dtype=weight.dtype, device=weight.device))
        for tap, vector in zip(self.block.taps, vectors, strict=True):
            if tap.dim is not None and vector.shape[1] != tap.dim:
                raise DrexcacheError(
                    f"block {self.block.name}, tap {tap.name}: the recipe says dim {tap.dim}, "
                    f"{self.block.backbone} gives {vector.shape[1]}"
                )
        return tuple(vector.shape[1] for vector in vectors)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features float32 (B, d); with ``flip``, the mean of the images' and their mirror images'."""
        vectors = torch.cat(self._pooled(x), dim=1)
        if self.block.flip:
            vectors = (vectors + torch.cat(self._pooled(x.flip(3)), dim=1)) / 2
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
    if x.ndim == 4 and tap.pool in ("mean", "std", "max", "gem") and (tap.pool != "std" or x[0, 0].numel() > 1):
        flat = x.flatten(2)  # (B, C, H, W) -> (B, C, HW)
        if tap.pool == "gem":
            return flat.clamp(min=1e-6).pow(3).mean(2).pow(1 / 3)
        return flat.amax(2) if tap.pool == "max" else flat.std(2) if tap.pool == "std" else flat.mean(2)
    if x.ndim == 4 and tap.pool == "grid2" and min(x.shape[2:]) > 1:
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
    raise DrexcacheError(
        f"tap {tap.name}: pooling {tap.pool!r} does not fit the output of layer {tap.layer} "
        f"(shape {tuple(x.shape)}, {prefix} class and register tokens)"
    )


def _no_layer(block: Block, layer: str, modules: list[str]) -> str:
    shallow = [name for name in modules if name and name.count(".") <= 1 and not name.endswith((".act", ".drop"))]
    return f"block {block.name}: {block.backbone} has no layer named {layer}; {nearest(layer, modules, shallow)}"
