"""The fusion head's training, ours beside the same recipe written plainly, on made-up data of IC9600's size.

python benchmarks/fusion.py                   five seeds of both, in turns: some six minutes on two cores
python benchmarks/fusion.py --quick           one epoch, two seeds
python benchmarks/fusion.py --together 100    so many of our trainings at once, too (for a GPU)
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from drexcache.fusion import AttentionFusionRegressor, fit_many

ARMS = {"dino": slice(0, 384), "resnet": slice(384, 4224)}
TRAIN, TEST = 6720, 2880


class PlainHead(nn.Module):
    """The paper's head as its reader would write it."""

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
    """The paper's loop: DataLoader, AdamW, OneCycleLR, clipping, and an average per parameter."""
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


def compare(X: np.ndarray, y: np.ndarray, seeds: list[int], epochs: int, device: str) -> None:
    """Both trainings in turns, one line per seed, and their means."""
    rows = []
    held_out = torch.from_numpy(X[TRAIN:]).to(device)
    print(f"{'seed':>4} {'plain s':>8} {'ours s':>8} {'ratio':>6} {'plain r':>8} {'ours r':>8}")
    for seed in seeds:
        start = time.perf_counter()
        plain = plain_fit(X[:TRAIN], y[:TRAIN], epochs, seed, device)
        middle = time.perf_counter()
        ours = AttentionFusionRegressor(ARMS, epochs=epochs, random_state=seed, device=device)
        ours.fit(X[:TRAIN], y[:TRAIN])
        end = time.perf_counter()
        with torch.inference_mode():
            scores = plain(held_out).cpu().numpy()
        r = [np.corrcoef(s, y[TRAIN:])[0, 1] for s in (scores, ours.predict(X[TRAIN:]))]
        rows.append((middle - start, end - middle, (end - middle) / (middle - start), *r))
        print(
            f"{seed:4d} {rows[-1][0]:8.1f} {rows[-1][1]:8.1f} {rows[-1][2]:6.3f} {r[0]:8.4f} {r[1]:8.4f}",
            flush=True,
        )
    mean, std = np.mean(rows, 0), np.std(rows, 0, ddof=1)
    print(f"mean {mean[0]:8.1f} {mean[1]:8.1f} {mean[1] / mean[0]:6.3f} {mean[3]:8.4f} {mean[4]:8.4f}")
    print(f"{'sd over seeds':>31} {std[3]:8.4f} {std[4]:8.4f}")
    steps = epochs * -(-TRAIN // 16)
    print(f"per step: plain {1e3 * mean[0] / steps:.2f} ms, ours {1e3 * mean[1] / steps:.2f} ms")
    print(f"floor per step here, arithmetic and memory each alone: {' + '.join(floor(device))}")


def floor(device: str) -> list[str]:
    """171 MFLOP at this machine's rate for large products, and 100 MB at its copying rate."""

    def seconds(work: Callable[[], object], times: int = 5) -> float:
        work()
        best = float("inf")
        for _ in range(times):
            start = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
        return best

    a, big = torch.randn(2048, 2048, device=device), torch.randn(2**25, device=device)
    out = torch.empty_like(big)
    flops = 2 * 2048**3 / seconds(lambda: a @ a)
    bandwidth = 2 * big.nbytes / seconds(lambda: out.copy_(big))
    return [
        f"{171e9 / flops:.2f} ms ({flops / 1e9:.0f} GFLOP/s)",
        f"{1e11 / bandwidth:.2f} ms ({bandwidth / 1e9:.0f} GB/s)",
    ]


def together(X: np.ndarray, y: np.ndarray, count: int, epochs: int, device: str) -> None:
    """``count`` trainings of the paper's recipe by one call of fit_many."""
    heads = [AttentionFusionRegressor(ARMS, epochs=epochs, random_state=seed, device=device) for seed in range(count)]
    start = time.perf_counter()
    fit_many(heads, X[:TRAIN], y[:TRAIN])
    took = time.perf_counter() - start
    print(f"{count} together: {took:.1f} s, {took / count:.2f} s each")


def main() -> None:
    """Time the plain loop and ours and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--together", type=int, default=0, metavar="K")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    seeds, epochs = ([42, 43], 1) if args.quick else ([42, 43, 44, 45, 46], 10)
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"{platform.machine()}, {args.threads} threads"
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"torch {torch.__version__}, {name}{load}; {TRAIN} x 4224, {epochs} epochs of {-(-TRAIN // 16)} steps")
    X, y = made_up(np.random.default_rng(0))
    compare(X, y, seeds, epochs, args.device)
    if args.together:
        together(X, y, args.together, epochs, args.device)


if __name__ == "__main__":
    main()
