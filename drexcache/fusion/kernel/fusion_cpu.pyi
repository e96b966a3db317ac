"""The compiled module of fusion_cpu.c. All arrays are float32 and contiguous unless it says otherwise."""

import numpy as np

Shape = tuple[int, int, int, int, int, bool]  # K, B, n_arms, width, P, fixed_average

def workspace(shape: Shape, /) -> int:
    """How many floats `forward` leaves for `backward`."""

def forward(
    shape: Shape, flat: np.ndarray, projected: np.ndarray, masks: np.ndarray, work: np.ndarray, scores: np.ndarray, /
) -> None:
    """Scores (K, B) of projected (K, B, n_arms, width), and ``work``, with the parameters flat (K, P)."""

def backward(
    shape: Shape, flat: np.ndarray, x: np.ndarray, arms: np.ndarray, d_scores: np.ndarray, clip: np.ndarray,
    work: np.ndarray, small_grad: np.ndarray, d: np.ndarray, /,
) -> None:  # fmt: skip
    """The clipped gradients by the small parameters and by the projections, d (K, B, n_arms, width).

    x : (K, B, d), which the arms (n_arms, 2) int64 cut into their columns. clip : (K,), the largest norms.
    """

def update(
    shape: Shape, tiles: np.ndarray, rates: np.ndarray, flat: np.ndarray, m: np.ndarray, v: np.ndarray,
    ema: np.ndarray, x: np.ndarray, ahead: np.ndarray, d: np.ndarray, small_grad: np.ndarray, parts: np.ndarray,
    backwards: bool, /,
) -> None:  # fmt: skip
    """AdamW and the moving average of some tiles (n, 6) int64, and their parts of the next batch's projections.

    rates : (K, 6), drexcache.fusion.plan.step_rates' five, and what the average still lacks of the step before.
    ahead : the next batch's x. parts : (parts, K, B, width).
    """
