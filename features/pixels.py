"""Turning an image into the pixels that a backbone takes: resize, normalise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from drexcache.errors import DrexcacheError
from drexcache.recipes import CHOICES

_BAND_PIXELS = 1 << 20  # pixels that "tensor-bilinear" converts to float at a time


def to_pixels(image: Image.Image, size: tuple[int, int], resize: str) -> torch.Tensor:
    """Resize an RGB image to (H, W) without keeping the aspect ratio.

    "pil-bilinear", "pil-bicubic" : Pillow's resize, uint8 (3, H, W), as torchvision's Resize of a PIL image.
    "tensor-bilinear" : antialiased bilinear on float32 in [0, 1], float32 (3, H, W), bit for bit the same as
        torchvision's resize(antialias=True) of the float tensor, and so as DINOv3's own image processor.

    >>> to_pixels(Image.new("RGB", (30, 20), "white"), (2, 3), "tensor-bilinear").shape
    torch.Size([3, 2, 3])
    """
    height, width = size
    if resize == "tensor-bilinear":
        return _tensor_bilinear(image, height, width)
    filters = {"pil-bilinear": Image.Resampling.BILINEAR, "pil-bicubic": Image.Resampling.BICUBIC}
    if resize not in filters:
        raise DrexcacheError(f"resize is one of {', '.join(CHOICES['resize'])}, not {resize!r}")
    return _uint8(image.resize((width, height), filters[resize]))


def normalise(
    pixels: torch.Tensor, mean: Sequence[float] | torch.Tensor, std: Sequence[float] | torch.Tensor
) -> torch.Tensor:
    """Normalise (B, 3, H, W), uint8 or float in [0, 1], to float32: (x - mean) / std per channel.

    On the CPU this is bit for bit the same as torchvision's ToTensor and Normalize: /255, subtract, divide, in float32.

    >>> white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    >>> normalise(white, (0.5, 0.5, 0.5), (0.25, 0.5, 1.0)).flatten()
    tensor([2.0000, 1.0000, 0.5000])
    """
    if pixels.dtype == torch.uint8:
        pixels = pixels.to(torch.float32).div_(255)
    mean_, std_ = (torch.as_tensor(v, dtype=torch.float32, device=pixels.device)[:, None, None] for v in (mean, std))
    return pixels.to(torch.float32).sub(mean_).div_(std_)


def _uint8(rgb: Image.Image) -> torch.Tensor:
    """The image's values, uint8 (3, H, W)."""
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def _tensor_bilinear(image: Image.Image, height: int, width: int) -> torch.Tensor:
    """Resize with antialiased bilinear in two passes, horizontal then vertical, as torch itself does.

    The horizontal pass goes band by band, so that only one band of the image is in memory as float32.
    """
    rows = max(1, _BAND_PIXELS // image.width)
    across = torch.empty(3, image.height, width)  # allocated once: a list of bands fragments the heap
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        band = _uint8(image.crop((0, top, image.width, bottom)))  # (3, rows, image width)
        across[:, top:bottom] = _resize_float(band.to(torch.float32).mul_(1 / 255), bottom - top, width)
    return _resize_float(across, height, width)  # (3, image height, W) -> (3, H, W)


def _resize_float(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(3, h, w) -> (3, height, width), antialiased bilinear; an axis that keeps its size is unchanged."""
    resized = torch.nn.functional.interpolate(
        pixels[None], size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )
    return resized[0]
