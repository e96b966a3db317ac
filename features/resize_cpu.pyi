"""The compiled module of resize_cpu.c."""

import numpy as np

def resize(
    rows: np.ndarray, width: int, top: int, height: int, ends_across: np.ndarray, across: np.ndarray,
    ends_down: np.ndarray, down: np.ndarray, out: np.ndarray, /,
) -> None:  # fmt: skip
    """Add rows uint8 (n, width, 3) of an image, from row ``top`` of its ``height`` on, to ``out`` float32 (3, H, W).

    ends : int64 (W, 2) and (H, 2), the input pixels of each output pixel along an axis, from the first to before the
    last. across, down : float32 (W, most) and (H, most), their weights.
    """
