"""Extraction by a Ray cluster: shards as tasks that any node may run, or run again, and one cache out of them.

Ray places the tasks and retries them when a process or a node is lost. What makes a retry safe is the cache itself: a
shard is written by one process at a time, and goes on where the last one was stopped.
"""

from __future__ import annotations

import logging
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from drexcache.errors import DrexcacheError
from drexcache.features.extraction import Summary, extract
from drexcache.images import ImageTable
from drexcache.recipes import Recipe

IMAGES_PER_SHARD = 512
TRIES = 10  # of a task whose process or node was lost
LOCK_SECONDS = 60  # what the processes of a lost node take, at most, to let go of their shard


def extract_on_ray(
    table: ImageTable, recipe: Recipe, out: str | Path, *, address: str | None = None, device: str = "auto",
    images_per_shard: int = IMAGES_PER_SHARD, say: Callable[[str], None] = print, **options: Any,
) -> Summary:  # fmt: skip
    """As `extract`, by all nodes of a Ray cluster, which have to see the images and ``out`` at the same paths.

    The images are cut into shards, kept in ``OUT.shards/`` until the whole is done: the same command goes on where the
    last one was stopped. A task takes one GPU where the cluster has any (unless ``device`` is "cpu"), else one core.

    Parameters
    ----------
    address : of a running cluster, "auto" for the one of this machine; None starts one of this machine alone.
    options : as `extract` takes them.

    Raises
    ------
    DrexcacheError : no such cluster, nodes of another version of drexcache or that do not see the same files, and as
        `extract`.
    """
    out = Path(out).absolute()
    folder = out.with_name(f"{out.name}.shards")
    known = [out] if out.exists() else []
    with _cluster(address) as ray:
        count = -(-len(table) // images_per_shard)
        paths = [folder / f"{index:05}-of-{count:05}.h5" for index in range(1, count + 1)]
        folder.mkdir(parents=True, exist_ok=True)
        say(_checked_nodes(ray, table, folder))
        gpus = int(device != "cpu" and ray.cluster_resources().get("GPU", 0) >= 1)
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=TRIES, max_calls=0)(_extract_shard)
        work = {**options, "device": device if gpus else "cpu", "also": known}
        shards = [table.shard(index, count) for index in range(1, count + 1)]
        tasks = {task.remote(s, recipe, p, work): len(s) for s, p in zip(shards, paths, strict=True)}
        computed = _wait(ray, tasks, len(table))
    summary = extract(table, recipe, out, device="cpu", also=paths, say=say, **options)
    shutil.rmtree(folder)
    return replace(summary, computed=computed, reused=len(table) - computed)


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """The ray module, connected; a cluster that was started here is stopped at the end."""
    try:
        import ray
    except ImportError as error:
        raise DrexcacheError("--engine ray needs Ray: pip install 'drexcache[ray]'") from error
    try:
        _knock(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DrexcacheError(
            f"no Ray cluster answers at {address} ({reason}); start one with `ray start --head`, or leave --address out"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise OSError where nobody listens: Ray would try for minutes and then end the process."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


@dataclass(frozen=True)
class _Node:
    """What a node of the cluster says of itself."""

    name: str
    version: str
    missing: str


def _look_around(image: Path, folder: Path) -> _Node:
    missing = next((str(path) for path in (folder, image) if not path.exists()), "")
    return _Node(socket.gethostname(), version("drexcache"), missing)


def _checked_nodes(ray: Any, table: ImageTable, folder: Path) -> str:
    """A line about the cluster; raises where a node could not do the work, before any is begun."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    look = ray.remote(num_cpus=0)(_look_around)
    image = table.files[0].path.absolute()
    for found in ray.get(
        [look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n, soft=False)).remote(image, folder)
         for n in nodes]
    ):  # fmt: skip
        if found.version != version("drexcache"):
            raise DrexcacheError(
                f"node {found.name} has drexcache {found.version}, this process {version('drexcache')}; install the "
                "same version on all nodes"
            )
        if found.missing:
            raise DrexcacheError(
                f"node {found.name} does not see {found.missing}; mount the same file system at the same path on all "
                "nodes, or name the images by a URL such as s3://bucket/folder"
            )
    resources = ray.cluster_resources()
    return f"Ray: {len(nodes)} nodes, {resources.get('CPU', 0):.0f} cores, {resources.get('GPU', 0):.0f} GPUs"


def _extract_shard(table: ImageTable, recipe: Recipe, path: Path, options: dict[str, Any]) -> int:
    """The task; the images it computed. A process of a lost node may still hold the shard for some seconds."""
    lock = FileLock(f"{path}.lock")
    with suppress(Timeout):  # who holds it is said by `extract`
        lock.acquire(timeout=LOCK_SECONDS)
        lock.release()
    return extract(table, recipe, path, say=_silent, **options).computed


def _silent(_line: str) -> None:
    """What a shard has to say, the whole says again when the shards are put together."""


def _wait(ray: Any, tasks: dict[Any, int], total: int) -> int:
    """Until every task is done, with a bar of images; the sum of their results. A user's mistake ends the work."""
    waiting, computed = list(tasks), 0
    with tqdm(total=total, unit="image", desc="extract on Ray", disable=None, dynamic_ncols=True) as bar:
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1)
            try:
                computed += sum(ray.get(done))
            except ray.exceptions.RayTaskError as error:
                for task in waiting:
                    ray.cancel(task)
                cause = error.cause
                raise (
                    cause if isinstance(cause, DrexcacheError) else DrexcacheError(f"a task failed: {cause!r}")
                ) from error
            except ray.exceptions.RayError as error:
                raise DrexcacheError(
                    f"the cluster lost a task {TRIES} times ({str(error).splitlines()[0]}); finished shards are kept; "
                    "run the same command again"
                ) from error
            bar.update(sum(tasks[task] for task in done))
    return computed
