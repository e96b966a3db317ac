"""Fitting an image of any shape to a block's size: squeezed, cropped or padded."""

from __future__ import annotations

import numpy as np
from PIL import Image

from drexcache.features.pixels import to_pixels
from drexcache.recipes import Block


def to_size(rgb: Image.Image, block: Block) -> np.ndarray:
    """Resize an image to a block's size: pixels (3, crops * H, W), uint8 or float on [0, 1] as from `to_pixels`.

    "squeeze" : the whole image; its aspect ratio is not kept.
    "crop" : the largest part with the block's aspect ratio. A single crop is the middle; several are spaced evenly
        along the longer side, from end to end.
    "pad" : the whole image with its aspect ratio, surrounded by the block's mean colour.

    >>> from drexcache.recipes import Tap
    >>> block = Block("b", "resnet50", (Tap("layer1", "mean", "t"),), size=(4, 4), fit="crop", crops=3)
    >>> to_size(Image.new("RGB", (30, 20)), block).shape
    (3, 12, 4)
    """
    if block.fit == "squeeze":
        return to_pixels(rgb, block.size, block.resize)
    scales = rgb.height / block.size[0], rgb.width / block.size[1]
    scale = min(scales) if block.fit == "crop" else max(scales)
    if block.fit == "pad":
        sides = max(1, round(rgb.height / scale)), max(1, round(rgb.width / scale))
        return _padded(to_pixels(rgb, sides, block.resize), block)
    height, width = max(1, round(block.size[0] * scale)), max(1, round(block.size[1] * scale))
    places = [i / (block.crops - 1) for i in range(block.crops)] if block.crops > 1 else [0.5]
    corners = [(round(place * (rgb.width - width)), round(place * (rgb.height - height))) for place in places]
    crops = [rgb.crop((left, top, left + width, top + height)) for left, top in corners]
    return np.concatenate([to_pixels(crop, block.size, block.resize) for crop in crops], axis=1)


def _padded(pixels: np.ndarray, block: Block) -> np.ndarray:
    """Centre the pixels (3, h, w) on (3, H, W) of the block's mean colour, which normalisation turns into 0."""
    colour = np.array(block.mean or (0.5, 0.5, 0.5), np.float32)[:, None, None]
    colour = (255 * colour).round() if pixels.dtype == np.uint8 else colour
    found = np.tile(colour.astype(pixels.dtype), (1, *block.size))
    top, left = (block.size[0] - pixels.shape[1]) // 2, (block.size[1] - pixels.shape[2]) // 2
    found[:, top : top + pixels.shape[1], left : left + pixels.shape[2]] = pixels
    return found
