"""Frozen backbones on a device: batches of pixels in, features out, however much of a batch its memory holds."""

from __future__ import annotations

import time
from collections.abc import Callable

import timm
import torch
from torch import nn

from drexcache.errors import DrexcacheError
from drexcache.features.hub import known_backbone
from drexcache.features.pixels import normalise
from drexcache.features.taps import TappedBackbone
from drexcache.features.weights import Weights, load_weights
from drexcache.recipes import Block

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BATCH = {"cuda": 64, "mps": 16, "cpu": 8}  # images per forward pass


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


def bf16_is_slow(device: torch.device) -> bool:
    """Whether bf16 is emulated there, and so many times slower than fp32: a CPU without AVX-512 or its like."""
    return device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Backbone:
    """One block's frozen model on a device.

    Attributes
    ----------
    block : the definition; weights : what was loaded; dims : length of each tap's vector.
    batch : images per forward pass at most. compiled : whether `drexcache.features.engines` compiled it.
    """

    def __init__(
        self, block: Block, source: str, device: torch.device,
        batch: int | None = None, say: Callable[[str], None] = print,
    ) -> None:  # fmt: skip
        self.block, self.device, self.say = block, device, say
        self.batch = batch or BATCH.get(device.type, 8)
        if device.type == "cuda" and block.precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False  # else cuDNN's convolutions keep 10 bits of fp32's 23
        model = build_model(block)
        self.weights: Weights = load_weights(model, block.backbone, block.tag, source)
        model.eval().requires_grad_(False).to(device=device, dtype=DTYPES[block.precision])
        self.tapped = TappedBackbone(model.to(memory_format=torch.channels_last), block).eval()
        self.dims = self.tapped.dims
        self.forward: Callable[[torch.Tensor], torch.Tensor] = self.tapped
        self.compiled = False
        self.mean, self.std = (torch.tensor(values, device=device) for values in (block.mean, block.std))

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features float32 (B, d), on the device, of pixels (B, 3, H, W), uint8 or float on [0, 1].

        What a GPU's memory does not hold is done in halves, from then on.

        Raises
        ------
        DrexcacheError : out of memory with a single image.
        """
        while True:
            try:
                return torch.cat([self._features(part) for part in pixels.split(self.batch)])
            except torch.OutOfMemoryError:
                tried = self.batch if self.compiled else min(self.batch, len(pixels))
                if tried == 1:
                    raise DrexcacheError(
                        f"{self.device}: out of memory with a single image; try --device cpu"
                    ) from None
            self.batch = tried // 2
            torch.cuda.empty_cache()
            self.say(f"block {self.block.name}: {self.device} is out of memory, going on with batches of {self.batch}")

    def seconds_per_image(self) -> float:
        """Measured: one forward pass, the second of two, of a single image on a CPU and of a full batch elsewhere."""
        pixels = torch.zeros(1 if self.device.type == "cpu" else self.batch, 3, *self.block.size, dtype=torch.uint8)
        for _ in range(2):
            started = time.perf_counter()
            self(pixels).cpu()  # waits for the device
        return (time.perf_counter() - started) / len(pixels)

    @torch.inference_mode()
    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        x = normalise(pixels.to(self.device, non_blocking=True), self.mean, self.std)
        x = x.to(dtype=DTYPES[self.block.precision], memory_format=torch.channels_last)  # (B, 3, H, W)
        if not self.compiled:
            return self.forward(x)
        # One shape, one compilation: a batch that is not full is filled up with zeros, whose features are dropped.
        filled = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, 0, 0, self.batch - len(x)))
        filled = filled.contiguous(memory_format=torch.channels_last)
        return self.forward(filled)[: len(x)].clone()  # the next run of a CUDA graph writes over its output


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
