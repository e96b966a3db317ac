"""The antialiased bilinear resize of float pixels, compiled, or else by torch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from PIL import Image

try:
    from drexcache.features import resize_cpu
except ImportError:  # installed without a C compiler
    resize_cpu = None  # type: ignore[assignment]

BAND_PIXELS = 1 << 20  # pixels of an image to hold a second time, at most


def tensor_bilinear(image: Image.Image, height: int, width: int) -> np.ndarray:
    """Resize an RGB image, on float32 in [0, 1], to (3, height, width), as torchvision's resize(antialias=True) does.

    Bit for bit, where torch runs on x86-64 with AVX2.
    """
    if resize_cpu is None:
        return _by_torch(image, height, width)
    found = np.zeros((3, height, width), np.float32)
    axes = *axis(image.width, width), *axis(image.height, height)
    for top, rows in _bands(image):
        resize_cpu.resize(rows, image.width, top, image.height, *axes, found)
    return found


@lru_cache(maxsize=256)
def axis(size: int, out: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of ``size`` pixels make each of ``out`` along an axis: ends int64 (out, 2), weights float32 (out, most).

    The weights are those of a triangle that reaches as far as the centres of the next output pixels, or of the next
    input pixels if those are further apart. Rounded as in torch (aten/src/ATen/native/cpu/UpSampleKernel.cpp).

    >>> ends, weights = axis(4, 2)
    >>> ends.tolist(), weights.round(2).tolist()
    ([[0, 3], [1, 4]], [[0.43, 0.43, 0.14], [0.14, 0.43, 0.43]])
    """
    scale = np.float32(size) / np.float32(out)
    reach = max(scale, np.float32(1))
    centre = (np.float64(scale) * (np.arange(out) + 0.5)).astype(np.float32)
    first = np.maximum(((centre - reach).astype(np.float64) + 0.5).astype(np.int64), 0)
    last = np.minimum(((centre + reach).astype(np.float64) + 0.5).astype(np.int64), size)
    last = np.minimum(last, first + 2 * int(np.ceil(reach)) + 1)
    place = first[:, None] + np.arange((last - first).max())  # (out, most)
    away = (place.astype(np.float32) - centre[:, None]).astype(np.float64) + 0.5
    away = np.abs((away * np.float32(1 / np.float64(reach))).astype(np.float32))
    weights = np.where((away < 1) & (place < last[:, None]), 1 - away, np.float32(0))
    total = np.add.accumulate(weights, axis=1)[:, -1:]  # term by term, where a sum would go in pairs
    return np.stack([first, last], axis=1), np.ascontiguousarray(weights / total)


def _bands(image: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the image's rows, some at a time: the first one's number, and uint8 (rows, width, 3)."""
    rows = max(1, BAND_PIXELS // image.width)
    if rows >= image.height:
        yield 0, np.asarray(image)
        return
    for top in range(0, image.height, rows):
        yield top, np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))


def _by_torch(image: Image.Image, height: int, width: int) -> np.ndarray:
    """The same by torch: horizontally band by band, then vertically, as torch itself does."""
    import torch

    def resized(pixels: torch.Tensor, *size: int) -> torch.Tensor:  # an axis that keeps its size is unchanged
        return torch.nn.functional.interpolate(pixels[None], size=size, mode="bilinear", antialias=True)[0]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each decoding thread resizes by itself: a team for each would be cores squared
    try:
        across = torch.empty(3, image.height, width)  # allocated once: a list of bands fragments the heap
        for top, rows in _bands(image):
            band = torch.tensor(rows).permute(2, 0, 1).contiguous().to(torch.float32).mul_(1 / 255)
            across[:, top : top + len(rows)] = resized(band, len(rows), width)
        return resized(across, height, width).numpy()
    finally:
        torch.set_num_threads(threads)
