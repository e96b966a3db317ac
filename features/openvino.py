"""Running backbones with OpenVINO on a CPU: converted once, with torch's results, in the way that is fastest here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from drexcache.errors import DrexcacheError
from drexcache.features.converted import (
    Runner,
    Way,
    convert,
    kept_path,
    read_kept,
    refuse_other_numbers,
    threads,
    write_kept,
)
from drexcache.features.fitting import to_size
from drexcache.files import write_file
from drexcache.recipes import Block

if TYPE_CHECKING:
    import torch

    from drexcache.features.backbone import Backbone

TIMINGS = 2  # times that each way of running is timed; the best counts


class OpenVinoBackbone:
    """One block's frozen model, run by OpenVINO; an `Extractor` of the pipeline.

    weights_file : the hash of the file of weights, or a phrase that identifies them.
    load : returns a block's torch backbone, needed if no converted model is on the disk.
    forced : whether a backbone that cannot be converted is an error, rather than run by torch.
    keep : whether to write the converted model to the disk.
    """

    where, mode = "cpu", "openvino"

    def __init__(
        self, block: Block, weights_file: str, load: Callable[[Block], Backbone], *, batch: int,
        say: Callable[[str], None], forced: bool = False, keep: bool = True,
    ) -> None:  # fmt: skip
        self.block, self.batch, self.say = block, batch, say
        self._load, self._forced, self._keep = load, forced, keep
        self._path = kept_path(block, weights_file)
        self._kept = read_kept(self._path)
        self._torch = None if self._kept else load(replace(block, precision="fp32"))
        known: Any = self._kept or self._torch
        self.dims, self.weights_sha256, self.weights_source = known.dims, known.weights_sha256, known.weights_source
        self._model: Any = None
        self._runners: dict[Way, Runner] = {}
        self._tuner: Tuner | None = None

    def get_ready(self, images: int) -> None:
        """Read or convert the model at the first call with a number of images above 0.

        Raises
        ------
        DrexcacheError : OpenVINO is forced but cannot run the backbone.
        """
        if not images or self._tuner or self.mode == "eager":
            return
        started, name = time.monotonic(), self.block.name
        try:
            self._model = self._kept.model() if self._kept else self._converted()
        except Exception as error:  # whatever the converter fails on, torch's model works
            self._give_up((str(error).strip().splitlines() or [type(error).__name__])[0])
            return
        how = "read from the disk" if self._kept else "converted"
        self.say(f"block {name}: OpenVINO {version('openvino')}, {how} in {time.monotonic() - started:.1f} s")
        self._kept = self._torch = None
        way = self._path.with_suffix(f".{self.block.precision}-{self.batch}-{threads()}.json")
        self._tuner = Tuner(ways(images, self.batch), self.batch, way, remember=images >= self.batch)

    def prepare(self, rgb: Image.Image) -> np.ndarray:
        """The image's pixels (3, H, W) as the block wants them, uint8 or float on [0, 1]."""
        return to_size(rgb, self.block)

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray | torch.Tensor:
        """Features float32 (B, d) of B images' pixels (3, H, W)."""
        self.get_ready(len(images))
        if self._tuner is None:
            assert self._torch is not None
            return self._torch(images)
        way = self._tuner.next_way()
        if way not in self._runners:
            self._runners[way] = self._runner(way)
            if len(self._tuner.ways) > 1:
                self._runners[way](images[: way.images])  # the first run sets up the model's memory
        started = time.perf_counter()
        features = self._runners[way](images)
        if self._tuner.note(way, len(images), time.perf_counter() - started):
            self.say(f"block {self.block.name}: {self._tuner.verdict()}")
            self._runners = {self._tuner.ways[0]: self._runners[self._tuner.ways[0]]}
        return features

    def _runner(self, way: Way) -> Runner:
        mean, std = self.block.mean, self.block.std
        assert mean is not None and std is not None
        return Runner(self._model, way, self.block.precision, mean, std)

    def _converted(self) -> Any:
        assert self._torch is not None
        model = convert(self._torch)
        refuse_other_numbers(model, self._torch)
        if self._keep:
            try:
                write_kept(self._path, model, self._torch)
            except DrexcacheError as error:
                self.say(f"block {self.block.name}: the converted model is not kept ({error})")
        return model

    def _give_up(self, reason: str) -> None:
        """Continue with torch and say so, or raise if OpenVINO is forced."""
        name, backbone = self.block.name, self.block.backbone
        if self._forced:
            raise DrexcacheError(f"block {name}: OpenVINO cannot run {backbone} ({reason}); give --engine-cpu torch")
        self.say(f"block {name}: TORCH, for OpenVINO cannot run {backbone} ({reason})")
        self.mode = "eager"
        if self._torch is None or self._torch.block != self.block:
            self._torch = self._load(self.block)


def ways(images: int, batch: int) -> list[Way]:
    """The ways worth timing for so many images; a single one if there are too few images to compare."""
    alone, together = Way(1, "LATENCY"), Way(batch, "LATENCY")
    apart, halves = Way(1, "THROUGHPUT"), Way(max(1, batch // 2), "THROUGHPUT")
    found = [alone, together] if threads() == 1 else [alone, together, apart, halves]
    found = list(dict.fromkeys(found))
    return found if images >= 2 * TIMINGS * len(found) * batch else found[:1]


class Tuner:
    """Times the ways in turn on the first real batches; once the fastest is known, ``ways`` holds only that one.

    path : the file that stores the fastest way; if it exists, nothing is timed.
    remember : whether to read it. The fastest way for many images would fill up a single one to several.
    """

    def __init__(self, candidates: Sequence[Way], batch: int, path: Path, *, remember: bool = True) -> None:
        self.ways, self._batch, self._path = list(candidates), batch, path
        self._seconds: dict[Way, list[float]] = {way: [] for way in self.ways}
        with suppress(OSError, ValueError, TypeError):  # nothing stored yet
            self.ways = [Way(**json.loads(path.read_text()))] if remember else self.ways

    def next_way(self) -> Way:
        """The way to run the next batch."""
        return min(self.ways, key=lambda way: len(self._seconds.get(way, ())))

    def note(self, way: Way, images: int, seconds: float) -> bool:
        """Record a time; returns whether the fastest way has just become known."""
        if len(self.ways) == 1 or images != self._batch:
            return False
        self._seconds[way].append(seconds / images)
        if min(map(len, self._seconds.values())) < TIMINGS:
            return False
        self.ways = [min(self.ways, key=lambda one: min(self._seconds[one]))]
        write_file(self._path, json.dumps(asdict(self.ways[0])))
        return True

    def verdict(self) -> str:
        """The fastest way and how far behind the others are, as text."""
        best = {way: min(seconds) * 1000 for way, seconds in self._seconds.items()}
        others = ", ".join(f"{best[way]:.0f}" for way in best if way != self.ways[0])
        return f"runs images {self.ways[0]}, {best[self.ways[0]]:.0f} ms each (other ways {others} ms)"
