"""How the files release-0.1-* were made: a cache of 24 drawn pictures, three models, their predictions.

    python tests/data/make_release_0_1.py FOLDER

The files in the repository stay as release 0.1 wrote them; later releases must read them, not write them again.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from drexcache import load_model, open_cache, read_images, recipe
from drexcache.features import extract

SETTINGS = {"ridge": {}, "stack": {}, "fusion": {"width": 128, "epochs": 10, "min_steps": 20}}


def draw(folder: Path) -> None:
    lines = ["file,rating,split"]
    for number in range(24):
        rng = np.random.default_rng(number)
        amount = rng.uniform(0, 100)
        pixels = rng.uniform(60, 190, 3) + rng.normal(0, amount / 2, (24, 32, 3))
        Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(folder / f"{number:02}.png")
        lines.append(f"{number:02}.png,{amount:.3f},{'test' if number % 4 == 0 else 'train'}")
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(folder: Path) -> None:
    from drexcache.regressors.model import train_model  # where release 0.1 had it

    cache_path = folder / "release-0.1-cache.h5"
    with tempfile.TemporaryDirectory() as pictures:
        draw(Path(pictures))
        extract(read_images(pictures, dataset="noise", value_range=(0, 100)), recipe("classic"), cache_path)
    cache = open_cache(cache_path)
    matrix, predicted = cache.matrix(), {}
    for name, settings in SETTINGS.items():
        path = folder / f"release-0.1-{name}.drex"
        train_model(name, matrix, cache, tuple(matrix.blocks), 42, settings=settings).save(path)
        predicted[name] = load_model(path).predict(cache).value.tolist()
    expected = {"ids": list(matrix.ids), "y": matrix.y.tolist(), "X": matrix.X.tolist(), "predictions": predicted}
    (folder / "release-0.1-expected.json").write_text(json.dumps(expected), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
