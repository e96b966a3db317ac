"""Backbones converted to OpenVINO's format: converting, checking, storing and running them.

A stored file is named after everything that affects it: the file of weights, the block's definition and the versions of
the packages that trace and convert it. Its first line is JSON with a checksum of the rest, so that a truncated or
damaged file is not used.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drexcache.devices import cores
from drexcache.features.pixels import normalise
from drexcache.files import write_file
from drexcache.recipes import NUMERICS, Block, fingerprint_of

if TYPE_CHECKING:
    from drexcache.features.backbone import Backbone

OLDEST = (2026, 4)  # supported version of OpenVINO
AGREES = 1e-4  # largest difference between converted backbone and torch on noise, as a share of the largest feature
CONVERSION = 2  # raised when a graph is made differently: those kept by earlier code, with other input, are not read
PACKAGES = ("drexcache", "openvino", "timm", "torch")


def why_not(precision: str) -> str:
    """Why OpenVINO cannot compute in this precision here, or ""."""
    try:
        found = version("openvino")
        if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
            return f"OpenVINO {found} is older than {OLDEST[0]}.{OLDEST[1]}; run: pip install -U 'drexcache[openvino]'"
        able = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except (PackageNotFoundError, ImportError):
        return "OpenVINO is not installed; run: pip install 'drexcache[openvino]'"
    except Exception as error:  # a damaged installation, or an unsupported processor
        return f"OpenVINO does not run here ({error})"
    if platform.machine() in ("x86_64", "AMD64") and not has_avx2():
        return "this processor has no AVX2, without which OpenVINO was never tried"
    return "" if precision == "fp32" or "BF16" in able else "this processor has no arithmetic for bf16"


def has_avx2() -> bool:
    """Whether this processor has AVX2, by what NumPy found; its name for a group of extensions with it is X86_V3."""
    found: Any = np.show_config(mode="dicts")
    extensions = found["SIMD Extensions"]
    return bool({"AVX2", "X86_V3"} & {*extensions["baseline"], *extensions["found"]})


def threads() -> int:
    """The number of threads to compute with: OMP_NUM_THREADS, as for torch, or one per core."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else cores()


@lru_cache(maxsize=1)
def library() -> Any:
    """The module openvino, imported without its telemetry package."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@lru_cache(maxsize=1)
def core() -> Any:
    """OpenVINO's Core object, created once."""
    return library().Core()


def convert(backbone: Backbone) -> Any:
    """Trace the model with its taps, from normalised pixels float32 (B, 3, H, W) to features.

    Normalisation stays outside, because folding it into the first layer's weights cost a decimal of precision.
    """
    import torch

    pixels = torch.zeros(1, 3, *backbone.block.pixels)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's, about constants: what is traced is checked below, once
        traced = torch.jit.trace(backbone.tapped, pixels, check_trace=False)
        model = library().convert_model(traced, example_input=pixels)
    model.reshape([-1, 3, *backbone.block.pixels])
    return model


def refuse_other_numbers(model: Any, backbone: Backbone) -> None:
    """Raise ValueError unless model and backbone agree, up to rounding, on two images of noise."""
    import torch

    noise = torch.randn(2, 3, *backbone.block.pixels, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = backbone.tapped(noise).numpy()
    found = Runner(model, Way(2, "LATENCY"), "fp32")(list(noise.numpy()))
    error = float(np.abs(found - expected).max() / (np.abs(expected).max() + 1e-12))
    if not error <= AGREES:  # NaN is refused, too
        raise ValueError(f"its features differ from torch's by {error:.1g} of the largest")


@dataclass(frozen=True)
class Way:
    """One way to run a model: the images per call, and OpenVINO's hint.

    "LATENCY" uses all cores for one call, "THROUGHPUT" runs several calls in parallel.
    """

    images: int
    hint: str

    def __str__(self) -> str:
        return f"{self.images} at a time{' side by side' if self.hint == 'THROUGHPUT' else ''}"


class Runner:
    """A model compiled for one way of running it. Its threads sleep while waiting and are not pinned to cores.

    mean, std : of each channel; images are normalised as they are handed over, while those before are computed.
    """

    def __init__(
        self, model: Any, way: Way, precision: str, mean: Sequence[float] = (0, 0, 0), std: Sequence[float] = (1, 1, 1)
    ) -> None:
        self._images, self._mean, self._std = way.images, mean, std
        fixed = model.clone()
        fixed.reshape([way.images, *(side.get_length() for side in list(model.input(0).partial_shape)[1:])])
        options = {
            "PERFORMANCE_HINT": way.hint,
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": threads(),
            "ENABLE_CPU_PINNING": False,  # otherwise several processes, such as Ray's, would share the same cores
        }
        compiled = core().compile_model(fixed, "CPU", options)
        self._dim = compiled.output(0).shape[1]
        self._queue = library().AsyncInferQueue(compiled)
        self._queue.set_callback(self._store)

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Features float32 (B, d) of B images' pixels (3, H, W)."""
        found = np.empty((len(images), self._dim), np.float32)
        for start in range(0, len(images), self._images):
            part = normalise(np.stack(images[start : start + self._images]), self._mean, self._std)
            if len(part) < self._images:  # filled up with zeros, whose features are dropped
                part = np.concatenate([part, np.zeros_like(part[:1]).repeat(self._images - len(part), axis=0)])
            self._queue.start_async({0: part}, found[start : start + self._images])
        self._queue.wait_all()
        return found

    @staticmethod
    def _store(request: Any, into: np.ndarray) -> None:
        into[:] = request.get_output_tensor(0).data[: len(into)]


# --- kept on the disk ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """A converted model as stored on the disk, with the metadata of its backbone."""

    dims: tuple[int, ...]
    weights_sha256: str
    weights_source: str
    graph: bytes  # OpenVINO's XML
    constants: np.ndarray

    def model(self) -> Any:
        """The OpenVINO model."""
        return core().read_model(self.graph, library().Tensor(self.constants))  # which copies them


def kept_path(block: Block, weights_file: str) -> Path:
    """The file of the block's converted model, in drexcache/openvino under $XDG_CACHE_HOME or ~/.cache."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drexcache" / "openvino"
    changed_by = {key: value for key, value in block.spec().items() if key not in ("precision", "alpha", "exif")}
    versions = {package: version(package) for package in PACKAGES}
    key = fingerprint_of(
        {"block": changed_by, "weights": weights_file, "numerics": NUMERICS, "conversion": CONVERSION, **versions}
    )
    return folder / f"{block.backbone}-{key[:32]}.model"


def write_kept(path: Path, model: Any, backbone: Backbone) -> None:
    """Store the model, completely or not at all.

    Raises
    ------
    DrexcacheError : the file cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.xml"
        library().save_model(model, graph, compress_to_fp16=False)
        parts = graph.read_bytes(), graph.with_suffix(".bin").read_bytes()
    about = {
        "dims": backbone.dims, "weights_sha256": backbone.weights_sha256, "weights_source": backbone.weights_source,
        "graph_bytes": len(parts[0]), "sha256": hashlib.sha256(b"".join(parts)).hexdigest(),
    }  # fmt: skip
    write_file(path, b"\n".join([json.dumps(about).encode(), b"".join(parts)]))


def read_kept(path: Path) -> Kept | None:
    """Read what `write_kept` wrote; None if the file is missing or damaged."""
    try:
        with path.open("rb") as file:
            about = json.loads(file.readline())
            graph, constants = file.read(about["graph_bytes"]), np.fromfile(file, np.uint8)
        found = hashlib.sha256(graph)
        found.update(constants.data)
        if found.hexdigest() != about["sha256"]:
            return None
        return Kept(tuple(about["dims"]), about["weights_sha256"], about["weights_source"], graph, constants)
    except (OSError, ValueError, KeyError, TypeError):
        return None
