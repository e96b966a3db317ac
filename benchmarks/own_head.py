"""The heads of docs/own-heads.md: their training beside a plain PyTorch loop, and their scores beside other regressors.

python benchmarks/own_head.py > benchmarks/results/own-head.md                  the training, on a quiet machine
python benchmarks/own_head.py CACHE.h5... > benchmarks/results/own-head-scores.md     the scores

The published table is of SAVOIAS's Scenes, Objects and Advertisement with recipe offline.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from tabulate import tabulate
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from drexcache import TorchHeadRegressor, open_cache
from drexcache.metrics import pearson
from drexcache.studies import evaluate
from drexcache.studies.evaluation.predictions import Run

PAGE = Path(__file__).parents[1] / "docs" / "own-heads.md"
NAMES = ("GatedFusion", "CrossAttention")
ROWS, ARMS, BATCH, SEEDS = 480, {"dino": slice(0, 64), "effnet": slice(64, 128)}, 16, 5  # as in a fold of 600 pictures
EPOCHS, REPEATS = 10, 3


def heads_of_the_page(folder: Path) -> Any:
    """The module heads, as the page has it."""
    found = re.search(r"^```python heads\.py\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    (folder / "heads.py").write_text(found[1], encoding="utf-8")
    sys.path.insert(0, str(folder))
    return importlib.import_module("heads")


def plain_loop(module: Any, X: np.ndarray, y: np.ndarray) -> None:
    """Five seeds, one after the other: DataLoader, AdamW, OneCycleLR, clipping, and an average per parameter."""
    rated = torch.from_numpy((y - y.mean()) / y.std()).float()
    loader = DataLoader(TensorDataset(torch.from_numpy(X), rated), batch_size=BATCH, shuffle=True)
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model = module({name: cols.stop - cols.start for name, cols in ARMS.items()})
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=EPOCHS * len(loader))
        ema = {name: p.detach().clone() for name, p in model.named_parameters()}
        for _ in range(EPOCHS):
            for x, target in loader:
                out = model({name: x[:, cols] for name, cols in ARMS.items()})
                scores = out[0] if isinstance(out, tuple) else out
                loss = functional.huber_loss(scores.squeeze(1), target)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                with torch.no_grad():
                    for name, p in model.named_parameters():
                        ema[name].mul_(0.999).add_(p, alpha=0.001)


def speed(heads: Any) -> None:
    """Seconds for five seeds: ours and the plain loop in turns, the best of each."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    X, rows = rng.normal(size=(ROWS, 128)).astype(np.float32), []
    y = 1 / (1 + np.exp(-X[:, 0] - X[:, 64]))
    for name in NAMES:
        module, ours, plain = getattr(heads, name), [], []
        model = TorchHeadRegressor(
            module,
            ARMS,
            components=None,
            linear=0,
            arm_dropout=0,
            batch_size=BATCH,
            epochs=EPOCHS,
            min_steps=0,
            device="cpu",
        )
        for _ in range(REPEATS):
            for seconds, fit in ((ours, lambda m=model: m.fit(X, y)), (plain, lambda m=module: plain_loop(m, X, y))):
                started = time.perf_counter()
                fit()
                seconds.append(time.perf_counter() - started)
        rows.append([name, f"{min(ours):.2f} s", f"{min(plain):.2f} s", f"{min(plain) / min(ours):.1f}"])
        print(rows[-1], file=sys.stderr, flush=True)
    print(f"Five seeds, {EPOCHS} epochs of {ROWS} rows, arms of 64 and 64, batches of {BATCH}\n")
    print(
        tabulate(rows, ["head", "TorchHeadRegressor", "plain loop", "times as fast"], "github", disable_numparse=True)
    )


def interval_of_mean(runs: list[Run]) -> str:
    """Mean r of one run per cache, and its 95% bootstrap interval over the images."""
    rng, draws = np.random.default_rng(0), np.zeros(2000)
    for i in range(len(draws)):
        for run in runs:
            pick = rng.integers(0, len(run.rated), len(run.rated))
            draws[i] += np.corrcoef(run.rated[pick], run.predicted[pick])[0, 1] / len(runs)
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{np.mean([pearson(run.rated, run.predicted) for run in runs]):.3f} [{low:.3f}, {high:.3f}]"


def scores(caches: list[Path]) -> None:
    """Out-of-fold r of each head inside each cache, beside ridge and fusion."""
    matrices, lines = [open_cache(path).matrix() for path in caches], []
    regressors = ("ridge", "svr", "fusion", *(f"heads:{name}" for name in NAMES))
    for name in regressors:
        runs = [run for matrix in matrices for run in evaluate([matrix], [name])[1].runs]
        own = [f"{pearson(run.rated, run.predicted):.3f}" for run in runs]
        lines.append([name, interval_of_mean(runs), *own, f"{sum(run.seconds for run in runs):.0f}"])
        print(lines[-1], file=sys.stderr, flush=True)
    print("Out-of-fold r inside each category\n")
    headers = ["regressor", "mean r [95%]", *(matrix.dataset for matrix in matrices), "seconds"]
    print(tabulate(lines, headers, "github", disable_numparse=True))


def main() -> None:
    """Print the table of the training, or that of the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("caches", nargs="*", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        heads = heads_of_the_page(Path(folder))
        print("# Heads of one's own\n\n```\n" + describe() + "\n```\n")
        if arguments.caches:
            scores(arguments.caches)
        else:
            speed(heads)


if __name__ == "__main__":
    main()
