"""Do rows that other versions or another device computed still agree with what is computed here?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from drexcache.cache import CacheWriter, Contents
from drexcache.datasets import ImageTable
from drexcache.errors import DrexcacheError
from drexcache.features.backbone import Backbone
from drexcache.features.reading import read_image

# How far a row computed again may be from the stored one, as a share of its largest value.
TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2}


def probe(
    table: ImageTable,
    writer: CacheWriter,
    backbones: Mapping[str, Backbone],
    contents: Contents,
    settings: Mapping[str, dict[str, Any]],
    say: Callable[[str], None],
) -> None:
    """Where rows come from another setting than this run's, compute one of them again and compare.

    settings : block name -> this run's entry of the provenance, for blocks of which it computes rows.

    Raises
    ------
    DrexcacheError : the numbers differ by more than rounding; the message names what changed.
    """
    for name, block in contents.blocks.items():
        others = [entry for entry in block.provenance if entry != settings.get(name)]
        if name not in settings or not others:
            continue
        done = np.flatnonzero(writer.done(name))
        if not len(done):
            continue
        image = read_image(table.files[done[0]], int(done[0]), [block.definition])
        if image.failure:
            continue
        fresh = image.inputs[name][None]
        again = fresh.numpy()[0] if block.definition.is_classic else backbones[name](fresh)[0].cpu().numpy()
        kept = writer.cache.features(name, done[:1])[0].astype(np.float32)
        error = float(np.abs(again - kept).max() / (np.abs(kept).max() + 1e-12))
        old, new = others[-1], settings[name]
        changed = "; ".join(f"{key}: {old.get(key)} -> {new.get(key)}" for key in new if old.get(key) != new.get(key))
        if error > TOLERANCE[block.definition.precision]:
            raise DrexcacheError(
                f"{writer.path}: block {name}: {table.ids[done[0]]} computed again differs by {error:.2g} of its "
                f"scale ({changed}); write to another file, or use the versions that made the cache"
            )
        say(f"block {name}: rows of another setting kept ({changed}); one computed again agrees to {error:.1e}")
