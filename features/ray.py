"""Extraction on a Ray cluster: shards as tasks that any node may run or retry, merged into one cache.

Ray places the tasks and retries them when a process or node is lost. A retry is safe because of the cache: a shard is
written by one process at a time, which continues where the last one stopped.
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
from drexcache.errors import DrexcacheError, several
from drexcache.features.extraction import Summary
from drexcache.features.loading import check_reach, extract, load_extractors
from drexcache.features.pipeline import Extractor
from drexcache.progress import step_bar
from drexcache.recipes import Block, Recipe

IMAGES_PER_SHARD = 512
TRIES = 10  # retries of a task whose process or node was lost
LOCK_SECONDS = 60  # the longest that processes of a lost node may hold on to their shard


def extract_on_ray(
    table: ImageTable, recipe: Recipe, out: str | Path, *, address: str | None = None, device: str = "auto",
    images_per_shard: int = IMAGES_PER_SHARD, say: Callable[[str], None] = print, **options: Any,
) -> Summary:  # fmt: skip
    """Run `extract` on all nodes of a Ray cluster, which must see the images and ``out`` at the same paths or URL.

    The images are divided into shards, kept in ``OUT.shards/`` until all are done, so the same command continues where
    the last one stopped. A task takes one GPU if the cluster has any (unless ``device`` is "cpu"), else one core. A
    worker process loads the backbones once; whether it compiles them depends on how many images it is likely to get.

    Parameters
    ----------
    address : of a running cluster, "auto" for the one on this machine; None starts a cluster on this machine only.
    options : as `extract` takes them.

    Raises
    ------
    DrexcacheError : no such cluster, nodes with another version of drexcache or that do not see the same files; and
        as `extract`.
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
    """A context with the connected ray module; a cluster that was started here is stopped at the end."""
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
    """Raise OSError if nothing listens at the address: Ray would try for minutes and then kill the process."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _checked_nodes(ray: Any, table: ImageTable, folder: Path) -> str:
    """A line that describes the cluster; raises, before any work begins, if a node could not do it."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]

    def ask(question: Callable[..., str], *about: object) -> Iterator[tuple[str, str]]:
        """Each node's name and answer."""
        task, here = ray.remote(num_cpus=0)(question), NodeAffinitySchedulingStrategy
        tasks = [task.options(scheduling_strategy=here(n["NodeID"], soft=False)).remote(*about) for n in nodes]
        return zip((node["NodeManagerHostname"] for node in nodes), ray.get(tasks), strict=True)

    def installed() -> str:  # a nested function is sent with its code, to nodes that may not have drexcache
        try:
            return f"drexcache {version('drexcache')}"
        except PackageNotFoundError:
            return "no drexcache"

    for name, found in ask(installed):
        if found != installed():
            raise DrexcacheError(
                f"node {name} has {found}, this process {installed()}; install the same version on all nodes"
            )
    image = next((file for file in table.files if not _unreadable(file)), None)  # one that is readable from here
    for name, missing in ask(_unseen, image, folder):
        if missing:
            raise DrexcacheError(
                f"node {name} does not see {missing}; mount the same file system at the same path on all nodes, or "
                "name the images by a URL that all nodes can read, such as s3://bucket/folder"
            )
    resources = ray.cluster_resources()
    counts = ((len(nodes), "node"), (int(resources.get("CPU", 0)), "core"), (int(resources.get("GPU", 0)), "GPU"))
    return f"Ray: {', '.join(several(n, what) for n, what in counts)}"


def _unseen(image: ImageFile | None, folder: Path) -> str:
    """Which of the two this process does not see, or ""."""
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
    """How many images have to be computed, not counting those that will turn out to have changed."""
    before: set[str] = set()
    for cache in map(open_cache, known):
        if {block.name for block in recipe.blocks} <= set(cache.blocks):
            before.update(cache.ids)
    left = (shard for path, shard in shards.items() if not path.exists())
    return sum(image not in before for shard in left for image in shard.ids)


def _extract_shard(table: ImageTable, recipe: Recipe, path: Path, images: int, options: dict[str, Any]) -> int:
    """The task: extract one shard and return how many images were computed.

    A process of a lost node may still hold the shard for some seconds.
    """
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
    with suppress(Timeout):  # if it is still held, `extract` will report it
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
    """The extractors of this process, for all its shards; messages about them go to Ray's logs."""
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
    """Drop a shard's messages, which are repeated when the shards are merged."""


def _wait(ray: Any, tasks: dict[Any, int], total: int) -> int:
    """Wait for every task, with a progress bar of images, and return the sum of their results.

    Raises
    ------
    DrexcacheError : a task failed; the others are cancelled.
    """
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
