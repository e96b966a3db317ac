"""The extraction engine: decoding threads, extractors and a writing thread, all working at the same time.

An extractor computes one block: a `drexcache.features.backbone.Backbone`, or the hand-made cues.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from drexcache.cache import CacheWriter, StoredBlock
from drexcache.datasets import Decode, ImageTable, UnreadableImage, decoded
from drexcache.devices import cores
from drexcache.errors import DrexcacheError, warnings_about
from drexcache.progress import step_bar
from drexcache.recipes import Block

if TYPE_CHECKING:
    import torch

    Features = np.ndarray | torch.Tensor

BATCH = {"cuda": 64, "mps": 16, "cpu": 8}  # images per call by kind of device


class Extractor(Protocol):
    """Computes one block of the cache.

    Attributes
    ----------
    block : its definition. dims : length of each tap's vector. batch : images per call, at most.
    weights_sha256, weights_source : see `drexcache.features.weights.Weights`.
    where, mode : for the provenance, the device and the engine, such as "eager" or "compiled".
    """

    block: Block
    dims: tuple[int, ...]
    batch: int
    weights_sha256: str
    weights_source: str
    where: str
    mode: str

    def get_ready(self, images: int) -> None:
        """Choose an engine for this many images; called once per run, possibly with 0."""

    def prepare(self, rgb: Image.Image) -> np.ndarray:
        """Turn one image into the model's input; called in a decoding thread."""

    def __call__(self, inputs: Sequence[np.ndarray], /) -> Features:
        """Features float32 (B, d) of B prepared images, possibly on a device that is still computing them."""


def in_memory(features: Features) -> np.ndarray:
    """What an extractor gave, waiting for the device that computes it."""
    return features if isinstance(features, np.ndarray) else features.cpu().numpy()


class Meter:
    """Seconds that a run spent waiting for decoded images ("decode"), in the models, and writing.

    Decoding and writing happen in threads beside the models. Decoding counts only while the models wait for it: on a
    GPU the share of "decode" is the time that the GPU is idle.

    >>> meter = Meter()
    >>> with meter("model"):
    ...     time.sleep(0.01)
    >>> meter.bottleneck(), meter.shares()
    ('model', {'decode': 0.0, 'model': 1.0, 'write': 0.0})
    """

    def __init__(self) -> None:
        self.seconds = {"decode": 0.0, "model": 0.0, "write": 0.0}
        self.elapsed = 0.0  # from the first image read to the last row written

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """A context whose time counts for this stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started

    def bottleneck(self) -> str:
        """The stage that took the most time."""
        return max(self.seconds, key=lambda stage: self.seconds[stage])

    def shares(self) -> dict[str, float]:
        """Stage -> its share of the total time."""
        whole = sum(self.seconds.values()) or 1.0
        return {stage: seconds / whole for stage, seconds in self.seconds.items()}


@dataclass(frozen=True)
class Job:
    """What a run computes and how; ``workers`` is the number of decoding threads."""

    table: ImageTable
    extractors: Mapping[str, Extractor]
    batch_size: int
    workers: int
    say: Callable[[str], None]
    meter: Meter = field(default_factory=Meter)


def compute_rows(job: Job, writer: CacheWriter) -> int:
    """Compute and write every row that the writer lacks, with a progress bar; returns the number of images."""
    missing = {name: ~writer.done(name) for name in job.extractors}
    rows = np.flatnonzero(np.any(list(missing.values()), axis=0))
    job = replace(job, extractors={name: one for name, one in job.extractors.items() if missing[name].any()})
    started = time.perf_counter()
    with WriteBehind() as behind:
        for batch in _batches(job, rows, missing, writer, behind):
            _compute(job, batch, missing, writer, behind)
    job.meter.elapsed = time.perf_counter() - started
    return len(rows)


def _batches(
    job: Job, rows: np.ndarray, missing: Mapping[str, np.ndarray], writer: CacheWriter, behind: WriteBehind
) -> Iterator[list[ReadImage]]:
    """Yield readable images in batches, with a progress bar; unreadable ones are recorded as failed."""
    extractors = list(job.extractors.values())
    images = read_ahead(job.table, rows, extractors, job.workers, 2 * job.batch_size + job.workers)
    batch: list[ReadImage] = []
    done = failed = 0
    with step_bar("extract", "image") as show:
        while True:
            with job.meter("decode"):
                image = next(images, None)
            if image is not None and image.failure:
                failed += 1
                done += 1
                behind.submit(partial(_write_failure, image, missing, writer))
            elif image is not None:
                batch.append(image)
            if len(batch) == job.batch_size or (image is None and batch):
                yield batch
                done += len(batch)
                batch = []
                show(done, len(rows), f"{failed} failed, bound by {job.meter.bottleneck()}")
            if image is None:
                return


def _compute(
    job: Job, batch: list[ReadImage], missing: Mapping[str, np.ndarray], writer: CacheWriter, behind: WriteBehind
) -> None:
    """Compute every block for one batch and submit its rows for writing, skipping rows that a block already has.

    On a GPU this only starts the work: the writing thread waits for the features while the next batch is prepared.
    """
    rows = np.array([image.row for image in batch])
    features = {}
    for name, extractor in job.extractors.items():
        wanted = np.flatnonzero(missing[name][rows])
        if len(wanted):
            with job.meter("model"):
                features[name] = rows[wanted], extractor([batch[at].inputs.pop(name) for at in wanted])
    behind.submit(partial(_write, job, batch, features, writer))


def _write(
    job: Job,
    batch: list[ReadImage],
    features: Mapping[str, tuple[np.ndarray, Features]],
    writer: CacheWriter,
) -> None:
    with job.meter("model"):
        found = {name: (rows, in_memory(values)) for name, (rows, values) in features.items()}
    with job.meter("write"):
        hashes = np.frombuffer(b"".join(image.sha256 for image in batch), "u1").reshape(len(batch), 32)
        stats = np.array([image.stat for image in batch])
        writer.put_files(np.array([image.row for image in batch]), hashes, stats, [""] * len(batch))
        for name, (rows, values) in found.items():
            writer.put(name, rows, _finite(values, job, writer.cache.blocks[name], rows))
        writer.tick()


def _finite(values: np.ndarray, job: Job, block: StoredBlock, rows: np.ndarray) -> np.ndarray:
    """The values in the stored dtype; one that is not finite ends the run before it is written."""
    with np.errstate(over="ignore"):
        stored = values.astype(block.dtype, copy=False)
    bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
    if len(bad):
        advice = "give --store float32" if np.isfinite(values).all() else "are the weights damaged?"
        image = job.table.ids[rows[bad[0]]]
        raise DrexcacheError(f"block {block.name}: {image} gives values that are not finite as {block.dtype}; {advice}")
    return stored


def _write_failure(image: ReadImage, missing: Mapping[str, np.ndarray], writer: CacheWriter) -> None:
    row = np.array([image.row])
    writer.put_files(row, np.frombuffer(image.sha256, "u1")[None], np.array([image.stat]), [image.failure])
    for name, rows in missing.items():
        if rows[image.row]:
            writer.put_failed(name, row)


# --- reading ahead ------------------------------------------------------------------------------------------


@dataclass
class ReadImage:
    """An image that has been read: its file's hash and state, and each block's input or the reason of failure."""

    row: int
    sha256: bytes = bytes(32)
    stat: tuple[int, int] = (0, 0)  # from `ImageFile.stat`; zeros if it cannot be trusted
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    failure: str = ""


def read_image(table: ImageTable, row: int, extractors: Sequence[Extractor]) -> ReadImage:
    """Read one file once: hash it, decode it, and prepare each block's input."""
    image, file = ReadImage(row), table.files[row]
    decodings = [(Decode(one.block.alpha, one.block.exif), one) for one in extractors]
    try:
        before = file.stat()
        data = file.read()
        if file.stat() == before:  # otherwise it changed while being read, and the next run reads it again
            image.stat = before
        image.sha256 = hashlib.sha256(data).digest()
        with warnings_about(table.ids[row]):
            for decode in dict(decodings):
                with decoded(data, decode) as rgb:
                    image.inputs |= {one.block.name: one.prepare(rgb) for how, one in decodings if how == decode}
                    del rgb  # a large image, before another thread decodes its own
    except UnreadableImage as error:
        image.failure = str(error)
    except OSError as error:
        image.failure = f"cannot be read ({error.strerror or error})"
    return image


def default_workers() -> int:
    """The default number of decoding threads: one per core that this process may use, at most 16."""
    return min(16, cores())


def read_ahead(
    table: ImageTable, rows: np.ndarray, extractors: Sequence[Extractor], workers: int, ahead: int
) -> Iterator[ReadImage]:
    """Yield the images of these rows in order, read by ``workers`` threads at most ``ahead`` images in advance."""
    waiting: deque[Future[ReadImage]] = deque()
    remaining = map(int, rows)
    pool = ThreadPoolExecutor(workers, "decode")
    try:
        while True:
            while len(waiting) < ahead and (row := next(remaining, None)) is not None:
                waiting.append(pool.submit(read_image, table, row, extractors))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


# --- writing behind -----------------------------------------------------------------------------------------


class WriteBehind:
    """Does jobs one after the other in a single thread; a job's exception reaches the caller, at the latest at the end.

    After a job has failed, no more are done: a later commit must not cover what a failed fsync lost. Leaving the
    ``with`` block waits for the submitted jobs, even after Ctrl-C, because they are few and short.

    >>> done = []
    >>> with WriteBehind() as behind:
    ...     for number in range(5):
    ...         behind.submit(lambda number=number: done.append(number))
    >>> done
    [0, 1, 2, 3, 4]
    """

    def __init__(self, most: int = 2) -> None:
        self._most, self._failed = most, False
        self._waiting: deque[Future[None]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=True)
        if kind is None:
            while self._waiting:
                self._waiting.popleft().result()

    def submit(self, job: Callable[[], None]) -> None:
        """Submit a job; waits while too many are pending."""
        self._waiting.append(self._pool.submit(self._do, job))
        while len(self._waiting) > self._most or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def _do(self, job: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            job()
        except BaseException:
            self._failed = True
            raise
