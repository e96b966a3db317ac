"""The fusion head's training compared with a plain implementation of the same recipe, on data of IC9600's size.

python benchmarks/fusion.py                   short pieces in turns, then five seeds of both: some seven minutes
python benchmarks/fusion.py --quick           the short pieces only, one minute
python benchmarks/fusion.py --together 100    so many of our trainings at once, too (for a GPU)
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from machine import describe
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from drexcache.fusion import AttentionFusionRegressor, fit_many
from drexcache.fusion.kernel import compiled

ARMS = {"dino": slice(0, 384), "resnet": slice(384, 4224)}
TRAIN, TEST = 6720, 2880
PIECE = 3200  # rows, 200 steps
PARAMETERS = 1_782_661


class PlainHead(nn.Module):
    """The paper's head as a reader of the paper would write it."""

    def __init__(self, width: int = 384) -> None:
        super().__init__()
        self.arms = nn.ModuleList(
            nn.Sequential(nn.Linear(cols.stop - cols.start, width), nn.LayerNorm(width), nn.GELU())
            for cols in ARMS.values()
        )
        self.attention = nn.Sequential(nn.Linear(2 * width, 128), nn.Tanh(), nn.Linear(128, 2))
        self.temperature = nn.Parameter(torch.tensor(0.7))
        self.alpha = nn.Parameter(torch.tensor(0.1))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        layers: list[nn.Module] = []
        for fan_in, fan_out in ((width, 128), (128, 64), (64, 32)):
            layers += [nn.Linear(fan_in, fan_out), nn.GELU(), nn.Dropout(0.1)]
        self.head = nn.Sequential(*layers, nn.Linear(32, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = (arm(x[:, cols]) for arm, cols in zip(self.arms, ARMS.values(), strict=True))
        w = torch.softmax(self.attention(torch.cat([a, b], 1)) / self.temperature, 1)
        return self.head(self.norm(w[:, :1] * a + w[:, 1:] * b + self.alpha * (a + b))).squeeze(1)


def plain_fit(X: np.ndarray, y: np.ndarray, epochs: int, seed: int, device: str) -> PlainHead:
    """The paper's training loop: DataLoader, AdamW, OneCycleLR, clipping, and an average per parameter."""
    torch.manual_seed(seed)
    data = TensorDataset(torch.from_numpy(X), torch.from_numpy(y).float())
    loader = DataLoader(data, batch_size=16, shuffle=True)
    model = PlainHead().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=epochs * len(loader))
    ema = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(epochs):
        for inputs, targets in loader:
            loss = functional.huber_loss(model(inputs.to(device)), targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for name, p in model.named_parameters():
                    ema[name].mul_(0.999).add_(p, alpha=0.001)
    model.load_state_dict(ema)
    return model.eval()


def made_up(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features with a decaying spectrum in both arms, and noisy ratings that depend on them nonlinearly."""
    n, latent = TRAIN + TEST, 128
    z = rng.normal(size=(n, latent)) / np.sqrt(np.arange(1, latent + 1))
    X = np.maximum(z @ rng.normal(size=(latent, 4224)), 0) + 0.5 * rng.normal(size=(n, 4224))
    signal = z[:, 0] + np.tanh(2 * z[:, 1]) + z[:, 2] * z[:, 3] + 0.5 * np.abs(z[:, 4])
    y = 1 / (1 + np.exp(-(signal - signal.mean()) / signal.std() - 0.3 * rng.normal(size=n)))
    return X.astype(np.float32), y


def ours_fit(X: np.ndarray, y: np.ndarray, epochs: int, seed: int, device: str) -> AttentionFusionRegressor:
    """The same recipe in our implementation."""
    return AttentionFusionRegressor(ARMS, epochs=epochs, random_state=seed, device=device).fit(X, y)


def autograd_fit(X: np.ndarray, y: np.ndarray, epochs: int, seed: int, device: str) -> AttentionFusionRegressor:
    """The same without the compiled step, by torch's operations and autograd, as without a C compiler."""
    module, compiled.fusion_cpu = compiled.fusion_cpu, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return ours_fit(X, y, epochs, seed, device)
    finally:
        compiled.fusion_cpu = module


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """The result of the work, and the seconds it takes."""
    start = time.perf_counter()
    result = work(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def pieces(X: np.ndarray, y: np.ndarray, device: str, rows: int, heads: int = 8, times: int = 7) -> None:
    """One epoch of the plain loop, ours, ``heads`` of ours at once, and autograd, in turns: medians per step."""
    X, y, steps = X[:rows], y[:rows], -(-rows // 16)
    many = [AttentionFusionRegressor(ARMS, epochs=1, random_state=seed, device=device) for seed in range(heads)]
    work = {
        "plain": lambda: plain_fit(X, y, 1, 0, device),
        "ours": lambda: ours_fit(X, y, 1, 0, device),
        f"ours, {heads} at once, per head": lambda: fit_many(many, X, y),
        "ours, by autograd": lambda: autograd_fit(X, y, 1, 0, device),
    }
    for one in work.values():
        one()
    rounds = np.array([[timed(one)[1] for one in work.values()] for _ in range(times)])
    rounds[:, 2] /= heads
    print(f"\n{steps} steps in turns, {times} times; ratio: the median of the turns' own\n")
    print(f"{'':32} {'ms a step':>10} {'least':>8} {'ratio':>8}")
    for i, name in enumerate(work):
        ms = 1e3 * rounds[:, i] / steps
        print(f"{name:32} {np.median(ms):10.2f} {ms.min():8.2f} {np.median(rounds[:, i] / rounds[:, 0]):8.3f}")
    products, memory = floor(device)
    print(f"\nfloor of a step here, hot: its matrix products {products:.2f} ms; its parameter traffic {memory:.2f} ms")
    print(f"ours is {np.median(1e3 * rounds[:, 1] / steps) / (products + memory):.2f} times their sum")


def floor(device: str) -> tuple[float, float]:
    """Milliseconds of a step's matrix products alone, and of the memory traffic of AdamW and EMA.

    That is weights and both moments, read and written each step, and the average every second step: seven times
    the parameters' 7.1 MB, at the rate at which this machine copies memory.
    """

    def best(work: Callable[[], object]) -> float:
        work()
        return min(timed(work)[1] for _ in range(30))

    total = 0.0
    for fan_in, fan_out in ((384, 384), (3840, 384), (768, 128), (384, 128), (128, 64), (64, 32)):
        x, d = torch.randn(16, fan_in, device=device), torch.randn(16, fan_out, device=device)
        w, g = torch.randn(fan_in, fan_out, device=device), torch.empty(fan_in, fan_out, device=device)
        total += best(lambda x=x, w=w: x @ w) + best(lambda x=x, d=d, g=g: torch.mm(x.T, d, out=g))
        if fan_out != 384:  # the arms' inputs need no gradient
            total += best(lambda w=w, d=d: d @ w.T)
    big = torch.randn(2**25, device=device)
    out = torch.empty_like(big)
    bandwidth = 2 * big.nbytes / best(lambda: out.copy_(big))
    print(f"memory copies at {bandwidth / 1e9:.0f} GB/s", end="")
    return 1e3 * total, 1e3 * 7 * 4 * PARAMETERS / bandwidth


def compare(X: np.ndarray, y: np.ndarray, seeds: list[int], device: str) -> None:
    """Compare both complete trainings, in turns: a line per seed, and the means."""
    rows = []
    held_out = torch.from_numpy(X[TRAIN:]).to(device)
    print(f"\n10 epochs of {-(-TRAIN // 16)} steps, r on {TEST} other rows\n")
    print(f"{'seed':>13} {'plain s':>8} {'ours s':>8} {'ratio':>6} {'plain r':>8} {'ours r':>8}")
    for seed in seeds:
        plain, plain_s = timed(plain_fit, X[:TRAIN], y[:TRAIN], 10, seed, device)
        ours, ours_s = timed(ours_fit, X[:TRAIN], y[:TRAIN], 10, seed, device)
        with torch.inference_mode():
            scores = plain(held_out).cpu().numpy()
        r = [np.corrcoef(s, y[TRAIN:])[0, 1] for s in (scores, ours.predict(X[TRAIN:]))]
        rows.append((plain_s, ours_s, ours_s / plain_s, *r))
        print(f"{seed:13d} {plain_s:8.1f} {ours_s:8.1f} {ours_s / plain_s:6.3f} {r[0]:8.4f} {r[1]:8.4f}", flush=True)
    mean, std = np.mean(rows, 0), np.std(rows, 0, ddof=1)
    print(f"{'mean':>13} {mean[0]:8.1f} {mean[1]:8.1f} {mean[1] / mean[0]:6.3f} {mean[3]:8.4f} {mean[4]:8.4f}")
    print(f"{'sd over seeds':>13} {'':8} {'':8} {'':6} {std[3]:8.4f} {std[4]:8.4f}")


def together(X: np.ndarray, y: np.ndarray, count: int, device: str) -> None:
    """Train the paper's recipe ``count`` times in one call of fit_many."""
    heads = [AttentionFusionRegressor(ARMS, random_state=seed, device=device) for seed in range(count)]
    _, took = timed(fit_many, heads, X[:TRAIN], y[:TRAIN])
    print(f"\n{count} together: {took:.1f} s, {took / count:.2f} s each")


def main() -> None:
    """Time the plain loop and ours and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", type=int, default=PIECE, help="of a short piece [default: 3200, 200 steps]")
    parser.add_argument("--together", type=int, default=0, metavar="K", help="[default: 100 on a GPU]")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} threads"
    print(f"{describe()}\non {where}, load {os.getloadavg()[0]:.1f}; {TRAIN} x 4224")
    X, y = made_up(np.random.default_rng(0))
    pieces(X, y, args.device, args.rows)
    if not args.quick:
        compare(X, y, [42, 43, 44, 45, 46], args.device)
    count = args.together or (100 if args.device == "cuda" and not args.quick else 0)
    if count:
        together(X, y, count, args.device)


if __name__ == "__main__":
    main()
