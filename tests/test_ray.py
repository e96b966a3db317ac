"""Extraction by a real Ray cluster of several nodes on this machine, which loses a process and a node on the way."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw, tiny_recipe

from drexcache.cache.reader import open_cache
from drexcache.datasets.table import read_images
from drexcache.errors import DrexcacheError
from drexcache.features import extract, extract_on_ray

ray = pytest.importorskip("ray", reason="needs Ray (pip install 'drexcache[ray]')")

IMAGES, PER_SHARD = 300, 25
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


def logs(cluster: Any) -> list[str]:
    """What the worker processes said, of each one that loaded a backbone."""
    folder = Path(cluster.head_node.get_session_dir_path()) / "logs"
    texts = [path.read_text(errors="replace") for path in folder.glob("worker-*.err")]
    return [text for text in texts if "with weights from" in text]


def test_a_lost_process_and_a_lost_node_change_nothing(cluster: Any, tmp_path: Path) -> None:
    table = read_images(draw(tmp_path / "pictures", IMAGES))
    alone = tmp_path / "alone.h5"
    extract(table, RECIPE, alone, say=lambda line: None)
    out, seen, lines = tmp_path / "many.h5", [], []
    killer = threading.Thread(target=kill_in_the_middle, args=(cluster, tmp_path / "many.h5.shards", seen))
    killer.start()
    summary = extract_on_ray(
        table, RECIPE, out, address=cluster.address, images_per_shard=PER_SHARD, device="cpu", compile="always",
        say=lines.append,
    )  # fmt: skip
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
    workers = logs(cluster)  # one for each node, and those in place of the lost process
    assert 3 <= len(workers) < IMAGES // PER_SHARD
    for text in workers:
        assert [text.count(f"block {name}: test_{name} with weights") for name in one.blocks] == [1, 1]
        # The engine is chosen once by each worker, not for every shard.
        assert re.findall(r"block (\w+): eager, for nothing is compiled on cpu", text) == ["vit", "resnet"]


def test_new_images_alone_are_computed_at_a_url_too(cluster: Any, tmp_path: Path) -> None:
    out = tmp_path / "features.h5"
    extract(read_images(draw(tmp_path / "pictures", 10)), RECIPE, out, say=lambda line: None)
    kept = open_cache(out).features("vit")
    table = read_images(f"file://{draw(tmp_path / 'pictures', 30)}")
    summary = extract_on_ray(table, RECIPE, out, address=cluster.address, images_per_shard=15, say=lambda line: None)
    cache = open_cache(out)
    assert len(cache) == 30 and cache.verify() == [] and cache.failures() == {}
    assert (summary.computed, summary.reused) == (20, 10)
    assert (cache.features("vit", slice(0, 10)) == kept).all()


def test_no_cluster_there() -> None:
    with pytest.raises(DrexcacheError, match=r"no Ray cluster answers at 127.0.0.1:1 .*leave --address out"):
        extract_on_ray(None, RECIPE, "out.h5", address="127.0.0.1:1")  # type: ignore[arg-type]


def other_version(folder: Path) -> dict[str, str]:
    """The environment of a node on which another version of drexcache is installed, as its metadata says."""
    metadata = folder / "drexcache-9.9.9.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: drexcache\nVersion: 9.9.9\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


@pytest.fixture
def head() -> Iterator[Any]:
    """A cluster of a single node."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield found
    ray.shutdown()
    found.shutdown()


def test_a_node_of_another_version_is_refused(head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # Ray's processes look for packages in the folder where this one works, too
    table = read_images(draw(tmp_path / "pictures", 2))
    head.add_node(num_cpus=1, env_vars=other_version(tmp_path / "packages"))
    with pytest.raises(DrexcacheError) as caught:
        extract_on_ray(table, RECIPE, tmp_path / "c.h5", address=head.address)
    assert re.fullmatch(
        r"node \S+ has drexcache 9\.9\.9, this process drexcache \S+; install the same version on all nodes",
        str(caught.value),
    )


@pytest.fixture
def blind_node(head: Any, tmp_path: Path) -> Iterator[None]:
    """One more node, for which another file system, an empty one, is mounted where the pictures are."""
    pictures = draw(tmp_path / "pictures", 2)
    mount = f"mount -t tmpfs none {pictures}"
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False).returncode:
        pytest.skip("needs the right to mount file systems for a process alone (root, on Linux)")
    ray_command = f"{sys.executable} -m ray.scripts.scripts"
    start = f"{ray_command} start --address {head.address} --num-cpus 1 --block"
    node = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", f"{mount} && exec {start}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    yield
    os.killpg(node.pid, signal.SIGTERM)
    node.wait(30)


@pytest.mark.usefixtures("blind_node")
def test_a_node_that_does_not_see_the_images_is_refused(head: Any, tmp_path: Path) -> None:
    ray.init(address=head.address, logging_level="ERROR")
    deadline = time.monotonic() + 120
    while len([node for node in ray.nodes() if node["Alive"]]) < 2:
        assert time.monotonic() < deadline, "the second node does not come up"
        time.sleep(0.1)
    ray.shutdown()
    with pytest.raises(DrexcacheError) as caught:
        extract_on_ray(read_images(tmp_path / "pictures"), RECIPE, tmp_path / "c.h5", address=head.address)
    assert re.fullmatch(
        rf"node \S+ does not see {tmp_path}/pictures/000.png \(No such file or directory\); mount the same file system "
        "at the same path on all nodes, or name the images by a URL that all nodes can read, such as s3://bucket/folder",
        str(caught.value),
    )
    assert not (tmp_path / "c.h5").exists()
