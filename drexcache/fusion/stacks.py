"""Training many fusion heads: which are trained in one stack, and which stacks run in parallel."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from functools import cache, partial

import numpy as np
import torch

from drexcache.cache import CachedRows
from drexcache.fusion.head import parameter_shapes
from drexcache.fusion.plan import SPAN, Design, HeadSettings
from drexcache.fusion.rows import TrainingData
from drexcache.fusion.step import has_compiled_step
from drexcache.fusion.training import TrainedHead, train_stack

STACK = 4  # heads at a time on a CPU, so that small heads share the overhead of calls
SIDE_BY_SIDE = 8  # stacks in parallel, at most: with more, threads wait for the interpreter's lock

Group = tuple[Design, Sequence[HeadSettings]]
TrainStack = Callable[[threading.Event], list[TrainedHead]]


def train_heads(
    X: np.ndarray | CachedRows,
    y: np.ndarray,
    groups: Sequence[Group],
    *,
    verbose: bool = False,
    stack: int | None = None,
) -> list[list[TrainedHead]]:
    """Train the heads of every group on X (n, d) and y (n,), ``stack`` of them at a time (None: chosen here).

    X : features, or rows streamed during training; heads on streamed rows train one at a time, each in its own
    order. A head's result equals that of training it alone, to
    floating-point tolerance.
    """
    streamed = isinstance(X, CachedRows)
    devices = {design.device for design, _ in groups}
    data = {device: _training_data(X, y, device) for device in devices}
    compiled = all(map(has_compiled_step, devices))
    if "cpu" in devices and not compiled:
        _warn_of_slow_steps()
    with undivided_operations() if compiled else nullcontext(1) as threads:
        side_by_side = 1 if streamed else min(threads, SIDE_BY_SIDE)
        stacks = [
            (owner, design, heads[start : start + size])
            for owner, (design, heads) in enumerate(groups)
            for size in [stack or (1 if streamed else heads_that_fit(design, X.shape[1], len(heads), side_by_side))]
            for start in range(0, len(heads), size)
        ]
        side_by_side = min(side_by_side, len(stacks))
        work = [
            partial(train_stack, data[design.device], heads, design, threads // side_by_side, verbose=verbose)
            for _, design, heads in stacks
        ]
        parts = _run(work, [_cost(design, heads, len(y)) for _, design, heads in stacks], side_by_side)
    trained: list[list[TrainedHead]] = [[] for _ in groups]
    for (owner, *_), part in zip(stacks, parts, strict=True):
        trained[owner] += part
    return trained


def _training_data(X: np.ndarray | CachedRows, y: np.ndarray, device: str) -> TrainingData:
    return TrainingData(
        X if isinstance(X, CachedRows) else torch.from_numpy(np.require(X, np.float32, ["C", "W"])).to(device),
        torch.from_numpy(np.require(y, np.float32, ["C", "W"])).to(device),
    )


@cache
def _warn_of_slow_steps() -> None:
    warnings.warn(
        "drexcache.fusion.kernel.fusion_cpu is missing (no C compiler was found when drexcache was installed): fusion "
        "heads train with torch's operations, which are slower; install gcc or clang, then drexcache again",
        RuntimeWarning,
        stacklevel=3,
    )


@contextmanager
def undivided_operations() -> Iterator[int]:
    """A context in which each torch operation uses one thread; yields the number of threads that steps may share.

    The operations left to torch take microseconds, less than waking a second thread.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def _run(work: Sequence[TrainStack], costs: Sequence[float], side_by_side: int) -> list[list[TrainedHead]]:
    """Run all work, costly stacks first, and return the results in order; if one fails or on Ctrl-C, all stop."""
    stop = threading.Event()
    if side_by_side == 1:
        return [job(stop) for job in work]
    with ThreadPoolExecutor(side_by_side) as pool:
        futures = {i: pool.submit(work[i], stop) for i in sorted(range(len(work)), key=lambda i: -costs[i])}
        try:
            for ended in wait(futures.values(), return_when=FIRST_EXCEPTION).done:
                ended.result()  # raises if this is the one that failed
            return [futures[i].result() for i in range(len(work))]
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def heads_that_fit(design: Design, d: int, heads: int, side_by_side: int) -> int:
    """The number of heads to train in one stack: as many as fit in free GPU memory, or a few on a CPU.

    With torch's operations on a CPU it is one, because several would evict each other from its cache.
    """
    size, kind = _parameters(design), torch.device(design.device).type
    if kind != "cuda":
        return 1 if kind == "cpu" and not has_compiled_step("cpu") else min(STACK, math.ceil(heads / side_by_side))
    floats = 8 * size  # parameters, gradient, m, v, ema, and room for temporaries
    floats += design.batch_size * (8 * d + 4 * 224 * SPAN + 40 * design.width * len(design.arms))
    free, _ = torch.cuda.mem_get_info(design.device)
    return max(1, int(0.8 * free / (4 * floats)))


def _cost(design: Design, heads: Sequence[HeadSettings], n: int) -> float:
    """The relative cost of training a stack: steps times parameters."""
    rows = [n if head.rows is None else len(head.rows) for head in heads]
    steps = sum(head.epochs * count / design.batch_size for head, count in zip(heads, rows, strict=True))
    return steps * _parameters(design)


def _parameters(design: Design) -> int:
    return sum(math.prod(shape) for shape in parameter_shapes(design.dims, design.width).values())
