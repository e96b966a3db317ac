"""Following images that were renamed since their rows were cached."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from drexcache.cache import FeatureCache
from drexcache.datasets import ImageTable
from drexcache.features.pipeline import read_image


def follow_renamed(table: ImageTable, sources: Sequence[FeatureCache]) -> list[FeatureCache]:
    """Return the sources, with renamed images' rows in finished caches under the names that the table has now.

    Only if some images are gone from the table and others are new are the new ones read and hashed.
    """
    known = {image for cache in sources for image in cache.ids}
    new = [row for row, image in enumerate(table.ids) if image not in known]
    here = set(table.ids)
    if not new or known <= here:
        return list(sources)
    names = {read_image(table, row, ()).sha256: table.ids[row] for row in new}
    names.pop(bytes(32), None)  # the hash of an unreadable file
    found = []
    for cache in sources:
        hashes = cache.hashes()
        gone = [row for row, image in enumerate(cache.ids) if image not in here and hashes[row].tobytes() in names]
        if gone and cache.complete:  # an interrupted run continues unchanged, or not at all
            ids = list(cache.ids)
            for row in gone:
                ids[row] = names.pop(hashes[row].tobytes(), ids[row])
            found.append(copy.copy(cache))
            found[-1].ids = tuple(ids)
        else:
            found.append(cache)
    return found
