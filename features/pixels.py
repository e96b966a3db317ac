"""Turning an image into the pixels that a backbone takes: resize, normalise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from drexcache.errors import DrexcacheError
from drexcache.features.bilinear import tensor_bilinear
from drexcache.recipes import CHOICES


def to_pixels(image: Image.Image, size: tuple[int, int], resize: str) -> np.ndarray:
    """Resize an RGB image to (H, W) without keeping the aspect ratio.

    "pil-bilinear", "pil-bicubic" : Pillow's resize, uint8 (3, H, W), as torchvision's Resize of a PIL image.
    "tensor-bilinear" : antialiased bilinear on float32 in [0, 1], float32 (3, H, W), bit for bit the same as
        torchvision's resize(antialias=True) of the float tensor, and so as DINOv3's own image processor.

    >>> to_pixels(Image.new("RGB", (30, 20), "white"), (2, 3), "tensor-bilinear").shape
    (3, 2, 3)
    """
    height, width = size
    if resize == "tensor-bilinear":
        return tensor_bilinear(image, height, width)
    filters = {"pil-bilinear": Image.Resampling.BILINEAR, "pil-bicubic": Image.Resampling.BICUBIC}
    if resize not in filters:
        raise DrexcacheError(f"resize is one of {', '.join(CHOICES['resize'])}, not {resize!r}")
    return np.ascontiguousarray(np.asarray(image.resize((width, height), filters[resize])).transpose(2, 0, 1))


def normalise(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Normalise (B, 3, H, W), uint8 or float in [0, 1], to float32: (x - mean) / std per channel.

    Bit for bit the same as torchvision's ToTensor and Normalize: /255, subtract, divide, in float32.

    >>> white = np.full((1, 3, 1, 1), 255, np.uint8)
    >>> normalise(white, (0.5, 0.5, 0.5), (0.25, 0.5, 1.0)).flatten()
    array([2., 1., 0.5], dtype=float32)
    """
    mean_, std_ = (np.asarray(values, np.float32)[:, None, None] for values in (mean, std))
    found = pixels.astype(np.float32)
    if pixels.dtype == np.uint8:
        found /= 255
    found -= mean_
    found /= std_
    return found
