"""(A + s I) x = b for many shifts s at the price of a few Cholesky factorisations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.linalg import solve, solveh_banded

BAND = 128  # wide enough for matrix products to do the work, narrow enough for banded solutions to cost nothing
STRIP = 2 * BAND

Reflector = tuple[int, np.ndarray, np.ndarray]  # first row, V (m, k) and T (k, k) of Q = I - V T Vᵀ


def shifted_solutions(A: Any, b: Any, shifts: np.ndarray, band: int = BAND) -> Any:
    """Solutions (d, k) for A (d, d), symmetric with eigenvalues > -shift, b (d,) and shifts (k,). A is overwritten.

    A torch tensor is decomposed into eigenvectors, which a GPU does fast. On a CPU that takes as long as some twenty
    Cholesky factorisations, so A = Q B Qᵀ is computed with orthogonal Q and banded B instead, the first stage of
    modern eigensolvers (Bischof, Lang & Sun 2000): some five of them, and B + s I costs next to nothing for each s.

    Raises
    ------
    ValueError : A + s I is not positive definite, as far as rounding lets tell.

    >>> A, b = np.diag([1.0, 2.0, 3.0]), np.ones(3)
    >>> shifted_solutions(A, b, np.array([1.0, 3.0])).round(3).T.tolist()
    [[0.5, 0.333, 0.25], [0.25, 0.2, 0.167]]
    """
    if isinstance(A, torch.Tensor):
        values, vectors = torch.linalg.eigh(A)
        return vectors @ ((vectors.T @ b)[:, None] / (values[:, None] + torch.as_tensor(shifts).to(values)))
    if len(shifts) == 1:
        A[np.diag_indices_from(A)] += shifts[0]
        return solve(A, b[:, None], assume_a="pos", overwrite_a=True, check_finite=False)
    lower, reflectors = _banded(A, band)
    turned = b[:, None].copy()
    for start, V, T in reflectors:
        turned[start:] -= V @ (T.T @ (V.T @ turned[start:]))
    solutions = np.empty((len(b), len(shifts)))
    diagonal = lower[0].copy()
    for column, shift in enumerate(shifts):
        lower[0] = diagonal + shift
        try:
            solutions[:, column] = solveh_banded(lower, turned[:, 0], lower=True, check_finite=False)
        except np.linalg.LinAlgError as error:
            raise ValueError(f"a penalty of {shift:g} is too small for these features; raise it") from error
    for start, V, T in reversed(reflectors):
        solutions[start:] -= V @ (T @ (V.T @ solutions[start:]))
    return solutions


def _banded(A: np.ndarray, band: int) -> tuple[np.ndarray, list[Reflector]]:
    """B's diagonals (band + 1, d), the main one first, and Q as reflectors. Of A, the lower triangle is kept up."""
    d, reflectors = len(A), []
    for start in range(band, d - 1, band):
        panel = A[start:, start - band : start]  # (m, band), to become upper triangular
        V, T, R = _block_reflector(panel)
        panel[:] = 0
        panel[: len(R)] = R
        _turn(A[start:, start:], V, T)
        reflectors.append((start, V, T))
    width = min(band, d - 1)
    lower = np.zeros((width + 1, d))
    for i in range(width + 1):
        lower[i, : d - i] = A.diagonal(-i)
    return lower, reflectors


def _block_reflector(panel: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """V (m, k), T (k, k), R (k, band) with (I - V T Vᵀ)ᵀ panel = R over zeros."""
    packed, tau = np.linalg.qr(panel, mode="raw")
    k = len(tau)
    V = np.tril(packed.T[:, :k], -1)
    V[np.arange(k), np.arange(k)] = 1
    V[:, tau == 0] = 0  # no reflection
    inverse = np.triu(V.T @ V, 1) + np.diag(1 / np.where(tau == 0, 1, tau))  # of T (Puglisi 1992)
    return V, np.linalg.inv(inverse), np.triu(packed.T[:k])


def _turn(A: np.ndarray, V: np.ndarray, T: np.ndarray) -> None:
    """A <- Qᵀ A Q for Q = I - V T Vᵀ, in strips that end on the diagonal, so that half the work falls away.

    Strips are counted from the last row: the blocks on the diagonal, which are kept whole, then stay the same ones
    from call to call.
    """
    m = len(A)
    strips = [(max(0, stop - STRIP), stop) for stop in range(m, 0, -STRIP)]
    VT, Y = V @ T, np.zeros_like(V)  # Y = A V T
    for start, stop in strips:
        Y[start:stop] += A[start:stop, :stop] @ VT[:stop]
        Y[:start] += A[start:stop, :start].T @ VT[start:stop]
    W = Y - V @ (T.T @ (V.T @ Y)) / 2
    left, right = np.hstack([W, V]), np.hstack([V, W])
    for start, stop in strips:
        A[start:stop, :stop] -= left[start:stop] @ right[:stop].T
