"""What an image costs with each recipe whose weights come in packages: seconds in the models, beside recipe offline.

python benchmarks/recipe_cost.py > benchmarks/results/recipe-cost.txt
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import torch
from machine import describe
from PIL import Image

from drexcache import recipe
from drexcache.features.loading import load_extractors
from drexcache.features.pipeline import Extractor

RECIPES = ("offline", "complexity-lean", "complexity")
IMAGES, TURNS = 8, 4


def seconds(extractors: Iterable[Extractor], pictures: list[Image.Image]) -> float:
    """Of all blocks, for each picture; preparing the pixels is left out."""
    total = 0.0
    for one in extractors:
        inputs = [one.prepare(picture) for picture in pictures]
        started = time.perf_counter()
        one(inputs)
        total += time.perf_counter() - started
    return total / len(pictures)


def main() -> None:
    """Time the recipes in turns, and print the least time of each."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (600, 800, 3), dtype=np.uint8)) for _ in range(IMAGES)]
    loaded = {
        name: load_extractors(recipe(name).blocks, "packaged", torch.device("cpu"), lambda line: None)
        for name in RECIPES
    }
    for extractors in loaded.values():
        seconds(extractors.values(), pictures[:1])  # gets them ready
    times = [{name: seconds(own.values(), pictures) for name, own in loaded.items()} for _ in range(TURNS)]
    print(f"{describe()}\n{torch.get_num_threads()} threads, {IMAGES} images, {TURNS} turns\n")
    print("recipe           columns  s/image  ratio to offline")
    for name in RECIPES:
        least = min(turn[name] for turn in times)
        ratio = np.median([turn[name] / turn["offline"] for turn in times])
        print(f"{name:16} {recipe(name).dim:7}  {least:7.3f}  {ratio:.2f}")


if __name__ == "__main__":
    main()
