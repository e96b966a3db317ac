"""Predicting images with a model, preparing them exactly as in training."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from drexcache.cache import FeatureCache, open_cache
from drexcache.datasets import ImageFile, ImageTable, is_url, read_images
from drexcache.devices import resolve_device
from drexcache.errors import DrexcacheError, several
from drexcache.features.loading import check_reach, extract, load_extractors
from drexcache.features.planning import stored_blocks
from drexcache.recipes import IMPORTED, Recipe
from drexcache.regressors import Model, Prediction

PACKED = (".zip", ".tar", ".parquet", ".hdf5")
MANY = 200  # images whose prediction somebody may want to interrupt and continue later


def predict(
    model: Model,
    images: str | Path,
    *,
    weights: str | None = None,
    device: str = "auto",
    engine_cpu: str = "auto",
    interval: float | None = None,
    cache: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Prediction, dict[str, str]]:
    """Predict the rating of every image in a folder (or its URL), a zip, a single file, or a cache.

    Parameters
    ----------
    weights : the source of the backbones' weights; default: as in training. They must be the same weights.
    device, engine_cpu : as in `extract`. interval : as in `Model.predict`.
    cache : a file that keeps the images' features: a stopped prediction goes on there, and another computes only what
        is missing. Default: features are thrown away at the end.

    Returns
    -------
    The prediction, and image id -> reason for images that could not be read.

    Raises
    ------
    DrexcacheError : a cache with other features, other weights than in training, or no images.
    """
    if interval is not None:
        model.check_interval(interval)
    if Path(images).suffix == ".h5" and (not is_url(images) or str(images).startswith("hf://")):
        found = open_cache(images)
        return model.predict(found, interval), found.failures()
    with tempfile.TemporaryDirectory(prefix="drexcache-") as folder:
        kept = Path(folder) / "images.h5" if cache is None else Path(cache)
        found = _extracted(model, images, kept, weights, device, engine_cpu, say, cache is None)
        failures = found.failures()
        if len(failures) == len(found):
            raise DrexcacheError(
                f"{images}: of {several(len(found), 'image')} none could be read (first: "
                f"{next(iter(failures.items()))})"
            )
        return model.predict(found, interval), failures


def _extracted(
    model: Model,
    images: str | Path,
    out: Path,
    weights: str | None,
    device: str,
    engine_cpu: str,
    say: Callable[[str], None],
    passing: bool,
) -> FeatureCache:
    alone = not is_url(images) and Path(images).is_file() and Path(images).suffix.lower() not in PACKED
    table = one_image(Path(images)) if alone else read_images(images, ratings=False)
    for note in table.notes[1:]:  # on what was left out; the first names the layout
        say(note)
    if passing and len(table) >= MANY:
        say(f"{len(table)} images: --cache FILE would keep their features, so that a stopped prediction can go on")
    recipe = Recipe("of the model", tuple(block.definition for block in model.blocks.values()))
    check_reach([block for block in recipe.blocks if block.backbone == IMPORTED], "")
    sources = sources_of_weights(model, weights)
    check_reach(recipe.blocks, sources)
    backbones = load_extractors(recipe.blocks, sources, resolve_device(device), say, engine_cpu=engine_cpu)
    model.check(stored_blocks(backbones), f"weights {', '.join(sorted(set(sources.values())))}")  # before any image
    done = extract(table, recipe, out, device=device, backbones=backbones, say=say)
    if not passing:
        say(f"{out}: {several(done.images, 'image')}, {done.computed} computed, {done.reused} already there")
    return open_cache(out)


def sources_of_weights(model: Model, given: str | None) -> dict[str, str]:
    """Block name -> the source of its weights: the one given, or else as in training.

    Raises
    ------
    DrexcacheError : none is given, and the model was trained with weights from a file.
    """
    phrases = {name: block.weights_source for name, block in model.blocks.items() if not block.definition.is_classic}
    sources = {name: phrase.split()[0] for name, phrase in phrases.items()}
    if not given and not {"hub", "packaged", "random"}.issuperset(sources.values()):
        raise DrexcacheError(
            f"the model's features were made with weights from {', '.join(sorted(set(phrases.values())))}; "
            "give that file with --weights"
        )
    return {name: given or sources.get(name, "hub") for name in model.blocks}


def one_image(path: Path) -> ImageTable:
    """The table of a single image file, without a rating."""
    return ImageTable(path.stem, ids=(path.name,), files=(ImageFile(str(path)),), targets={}, labels={}, notes=())
