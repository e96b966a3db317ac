"""The extraction engine: decoding threads, the models, and a writing thread, none of which waits for another's turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from drexcache.cache import CacheWriter, StoredBlock
from drexcache.datasets import ImageTable
from drexcache.errors import DrexcacheError
from drexcache.features.backbone import Backbone
from drexcache.features.meter import Meter
from drexcache.features.reading import ReadImage, read_ahead
from drexcache.features.transfer import Transfer
from drexcache.features.write_behind import WriteBehind
from drexcache.recipes import Block

BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


@dataclass(frozen=True)
class Job:
    """What one run computes and how: ``blocks`` are the recipe's, ``workers`` the decoding threads."""

    table: ImageTable
    blocks: Sequence[Block]
    backbones: Mapping[str, Backbone]
    batch_size: int
    workers: int
    device: torch.device
    say: Callable[[str], None]
    meter: Meter


def compute_rows(job: Job, writer: CacheWriter) -> int:
    """Compute and write every row that the writer lacks, with a progress bar; the number of images."""
    missing = {block.name: ~writer.done(block.name) for block in job.blocks}
    rows = np.flatnonzero(np.any(list(missing.values()), axis=0))
    job = replace(job, blocks=[block for block in job.blocks if missing[block.name].any()])
    transfer = Transfer(job.device)
    job.meter.start()
    with WriteBehind() as behind:
        for batch in _batches(job, rows, missing, writer, behind):
            _compute(job, batch, missing, transfer, writer, behind)
    job.meter.stop()
    return len(rows)


def _batches(
    job: Job, rows: np.ndarray, missing: Mapping[str, np.ndarray], writer: CacheWriter, behind: WriteBehind
) -> Iterator[list[ReadImage]]:
    """Readable images in batches, with a progress bar; unreadable ones are written down as failed."""
    images = read_ahead(job.table.files, rows, job.blocks, job.workers, 2 * job.batch_size + job.workers)
    batch: list[ReadImage] = []
    failed = 0
    with tqdm(total=len(rows), unit="image", desc="extract", disable=None, dynamic_ncols=True, bar_format=BAR) as bar:
        while True:
            with job.meter("decode"):
                image = next(images, None)
            if image is not None and image.failure:
                failed += 1
                behind.submit(partial(_write_failure, image, missing, writer))
                bar.update()
            elif image is not None:
                batch.append(image)
            if len(batch) == job.batch_size or (image is None and batch):
                yield batch
                bar.set_postfix_str(f"{failed} failed, bound by {job.meter.bottleneck()}", refresh=False)
                bar.update(len(batch))
                batch = []
            if image is None:
                return


def _compute(
    job: Job, batch: list[ReadImage], missing: Mapping[str, np.ndarray], transfer: Transfer, writer: CacheWriter,
    behind: WriteBehind,
) -> None:  # fmt: skip
    """Run every block over one batch and have its rows written; a block leaves rows alone that it already has.

    A GPU is only given its work here: the writing thread waits for the features, while the next batch is prepared.
    """
    rows = np.array([image.row for image in batch])
    features = {}
    for block in job.blocks:
        wanted = np.flatnonzero(missing[block.name][rows])
        if len(wanted):
            with job.meter("model"):
                inputs = [batch[at].inputs.pop(block.name) for at in wanted]
                found = torch.stack(inputs) if block.is_classic else job.backbones[block.name](transfer(inputs))
            features[block.name] = rows[wanted], found
    behind.submit(partial(_write, job, batch, features, writer))


def _write(
    job: Job, batch: list[ReadImage], features: Mapping[str, tuple[np.ndarray, torch.Tensor]], writer: CacheWriter
) -> None:
    with job.meter("model"):
        found = {name: (rows, values.cpu().numpy()) for name, (rows, values) in features.items()}
    with job.meter("write"):
        hashes = np.frombuffer(b"".join(image.sha256 for image in batch), "u1").reshape(len(batch), 32)
        stats = np.array([image.stat for image in batch])
        writer.put_files(np.array([image.row for image in batch]), hashes, stats, [""] * len(batch))
        for name, (rows, values) in found.items():
            writer.put(name, rows, _finite(values, job, writer.cache.blocks[name], rows))
        writer.tick()


def _finite(values: np.ndarray, job: Job, block: StoredBlock, rows: np.ndarray) -> np.ndarray:
    """The values as they are stored; an infinite or undefined one ends the run, before it gets into a table."""
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
