"""Loading the extractors of a recipe, with their weights and device; and `extract`, which runs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from drexcache.datasets import ImageTable
from drexcache.devices import resolve_device
from drexcache.errors import DrexcacheError
from drexcache.features.converted import why_not
from drexcache.features.engines import COMPILE, Engines, keep_freed_memory
from drexcache.features.extraction import Summary, fill_cache
from drexcache.features.models import build_model, with_own_normalisation
from drexcache.features.openvino import OpenVinoBackbone
from drexcache.features.pipeline import BATCH, Extractor
from drexcache.features.sources import check_weights, hash_of_file, licence_notice
from drexcache.recipes import IMPORTED, Block, Recipe

if TYPE_CHECKING:
    from drexcache.features.backbone import Backbone

CPU_ENGINES = ("auto", "torch", "openvino")


def _stderr(line: str) -> None:
    print(line, file=sys.stderr)


def extract(
    table: ImageTable, recipe: Recipe, out: str | Path, *, weights: str | None = None, device: str = "auto",
    batch_size: int | None = None, workers: int | None = None, store: str = "float32", compile: str = "auto",
    engine_cpu: str = "auto", prune: bool = False, also: Sequence[str | Path] = (), rehash: bool = False,
    backbones: Mapping[str, Extractor] | None = None, say: Callable[[str], None] = _stderr,
) -> Summary:  # fmt: skip
    """Fill the cache ``out`` with the recipe's features of every image in the table.

    Rows that the cache, or an interrupted run, already has are kept: only missing or changed images and missing blocks
    are computed. An image that cannot be read becomes a row marked as failed, which the next run tries again.

    Parameters
    ----------
    weights : "hub", "packaged", "random" (for tests) or a path; default: the recipe's.
    device : "auto" (CUDA, then MPS, then CPU) or a torch device.
    batch_size, workers : images per forward pass (default: 8 on a CPU, 64 on a GPU); decoding threads (default: one
        per core, at most 16).
    store : "float32" or "float16", the dtype on disk.
    compile : compile the backbones on CUDA "always", "never", or, with "auto", for 20,000 images and more.
    engine_cpu : the engine on a CPU: "torch", "openvino", or "auto", which follows the environment variable
        DREXCACHE_ENGINE_CPU or else uses OpenVINO if it is installed.
    prune : drop rows whose image is no longer in the table; without it they are an error.
    also : other caches, such as shards, whose rows are copied if image, recipe and weights agree.
    rehash : read every file again, even if its size, times and inode are unchanged.
    backbones : reuse what `load_extractors` returned for the same recipe, weights, device and batch size.
    say : called with a line for everything that a user should know.

    Raises
    ------
    DrexcacheError : unreachable weights, another recipe under the same block name, removed images, a cache that another
        process is writing, or no space. Committed rows are kept.
    """
    if not isinstance(table, ImageTable) or not isinstance(recipe, Recipe):
        found = f"{type(table).__name__} and {type(recipe).__name__}"
        raise DrexcacheError(f"extract takes what read_images(...) and recipe(...) give, not {found}")
    if compile not in COMPILE:
        raise DrexcacheError(f"compile is one of {', '.join(COMPILE)}, not {compile!r}")
    if engine_cpu not in CPU_ENGINES:
        raise DrexcacheError(f"engine_cpu is one of {', '.join(CPU_ENGINES)}, not {engine_cpu!r}")
    where, source = resolve_device(device), weights or recipe.weights
    if backbones is None:
        check_reach(recipe.blocks, source)

    def load(known: frozenset[str]) -> Mapping[str, Extractor]:
        if backbones is not None:
            return backbones
        return load_extractors(
            recipe.blocks, source, where, say, known=known, batch=batch_size, compile=compile, engine_cpu=engine_cpu
        )

    return fill_cache(
        table, load, Path(out), batch_size=batch_size, workers=workers, store=store, prune=prune, also=also,
        rehash=rehash, say=say,
    )  # fmt: skip


Sources = str | Mapping[str, str]  # where weights come from: one source for all blocks, or by the block's name


def check_reach(blocks: Sequence[Block], sources: Sources) -> None:
    """Raise DrexcacheError if any block's weights are out of reach, before the first are loaded."""
    for block in blocks:
        if block.backbone == IMPORTED:
            raise DrexcacheError(
                f"block {block.name} holds imported features ({block.tag or 'without a note'}), which drexcache cannot "
                "compute from images: it predicts from caches only; bring in the features of these images with "
                "drexcache cache import and the same --note, and predict that cache"
            )
        if not block.is_classic:
            check_weights(block.backbone, block.tag, _source_of(block, sources))


def _source_of(block: Block, sources: Sources) -> str:
    return sources if isinstance(sources, str) else sources[block.name]


def load_extractors(
    blocks: Sequence[Block], sources: Sources, device: str, say: Callable[[str], None], *,
    known: frozenset[str] = frozenset(), batch: int | None = None, compile: str = "auto", engine_cpu: str = "auto",
    keep: bool = True,
) -> dict[str, Extractor]:  # fmt: skip
    """Block name -> its extractor. Reports the weights and, for blocks that are not ``known``, their licence.

    keep : whether to store models converted for OpenVINO on the disk.
    """
    if device == "cpu":
        keep_freed_memory()
    found: dict[str, Extractor] = {}
    for given in blocks:
        if given.is_classic:
            from drexcache.features.cues import Cues  # imports SciPy, which a backbone does not need

            found[given.name] = Cues(given)
            continue
        block, source = with_own_normalisation(given), _source_of(given, sources)
        if block != given:
            say(f"block {block.name}: mean {block.mean}, std {block.std}, as timm configures {block.backbone}")
        notice = licence_notice(block.backbone, block.tag)
        if notice and source != "random" and block.name not in known:
            say(notice)
        backbone = (
            _on_openvino(block, source, engine_cpu, batch=batch, say=say, keep=keep) if device == "cpu" else None
        ) or load_backbone(block, source, device, batch=batch, compile=compile, say=say)
        say(f"block {block.name}: {block.backbone} with weights from {backbone.weights_source}")
        if block.precision == "bf16" and backbone.mode == "eager" and bf16_is_slow(device):
            say(f"block {block.name}: bf16 IS SLOW HERE, this processor has no arithmetic for it; fp32 is faster")
        if source == "random":
            say(f"block {block.name}: RANDOM WEIGHTS, the features mean nothing; this is for tests only")
        found[block.name] = backbone
    say(f"device: {device}" + (f" ({_name_of(device)})" if device.startswith("cuda") else ""))
    return found


def _name_of(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device)


def bf16_is_slow(device: str) -> bool:
    """Whether bf16 is emulated, and so much slower than fp32, as on a CPU without AVX-512 or similar."""
    import torch

    return device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def load_backbone(
    block: Block, source: str, device: str, *, batch: int | None = None, compile: str = "auto",
    say: Callable[[str], None] = _stderr,
) -> Backbone:  # fmt: skip
    """One block's backbone with its weights on the device; raises as `load_weights` and `Backbone` do."""
    import torch

    from drexcache.features.backbone import Backbone
    from drexcache.features.weights import load_weights

    block = with_own_normalisation(block)
    model = build_model(block)
    weights = load_weights(model, block.backbone, block.tag, source)
    return Backbone(
        block, model, torch.device(device), weights_sha256=weights.sha256, weights_source=weights.source, batch=batch,
        choose_engine=Engines(compile), say=say,
    )  # fmt: skip


def _on_openvino(
    block: Block, source: str, engine_cpu: str, *, batch: int | None, say: Callable[[str], None], keep: bool
) -> OpenVinoBackbone | None:
    """The block's backbone on OpenVINO, or None if torch should run it.

    Raises
    ------
    DrexcacheError : OpenVINO was requested but cannot be used.
    """
    engine = os.environ.get("DREXCACHE_ENGINE_CPU", "auto") if engine_cpu == "auto" else engine_cpu
    if engine == "torch":
        return None
    if reason := why_not(block.precision):
        if engine == "openvino":
            raise DrexcacheError(f"block {block.name}: {reason}; or give --engine-cpu torch")
        if "not installed" not in reason:
            say(f"block {block.name}: torch, for {reason}")
        return None

    def load(wanted: Block) -> Backbone:
        return load_backbone(wanted, source, "cpu", batch=batch, say=say)

    weights_file = hash_of_file(block.backbone, block.tag, source)
    return OpenVinoBackbone(
        block, weights_file, load, batch=batch or BATCH["cpu"], say=say, forced=engine == "openvino", keep=keep
    )
