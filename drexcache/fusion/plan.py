"""The plan of a training, fixed before it starts: each head's settings, batches, rates and random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from drexcache.fusion.head import HIDDEN, init_head

SPAN = 64  # steps for which dropout masks are drawn at a time
BETA2, EPS = 0.999, 1e-8  # torch.optim.AdamW's defaults
CHUNK, WINDOW = 512, 8192  # rows that a local shuffle moves together, and rows that it mixes


@dataclass(frozen=True)
class HeadSettings:
    """The training settings of one head; the defaults are the paper's.

    ``rows``: its rows of X (None: all). ``validation``: rows for early stopping after ``patience`` epochs without a
    lower loss.
    """

    lr: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.1
    epochs: int = 10
    clip: float | None = 1.0
    ema: float = 0.999
    ema_horizon: float | None = None
    standardize: bool = False
    offset: float = 0.0
    arm_dropout: float = 0.0
    seed: int = 42
    rows: np.ndarray | None = None
    validation: np.ndarray | None = None
    patience: int = 0


@dataclass(frozen=True)
class Design:
    """What the heads of one stack have in common. ``arms``: (start, stop) of each arm's columns of X.

    ``local_shuffle``: whether an epoch's order is a `local_permutation`.
    """

    arms: tuple[tuple[int, int], ...]
    width: int = 384
    batch_size: int = 16
    fixed_average: bool = False
    device: str = "cpu"
    local_shuffle: bool = False

    @property
    def columns(self) -> list[slice]:
        return [slice(start, stop) for start, stop in self.arms]

    @property
    def dims(self) -> list[int]:
        return [stop - start for start, stop in self.arms]


@dataclass(frozen=True)
class Plan:
    """Everything K heads need at step t of T, drawn in advance; a head that has finished has lr and ema_rate 0.

    index (T, K, B): rows of X; weight (T, K, B): 1 / (rows in the batch), 0 where a short batch is padded;
    kept (T, K, B, n_arms): 0 where an arm is left out of a row; None if none ever is.
    lr, beta1, ema_rate (T, K); init (K, P): initial parameters; steps (K, 2): in total and per epoch.
    """

    index: Tensor
    weight: Tensor
    kept: Tensor | None
    lr: np.ndarray
    beta1: np.ndarray
    ema_rate: np.ndarray
    init: Tensor
    steps: np.ndarray
    generators: list[torch.Generator]
    dropout: list[float]

    def draw_masks(self) -> Tensor:
        """Dropout factors, 0 or 1 / (1 - rate), for the next SPAN steps: (SPAN, K, B, 128 + 64 + 32)."""
        shape = (SPAN, self.index.shape[2], sum(HIDDEN))
        masks = []
        for generator, rate in zip(self.generators, self.dropout, strict=True):
            kept = torch.rand(shape, generator=generator, device=generator.device) >= rate
            masks.append(kept / (1 - rate))
        return torch.stack(masks, dim=1)


def one_cycle(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """``torch.optim.lr_scheduler.OneCycleLR`` with its defaults: (steps,) factors of max_lr, and (steps,) beta1.

    >>> factor, beta1 = one_cycle(100)
    >>> [round(float(f), 4) for f in (factor[0], factor[29], factor[99], beta1[0], beta1[29])]
    [0.04, 1.0, 0.0, 0.95, 0.85]
    """
    top = 0.3 * steps - 1  # the step of the highest rate
    step = np.arange(steps)
    rising = step <= top
    progress = np.where(rising, step / top, (step - top) / (steps - 1 - top))
    fall = (1 + np.cos(np.pi * progress)) / 2  # 1 -> 0 along half a cosine
    factor = np.where(rising, 1 + (1 / 25 - 1) * fall, 1 / 25e4 + (1 - 1 / 25e4) * fall)
    beta1 = np.where(rising, 0.85 + 0.10 * fall, 0.95 - 0.10 * fall)
    return factor, beta1


def step_rates(heads: Sequence[HeadSettings], plan: Plan) -> np.ndarray:
    """Each step's rates, (T, K, 5), with AdamW's bias corrections folded in: keep, rate, m_rate, eps, ema_rate.

    m += m_rate (g - m); v += (1 - BETA2) (g^2 - v); p = keep p - rate m / (sqrt(v) + eps); ema += ema_rate (p - ema).
    """
    steps = np.arange(1, len(plan.lr) + 1)[:, None]
    correction = np.sqrt(1 - BETA2**steps)  # multiplies rate and eps instead of dividing sqrt(v)
    keep = 1 - plan.lr * np.array([head.weight_decay for head in heads])
    rate = plan.lr * correction / (1 - plan.beta1**steps)
    eps = np.broadcast_to(EPS * correction, rate.shape)
    return np.stack([keep, rate, 1 - plan.beta1, eps, plan.ema_rate], axis=2).astype(np.float32)


def local_permutation(n: int, generator: torch.Generator) -> Tensor:
    """The rows 0 to n - 1 in an order (n,) that can be read in large pieces; a plain shuffle for up to WINDOW rows.

    Chunks of CHUNK consecutive rows are put in random order, and rows are then mixed within each WINDOW. The chunks
    start at a random row, so that they differ between epochs; row 0 follows row n - 1.

    >>> order = local_permutation(20_000, torch.Generator().manual_seed(0))
    >>> len(set(order.tolist())), len(set((order[:8192] // 512).tolist())) < 34
    (20000, True)
    """
    if n <= WINDOW:
        return torch.randperm(n, generator=generator)
    rows = torch.arange(n).roll(int(torch.randint(n, (), generator=generator)))
    *chunks, last = rows.split(CHUNK)  # the last may be short and stays last, so that windows are made of whole chunks
    chunks = [chunks[i] for i in torch.randperm(len(chunks), generator=generator).tolist()]
    windows = torch.cat([*chunks, last]).split(WINDOW)
    return torch.cat([window[torch.randperm(len(window), generator=generator)] for window in windows])


def make_plan(n: int, heads: Sequence[HeadSettings], design: Design) -> Plan:
    """Plan the training of K heads on n rows. A head's numbers depend only on its own settings and seed."""
    B, K = design.batch_size, len(heads)
    shuffle = local_permutation if design.local_shuffle else lambda n, generator: torch.randperm(n, generator=generator)
    counts = [n if head.rows is None else len(head.rows) for head in heads]
    per_epoch = [-(-count // B) for count in counts]  # including a short last batch
    steps = np.array([(s * head.epochs, s) for s, head in zip(per_epoch, heads, strict=True)])
    T = int(steps[:, 0].max())
    index, weight = torch.zeros(T, K, B, dtype=torch.long), torch.zeros(T, K, B)
    lr, beta1, ema_rate = np.zeros((T, K)), np.full((T, K), 0.95), np.zeros((T, K))
    init, generators = [], []
    kept = torch.ones(T, K, B, len(design.arms))
    for k, head in enumerate(heads):
        own = torch.Generator().manual_seed(head.seed)
        init.append(init_head(design.dims, design.width, own, head.offset))
        order = torch.stack([shuffle(counts[k], own) for _ in range(head.epochs)])
        mask_seed = int(torch.randint(2**62, (), generator=own))
        generators.append(torch.Generator(design.device).manual_seed(mask_seed))

        kept[:, k] = _kept_arms(kept[:, k].shape, head.arm_dropout, own)

        end, size = int(steps[k, 0]), torch.full((per_epoch[k], 1), B)  # rows in each batch of an epoch
        size[-1] = counts[k] - B * (per_epoch[k] - 1)
        real = torch.arange(B) < size  # (steps per epoch, B), False where the last batch is padded
        weight[:end, k] = (real / size).repeat(head.epochs, 1)
        rows = order if head.rows is None else torch.from_numpy(head.rows)[order]
        index[:end, k][real.repeat(head.epochs, 1)] = rows.flatten()
        factor, beta1[:end, k] = one_cycle(end)
        lr[:end, k] = head.lr * factor
        ema_rate[:end, k] = 1 - head.ema if head.ema_horizon is None else min(1.0, 1 / (head.ema_horizon * end))
    return Plan(
        index=index.to(design.device),
        weight=weight.to(design.device),
        kept=kept.to(design.device) if any(head.arm_dropout for head in heads) else None,
        lr=lr,
        beta1=beta1,
        ema_rate=ema_rate,
        init=torch.stack(init).to(design.device),
        steps=steps,
        generators=generators,
        dropout=[head.dropout for head in heads],
    )


def _kept_arms(shape: Sequence[int], rate: float, generator: torch.Generator) -> Tensor:
    """Factors (T, B, n_arms): 0 for one random arm in a fraction ``rate`` of the rows, else 1."""
    steps, rows, arms = shape
    if not rate or arms < 2:
        return torch.ones(shape)
    left_out = torch.randint(arms, (steps, rows), generator=generator)
    dropped = torch.rand(steps, rows, generator=generator) < rate
    return 1 - dropped[..., None] * functional.one_hot(left_out, arms)
