"""The cost of a million images with each packaged recipe: exact storage, and a lower bound of a GPU's time.

    python benchmarks/scale.py > benchmarks/results/scale.md

The GPU's peak rates are from its data sheet; nothing reaches them, so the hours are a lower bound. The decoding rate is
measured, on drawn pictures of photograph size, with one thread.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import describe
from PIL import Image
from tabulate import tabulate
from torch.utils.flop_counter import FlopCounterMode

from drexcache import read_images, recipe
from drexcache.features import draw_set
from drexcache.features.loading import load_backbone, load_extractors
from drexcache.features.pipeline import read_ahead
from drexcache.recipes import Recipe, recipe_names

GPU = "H100 SXM"
PEAK = {"fp32": 67e12, "bf16": 989e12}  # FLOP/s, dense, from the data sheet; drexcache keeps TF32 off for fp32
IMAGES = 1_000_000
SIDE = 1_000  # pixels of the longer side of a picture to decode


def flop(chosen: Recipe) -> int:
    """The multiplications and additions of all forward passes for one image."""
    total = 0
    for block in chosen.blocks:
        if not block.is_classic:
            backbone = load_backbone(block, "random", torch.device("cpu"))
            with FlopCounterMode(display=False) as counter:
                backbone(torch.zeros(1, 3, *block.size, dtype=torch.uint8))
            total += counter.get_total_flops()
    return total


def decode_seconds(chosen: Recipe, folder: Path) -> float:
    """Seconds to read, hash, decode and resize one image, in one thread."""
    table = read_images(folder, ratings=False)
    extractors = load_extractors(chosen.blocks, "random", torch.device("cpu"), lambda line: None)
    started = time.perf_counter()
    for _ in read_ahead(table, np.arange(len(table)), list(extractors.values()), 1, 8):
        pass
    return (time.perf_counter() - started) / len(table)


def photographs(folder: Path) -> Path:
    """Drawn pictures as JPEG files 1,000 pixels wide."""
    draw_set("leaves", 24, folder / "drawn", seed=0)
    for path in sorted((folder / "drawn").glob("*.png")):
        with Image.open(path) as picture:
            size = (SIDE, SIDE * picture.height // picture.width)
            picture.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(folder / f"{path.stem}.jpg", quality=90)
    shutil.rmtree(folder / "drawn")
    return folder


def main() -> None:
    """Print the table."""
    fp32, bf16 = (peak / 1e12 for peak in PEAK.values())
    print(f"```\n{describe()}\n```\n\nA million images; GPU: {GPU}, {fp32:.0f} TFLOP/s in fp32, {bf16:.0f} in bf16\n")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = photographs(Path(name))
        for chosen in map(recipe, recipe_names()):
            columns, work = chosen.dim or 0, flop(chosen)
            seconds = decode_seconds(chosen, folder)
            hours = [f"{work * IMAGES / peak / 3600:.2f}" if work else "" for peak in PEAK.values()]
            cores = f"{PEAK['bf16'] / work * seconds:.0f}" if work else ""
            sizes = [f"{columns * bytes_ * IMAGES / 1e9:.1f}" for bytes_ in (4, 2)]
            rows.append([chosen.name, columns, *sizes, f"{work / 1e9:.1f}", *hours, f"{1000 * seconds:.0f}", cores])
    headers = ["recipe", "columns", "GB float32", "GB float16", "GFLOP/image", "GPU hours fp32, at least",
               "bf16, at least", "ms to decode one", "cores to feed bf16's floor"]  # fmt: skip
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
