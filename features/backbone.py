"""A frozen timm backbone with its taps on a device: turns each prepared image into a vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from drexcache.errors import DrexcacheError, nearest
from drexcache.features.fitting import to_size
from drexcache.features.pipeline import BATCH
from drexcache.recipes import Block, Tap

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Backbone:
    """One block's frozen model on a device; an `Extractor` of the pipeline.

    Attributes
    ----------
    block : the definition. dims : length of each tap's vector. batch : images per forward pass, at most.
    tapped : the model with its taps. run : the callable that computes it, ``tapped`` or an engine's version of it.
    mode : the engine's name. whole_batches : whether ``run`` takes only full batches.
    """

    def __init__(
        self, block: Block, model: nn.Module, device: torch.device, *, weights_sha256: str, weights_source: str,
        batch: int | None = None,
        choose_engine: Callable[[Backbone, int], None] | None = None, say: Callable[[str], None] = print,
    ) -> None:  # fmt: skip
        self.block, self.device, self.say = block, device, say
        self.weights_sha256, self.weights_source = weights_sha256, weights_source
        self.where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self.batch = batch or BATCH.get(device.type, 8)
        if device.type == "cuda" and block.precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False  # otherwise cuDNN's convolutions keep only 10 of fp32's 23 bits
        model.eval().requires_grad_(False).to(device=device, dtype=DTYPES[block.precision])
        self.tapped = TappedBackbone(model.to(memory_format=torch.channels_last), block).eval()
        self.dims = self.tapped.dims
        self.run: Callable[[torch.Tensor], torch.Tensor] = self.tapped
        self.mode, self.whole_batches = "eager", False
        self._choose_engine = choose_engine
        if block.mean is None or block.std is None:
            raise ValueError(f"block {block.name} needs a mean and a std")
        self._mean, self._std = (torch.tensor(values, device=device) for values in (block.mean, block.std))
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None

    def get_ready(self, images: int) -> None:
        """Choose the engine at the first call with a number of images above 0."""
        if self._choose_engine is not None and images:
            choose, self._choose_engine = self._choose_engine, None
            choose(self, images)

    def prepare(self, rgb: Image.Image) -> np.ndarray:
        """The image's pixels (3, H, W) as the block wants them, uint8 or float on [0, 1]."""
        return to_size(rgb, self.block)

    def __call__(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Features float32 (B, d), on the device, of B images' pixels (3, H, W).

        If a GPU runs out of memory, the batch size is halved from then on.

        Raises
        ------
        DrexcacheError : out of memory with a single image.
        """
        pixels = self._on_device(images)
        while True:
            try:
                return torch.cat([self._features(part) for part in pixels.split(self.batch)])
            except torch.OutOfMemoryError:
                tried = self.batch if self.whole_batches else min(self.batch, len(pixels))
                if tried == 1:
                    raise DrexcacheError(
                        f"{self.device}: out of memory with a single image; try --device cpu"
                    ) from None
            self.batch = tried // 2
            torch.cuda.empty_cache()
            self.say(f"block {self.block.name}: {self.device} is out of memory, going on with batches of {self.batch}")

    def _on_device(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """The images as one batch (B, 3, H, W) on the device.

        On CUDA it is copied from pinned memory on a separate stream, while the previous batch is computed; uint8 pixels
        are copied as such, which is a quarter of their size as floats.
        """
        if self._copying is None:
            return torch.from_numpy(np.stack(images)).to(self.device)
        tensors = [torch.from_numpy(image) for image in images]
        pinned = torch.empty((len(tensors), *tensors[0].shape), dtype=tensors[0].dtype, pin_memory=True)
        torch.stack(tensors, out=pinned)
        with torch.cuda.stream(self._copying):
            batch = pinned.to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._copying)
        batch.record_stream(computing)  # keeps its memory from being reused before the computation has read it
        return batch

    @torch.inference_mode()
    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        x = normalise(pixels, self._mean, self._std)
        x = x.to(dtype=DTYPES[self.block.precision], memory_format=torch.channels_last)  # (B, 3, H, W)
        if not self.whole_batches:
            return self.run(x)
        # one shape needs one compilation: a short batch is padded with zeros, whose features are dropped
        filled = nn.functional.pad(x, (0, 0, 0, 0, 0, 0, 0, self.batch - len(x)))
        filled = filled.contiguous(memory_format=torch.channels_last)
        return self.run(filled)[: len(x)].clone()  # the next run of a CUDA graph overwrites its output


def normalise(
    pixels: torch.Tensor, mean: Sequence[float] | torch.Tensor, std: Sequence[float] | torch.Tensor
) -> torch.Tensor:
    """Normalise (B, 3, H, W) as `drexcache.features.pixels.normalise` does, on the pixels' device."""
    x = pixels.to(torch.float32).div_(255) if pixels.dtype == torch.uint8 else pixels.to(torch.float32)
    mean_, std_ = (torch.as_tensor(v, dtype=torch.float32, device=x.device)[:, None, None] for v in (mean, std))
    return x.sub(mean_).div_(std_)


# --- taps ---------------------------------------------------------------------------------------------------


class TappedBackbone(nn.Module):
    """A module from normalised pixels (B, 3, H, W) to features float32 (B, d), the taps' vectors concatenated.

    ``dims`` : length of each tap's vector. The taps are forward hooks, so that any module of any timm model can be
    tapped, and they run inside this module's forward, so that all of it can be compiled. A hook pools immediately,
    because the next layer may change the same tensor in place.

    Raises
    ------
    DrexcacheError : a layer that the model does not have or does not run, a pooling that does not fit it, or a vector
        whose length is not the recipe's.
    """

    def __init__(self, model: nn.Module, block: Block) -> None:
        super().__init__()
        self.model, self.block = model, block
        self._forward: Callable[[torch.Tensor], torch.Tensor] = model.forward_features  # type: ignore[assignment]
        self._vectors: dict[str, torch.Tensor] = {}
        self._prefix = int(getattr(model, "num_prefix_tokens", 0))
        self._last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        modules = dict(model.named_modules())
        for tap in block.taps:
            if tap.layer not in modules:
                raise DrexcacheError(_no_layer(block, tap.layer, list(modules)))
            modules[tap.layer].register_forward_hook(self._hook(tap))
        self.dims = self._measure()

    def _hook(self, tap: Tap) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            if not isinstance(output, torch.Tensor):
                raise DrexcacheError(f"tap {tap.name}: layer {tap.layer} gives several tensors; tap one inside of it")
            x = output.float()
            self._vectors[tap.name] = pool(
                x.permute(0, 3, 1, 2) if self._last and x.ndim == 4 else x, tap, self._prefix
            )

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
        """Features float32 (B, d), averaged over the crops, which stand below each other, and their mirror images."""
        views = list(x.chunk(self.block.crops, dim=2))
        views += [view.flip(3) for view in views if self.block.flip]
        vectors = [torch.cat(self._pooled(view), dim=1) for view in views]
        return sum(vectors[1:], vectors[0]) / len(vectors)

    def _pooled(self, x: torch.Tensor) -> list[torch.Tensor]:
        self._forward(x)
        missing = [tap.layer for tap in self.block.taps if tap.name not in self._vectors]
        if missing:
            raise DrexcacheError(
                f"block {self.block.name}: layer {missing[0]} of {self.block.backbone} takes no part in its features: "
                "it stands behind them, or is never run"
            )
        vectors = [self._vectors[tap.name] for tap in self.block.taps]
        self._vectors.clear()
        return vectors


def pool(x: torch.Tensor, tap: Tap, prefix: int) -> torch.Tensor:
    """Pool a layer's output to vectors (B, C).

    x : tokens (B, T, C), of which the first ``prefix`` are class and register tokens, or maps (B, C, H, W).
    ``gem`` is the generalised mean with p = 3 (Radenovic et al. 2018); ``grid2`` the means over a 2x2 grid, flattened.

    Raises
    ------
    DrexcacheError : the pooling does not fit this kind of output.
    """
    if x.ndim == 3:
        patches = x[:, prefix:]
        if tap.pool == "cls" and prefix >= 1:
            return x[:, 0]
        if (tap.pool == "registers" and prefix >= 2) or tap.pool == "patch_mean":
            return (patches if tap.pool == "patch_mean" else x[:, 1:prefix]).mean(1)
        x = patches.transpose(1, 2)[..., None]  # (B, T, C) -> (B, C, T, 1), pooled like a map
    if x.ndim == 4 and tap.pool in _OF_MAPS and (tap.pool != "std" or x[0, 0].numel() > 1):
        return _OF_MAPS[tap.pool](x)
    if x.ndim == 4 and tap.pool == "grid2" and min(x.shape[2:]) > 1:
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
    raise DrexcacheError(
        f"tap {tap.name}: pooling {tap.pool!r} does not fit the output of layer {tap.layer} "
        f"(shape {tuple(x.shape)}, {prefix} class and register tokens)"
    )


_OF_MAPS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {  # (B, C, H, W) -> (B, C)
    "mean": lambda x: x.mean(3).sum(2) / x.shape[2],  # OpenVINO sums a whole map sequentially and loses two decimals
    "std": lambda x: x.flatten(2).std(2),
    "max": lambda x: x.flatten(2).amax(2),
    "gem": lambda x: x.flatten(2).clamp(min=1e-6).pow(3).mean(2).pow(1 / 3),
}


def _no_layer(block: Block, layer: str, modules: list[str]) -> str:
    shallow = [name for name in modules if name and name.count(".") <= 1 and not name.endswith((".act", ".drop"))]
    return f"block {block.name}: {block.backbone} has no layer named {layer}; {nearest(layer, modules, shallow)}"
