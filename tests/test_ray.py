"""Extraction by a real Ray cluster of several nodes on this machine, which loses a process and a node on the way."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw, tiny_recipe

from drexcache.cache import open_cache
from drexcache.errors import DrexcacheError
from drexcache.features import extract
from drexcache.features.ray_engine import extract_on_ray
from drexcache.images import read_images

ray = pytest.importorskip("ray", reason="needs Ray (pip install 'drexcache[ray]')")

IMAGES, PER_SHARD = 240, 20
RECIPE = tiny_recipe()


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head and two more nodes, each with one core and processes of its own."""
    from ray.cluster_utils import Cluster

    found = Cluster()
    for _ in range(3):
        found.add_node(num_cpus=1, include_dashboard=False)
    yield found
    ray.shutdown()
    found.shutdown()


def kill_in_the_middle(cluster: Any, folder: Path, seen: list[str]) -> None:
    """Once work is under way, kill a process that is writing a shard, and later a whole node."""

    def finished() -> int:
        return len(list(folder.glob("*.h5")))

    while finished() < 2 or not (notes := list(folder.glob("*.writer"))):
        time.sleep(0.01)
    os.kill(int(notes[0].read_text().split()[1]), signal.SIGKILL)
    seen.append("process")
    while finished() < 4:
        time.sleep(0.01)
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    seen.append("node")


def test_a_lost_process_and_a_lost_node_change_nothing(cluster: Any, tmp_path: Path) -> None:
    table = read_images(draw(tmp_path / "pictures", IMAGES))
    alone = tmp_path / "alone.h5"
    extract(table, RECIPE, alone, say=lambda line: None)
    out, seen, lines = tmp_path / "many.h5", [], []
    killer = threading.Thread(target=kill_in_the_middle, args=(cluster, tmp_path / "many.h5.shards", seen))
    killer.start()
    summary = extract_on_ray(
        table, RECIPE, out, address=cluster.address, images_per_shard=PER_SHARD, device="cpu", say=lines.append
    )
    killer.join()
    assert seen == ["process", "node"]
    one, many = open_cache(alone), open_cache(out)
    assert many.verify() == [] and many.ids == one.ids and many.failures() == {}
    assert many.contents.targets["rating"].values.tolist() == one.contents.targets["rating"].values.tolist()
    for name in one.blocks:
        assert many.blocks[name].fingerprint == one.blocks[name].fingerprint
        np.testing.assert_allclose(many.features(name), one.features(name), rtol=1e-4, atol=1e-5)
    assert any("3 nodes, 3 cores" in line for line in lines)
    assert (summary.images, summary.computed + summary.reused) == (IMAGES, IMAGES)
    assert not (tmp_path / "many.h5.shards").exists()


def test_new_images_alone_are_computed(cluster: Any, tmp_path: Path) -> None:
    out = tmp_path / "features.h5"
    extract(read_images(draw(tmp_path / "pictures", 10)), RECIPE, out, say=lambda line: None)
    kept = open_cache(out).features("vit")
    table = read_images(draw(tmp_path / "pictures", 30))
    extract_on_ray(table, RECIPE, out, address=cluster.address, images_per_shard=15, say=lambda line: None)
    cache = open_cache(out)
    assert len(cache) == 30 and cache.verify() == []
    assert (cache.features("vit", slice(0, 10)) == kept).all()


def test_no_cluster_there() -> None:
    with pytest.raises(DrexcacheError, match=r"no Ray cluster answers at 127.0.0.1:1 .*leave --address out"):
        extract_on_ray(None, RECIPE, "out.h5", address="127.0.0.1:1")  # type: ignore[arg-type]
