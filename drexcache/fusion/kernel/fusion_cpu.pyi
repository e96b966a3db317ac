"""The compiled module of fusion_cpu.c. All arrays are float32 and contiguous unless stated otherwise."""

import numpy as np

Shape = tuple[int, int, int, int, int, bool]  # K, B, n_arms, width, P, fixed_average

def workspace(shape: Shape, /) -> int:
    """The number of floats that `forward` stores for `backward`."""

def forward(
    shape: Shape, flat: np.ndarray, projected: np.ndarray, masks: np.ndarray, work: np.ndarray, scores: np.ndarray, /
) -> None:
    """Compute scores (K, B) and ``work`` from projected (K, B, n_arms, width) and the parameters flat (K, P)."""

def backward(
    shape: Shape, flat: np.ndarray, x: np.ndarray, arms: np.ndarray, d_scores: np.ndarray, clip: np.ndarray,
    work: np.ndarray, small_grad: np.ndarray, d: np.ndarray, /,
) -> None:  # fmt: skip
    """Compute the clipped gradients by the small parameters and by the projections, d (K, B, n_arms, width).

    x : (K, B, d). arms : (n_arms, 2) int64, the columns of each arm. clip : (K,), the largest norms allowed.
    """

def update(
    shape: Shape, tiles: np.ndarray, rates: np.ndarray, flat: np.ndarray, m: np.ndarray, v: np.ndarray,
    ema: np.ndarray, x: np.ndarray, ahead: np.ndarray, d: np.ndarray, small_grad: np.ndarray, parts: np.ndarray,
    backwards: bool, /,
) -> None:  # fmt: skip
    """Update some tiles (n, 6) int64 (AdamW and moving average), and compute their parts of the next projections.

    rates : (K, 6), the five of drexcache.fusion.plan.step_rates, and the average's rate left over from the last step.
    ahead : the next batch's x. parts : (parts, K, B, width).
    """
