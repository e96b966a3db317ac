"""Reading and decoding images ahead of the models, in threads, in order, with bounded memory."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from drexcache.datasets import ImageFile
from drexcache.features.cues import classic_cues
from drexcache.features.pixels import Decode, UnreadableImage, decode_rgb, to_pixels
from drexcache.recipes import Block


@dataclass
class ReadImage:
    """One image on its way: what its file is, and per block its pixels (or cues), or why it could not be read."""

    row: int
    sha256: bytes = bytes(32)
    stat: tuple[int, int] = (0, 0)  # size in bytes, mtime in ns
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    failure: str = ""


def read_image(file: ImageFile, row: int, blocks: Sequence[Block]) -> ReadImage:
    """Hash and decode one file once, and make each block's input from it."""
    image = ReadImage(row)
    try:
        data = file.read()
        image.stat = file.stat()
        image.sha256 = hashlib.sha256(data).digest()
        for decode in {Decode(block.alpha, block.exif) for block in blocks}:
            rgb = decode_rgb(data, decode)
            for block in blocks:
                if Decode(block.alpha, block.exif) != decode:
                    continue
                if block.is_classic:
                    cues = classic_cues(np.asarray(rgb), [tap.layer for tap in block.taps])
                    image.inputs[block.name] = torch.from_numpy(cues)
                else:
                    image.inputs[block.name] = to_pixels(rgb, block.size, block.resize)
    except UnreadableImage as error:
        image.failure = str(error)
    except OSError as error:
        image.failure = f"cannot be read ({error.strerror or error})"
    return image


def default_workers() -> int:
    """Decoding threads: one for each core that this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores)


def read_ahead(
    files: Sequence[ImageFile], rows: np.ndarray, blocks: Sequence[Block], workers: int, ahead: int
) -> Iterator[ReadImage]:
    """The images of these rows, in order, read by ``workers`` threads at most ``ahead`` images before the consumer."""
    waiting: deque[Future[ReadImage]] = deque()
    remaining = map(int, rows)
    # Each thread resizes by itself: a team of torch's threads for each would be cores squared, in the models' way.
    pool = ThreadPoolExecutor(workers, "decode", initializer=torch.set_num_threads, initargs=(1,))
    try:
        while True:
            while len(waiting) < ahead and (row := next(remaining, None)) is not None:
                waiting.append(pool.submit(read_image, files[row], row, blocks))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        torch.set_num_threads(torch.get_num_threads())  # this thread's own number, again for threads to come
