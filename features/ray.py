"""Extraction by a Ray cluster: shards as tasks that any node may run, or run again, and one cache out of them.

Ray places the tasks and retries them when a process or a node is lost. What makes a retry safe is the cache itself: a
shard is written by one process at a time, and goes on where the last one was stopped.
"""

from __future__ import annotations

import logging
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from drexcache.cache import open_cache
from drexcache.datasets import ImageFile, ImageTable
from drexcache.devices import resolve_device
from drexcache.errors import DrexcacheError
from drexcache.features.extraction import Summary
from drexcache.features.loading import check_reach, extract, load_extractors
from drexcache.features.pipeline import Extractor
from drexcache.progress import step_bar
from drexcache.recipes import Block, Recipe

IMAGES_PER_SHARD = 512
TRIES = 10  # of a task whose process or node was lost
LOCK_SECONDS = 60  # what the processes of a lost node take, at most, to let go of their shard


def extract_on_ray(
    table: ImageTable, recipe: Recipe, out: str | Path, *, address: str | None = None, device: str = "auto",
    images_per_shard: int = IMAGES_PER_SHARD, say: Callable[[str], None] = print, **options: Any,
) -> Summary:  # fmt: skip
    """As `extract`, by all nodes of a Ray cluster, which have to see the images and ``out`` at the same paths or URL.

    The images are cut into shards, kept in ``OUT.shards/`` until the whole is done: the same command goes on where the
    last one was stopped. A task takes one GPU where the cluster has any (unless ``device`` is "cpu"), else one core.
    A worker process loads the backbones once; whether it compiles them is decided by the images it is likely to get.

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
        resources = ray.cluster_resources()
        gpus = int(device != "cpu" and resources.get("GPU", 0) >= 1)
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=TRIES, max_calls=0)(_extract_shard)
        work = {**options, "device": device if gpus else "cpu", "also": known}
        shards = dict(zip(paths, (table.shard(index, count) for index in range(1, count + 1)), strict=True))
        each = _images_left(shards, recipe, known) // max(1, int(resources.get("GPU" if gpus else "CPU", 1)))
        tasks = {task.remote(shard, recipe, path, each, work): len(shard) for path, shard in shards.items()}
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


def _checked_nodes(ray: Any, table: ImageTable, folder: Path) -> str:
    """A line about the cluster; raises where a node could not do the work, before any is begun."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]

    def ask(question: Callable[..., str], *about: object) -> Iterator[tuple[str, str]]:
        """Each node's name and answer."""
        task, here = ray.remote(num_cpus=0)(question), NodeAffinitySchedulingStrategy
        tasks = [task.options(scheduling_strategy=here(n["NodeID"], soft=False)).remote(*about) for n in nodes]
        return zip((node["NodeManagerHostname"] for node in nodes), ray.get(tasks), strict=True)

    def installed() -> str:  # in here it travels with its code, to nodes that may have none of ours
        try:
            return f"drexcache {version('drexcache')}"
        except PackageNotFoundError:
            return "no drexcache"

    for name, found in ask(installed):
        if found != installed():
            raise DrexcacheError(
                f"node {name} has {found}, this process {installed()}; install the same version on all nodes"
            )
    image = next((file for file in table.files if not _unreadable(file)), None)  # some may be damaged for everybody
    for name, missing in ask(_unseen, image, folder):
        if missing:
            raise DrexcacheError(
                f"node {name} does not see {missing}; mount the same file system at the same path on all nodes, or "
                "name the images by a URL that all nodes can read, such as s3://bucket/folder"
            )
    resources = ray.cluster_resources()
    return f"Ray: {len(nodes)} nodes, {resources.get('CPU', 0):.0f} cores, {resources.get('GPU', 0):.0f} GPUs"


def _unseen(image: ImageFile | None, folder: Path) -> str:
    """Which of these this process does not see, or ""."""
    if not folder.exists():
        return str(folder)
    reason = _unreadable(image) if image else ""
    return f"{image} ({reason})" if reason else ""


def _unreadable(image: ImageFile) -> str:
    """Why this process cannot read the image, or ""."""
    try:
        image.read()
    except OSError as error:
        return error.strerror or str(error)
    except DrexcacheError as error:  # no package for the URL's protocol
        return str(error)
    return ""


def _images_left(shards: dict[Path, ImageTable], recipe: Recipe, known: list[Path]) -> int:
    """How many images there are to compute, apart from those that will turn out to have changed."""
    before: set[str] = set()
    for cache in map(open_cache, known):
        if {block.name for block in recipe.blocks} <= set(cache.blocks):
            before.update(cache.ids)
    left = (shard for path, shard in shards.items() if not path.exists())
    return sum(image not in before for shard in left for image in shard.ids)


def _extract_shard(table: ImageTable, recipe: Recipe, path: Path, images: int, options: dict[str, Any]) -> int:
    """The task; the images it computed. A process of a lost node may still hold the shard for some seconds."""
    options = dict(options)
    source, batch = options.get("weights") or recipe.weights, options.get("batch_size")
    backbones = _loaded(
        recipe.blocks,
        source,
        options["device"],
        batch,
        options.pop("compile", "auto"),
        options.get("engine_cpu", "auto"),
        images,
    )
    lock = FileLock(f"{path}.lock")
    with suppress(Timeout):  # who holds it is said by `extract`
        lock.acquire(timeout=LOCK_SECONDS)
        lock.release()
    return extract(table, recipe, path, backbones=backbones, say=_silent, **options).computed


@lru_cache(maxsize=1)
def _loaded(
    blocks: tuple[Block, ...],
    source: str,
    device: str,
    batch: int | None,
    compile: str,
    engine_cpu: str,
    images: int,
) -> dict[str, Extractor]:
    """The extractors of this process, for all of its shards; what is said of them is kept in Ray's logs."""
    check_reach(blocks, source)
    found = load_extractors(
        blocks, source, resolve_device(device), _to_log, batch=batch, compile=compile, engine_cpu=engine_cpu
    )
    for extractor in found.values():
        extractor.get_ready(images)
    return found


def _to_log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _silent(_line: str) -> None:
    """What a shard has to say, the whole says again when the shards are put together."""


def _wait(ray: Any, tasks: dict[Any, int], total: int) -> int:
    """Until every task is done, with a bar of images; the sum of their results. A user's mistake ends the work."""
    waiting, computed, shown = list(tasks), 0, 0
    with step_bar("extract on Ray", "image") as show:
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
            shown += sum(tasks[task] for task in done)
            show(shown, total, "")
    return computed
