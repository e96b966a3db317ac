"""A search of the fusion head, compared with Optuna's `optimize` over plain trainings, and the cost of Optuna itself.

    python benchmarks/search.py > benchmarks/results/search.md      some eight minutes on two cores
    python benchmarks/search.py --quick                             ours alone and short: to compare two versions of it
    python benchmarks/search.py --rows 6720 --device cuda           IC9600's size, for a GPU

Both search the same space on the same synthetic images with the same folds, by the pooled out-of-fold r; the winners
are compared on images that neither has seen.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna
import torch
from fusion import made_up
from machine import describe
from tabulate import tabulate
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from drexcache import metrics
from drexcache.cache.matrix import FeatureMatrix
from drexcache.fusion.estimator import AttentionFusionRegressor
from drexcache.regressors.named import make_regressor
from drexcache.studies.searching import pool as search_pool
from drexcache.studies.searching.space import Candidate, SearchSpace, make_space
from drexcache.studies.searching.storage import open_storage
from drexcache.studies.searching.study import search
from drexcache.studies.searching.task import Attempt, Task, make_task
from drexcache.studies.searching.trials import SpaceSampler, claim, open_study

FOLDS = 4
# Preset and space are those of the regressor "fusion", but with fewer epochs, so that the plain side ends in minutes.
NARROWED = {"fusion": {"min_steps": 200, "epochs": {"low": 5, "high": 10}}}


def data(rows: int, fresh: int = 2000) -> tuple[FeatureMatrix, FeatureMatrix]:
    """Synthetic images to search on, and others to score the winners on."""
    X, y = made_up(np.random.default_rng(0))
    blocks = {"dino": slice(0, 384), "resnet": slice(384, 4224)}
    ids = [f"{i:05}" for i in range(len(X))]
    return FeatureMatrix(X[:rows], y[:rows], ids[:rows], blocks, dataset="made up"), FeatureMatrix(
        X[-fresh:], y[-fresh:], ids[-fresh:], blocks, dataset="fresh"
    )


class PlainHead(nn.Module):
    """The paper's head for any arms, as a reader of the paper would write it."""

    def __init__(self, arms: list[slice], width: int, dropout: float) -> None:
        super().__init__()
        self.columns = arms
        self.arms = nn.ModuleList(
            nn.Sequential(nn.Linear(cols.stop - cols.start, width), nn.LayerNorm(width), nn.GELU()) for cols in arms
        )
        self.attention = nn.Sequential(nn.Linear(len(arms) * width, 128), nn.Tanh(), nn.Linear(128, len(arms)))
        self.temperature, self.alpha = (nn.Parameter(torch.tensor(value)) for value in (0.7, 0.1))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        layers: list[nn.Module] = []
        for fan_in, fan_out in ((width, 128), (128, 64), (64, 32)):
            layers += [nn.Linear(fan_in, fan_out), nn.GELU(), nn.Dropout(dropout)]
        self.head = nn.Sequential(*layers, nn.Linear(32, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        arms = [arm(x[:, cols]) for arm, cols in zip(self.arms, self.columns, strict=True)]
        w = torch.softmax(self.attention(torch.cat(arms, 1)) / self.temperature, 1)
        fused = sum((w[:, [i]] + self.alpha) * arm for i, arm in enumerate(arms))
        return self.head(self.norm(fused)).squeeze(1)


def plain_fit(X: np.ndarray, y: np.ndarray, settings: AttentionFusionRegressor, device: str) -> PlainHead:
    """The training loop of the paper's code, with these settings."""
    torch.manual_seed(42)
    s = settings
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(y).float()), s.batch_size, shuffle=True)
    epochs = max(s.epochs, -(-s.min_steps // len(loader)))
    model = PlainHead(list(s.arms.values()), s.width, s.dropout).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=s.lr, weight_decay=s.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, s.lr, total_steps=epochs * len(loader))
    decay = 1 - min(1.0, 1 / (s.ema_horizon * epochs * len(loader)))
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
                    ema[name].mul_(decay).add_(p, alpha=1 - decay)
    model.load_state_dict(ema)
    return model.eval()


def plain_search(task: Task, space: SearchSpace, trials: int, device: str) -> tuple[float, Candidate]:
    """Optuna's own loop over plain trainings: the best out-of-fold score and its candidate."""

    def objective(trial: optuna.Trial) -> float:
        for name, distribution in space.distributions.items():
            trial._suggest(name, distribution)
        if not space.allows(trial.params):
            raise optuna.TrialPruned
        settings = task.estimator(space.candidate(trial.params))
        predicted = np.zeros(len(task.matrix))
        for stage in task.stages:
            train, held = task.rows(stage)
            X, y = task.matrix.X, task.matrix.y
            if settings.standardize:
                mean, std = X[train].mean(0), X[train].std(0)
                X = (X - mean) / np.where(std > 0, std, 1)
            with torch.inference_mode(False):
                model = plain_fit(X[train], y[train], settings, device)
            with torch.inference_mode():
                predicted[held] = model(torch.from_numpy(X[held]).to(device)).cpu().numpy()
        return metrics.pearson(task.matrix.y, predicted) or 0.0

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=task.seed))
    study.enqueue_trial(space.defaults(task.matrix))
    study.optimize(objective, n_trials=trials)
    return study.best_value, space.candidate(study.best_params)


def on_fresh_images(candidate: Candidate, matrix: FeatureMatrix, fresh: FeatureMatrix) -> float:
    """r on unseen images of the candidate trained on all searched images: mean of three seeds."""
    known, new = matrix.select(candidate.blocks), fresh.select(candidate.blocks)
    heads = [make_regressor("fusion", known, seed, candidate.settings).fit(known.X, known.y) for seed in (1, 2, 3)]
    return statistics.mean(metrics.pearson(new.y, head.predict(new.X)) or 0.0 for head in heads)


class Given(Attempt):
    """A candidate whose score is known, so that neither training nor scoring takes time."""

    def __init__(self, task: Task, candidate: Candidate, value: float) -> None:
        super().__init__(task, candidate)
        self.value = value

    def score(self, metric: str) -> float:
        """The given score, for every metric."""
        return self.value


def overhead(trials: int) -> tuple[float, float, int]:
    """Milliseconds per trial of Optuna and the journal, over all trials and the last hundred; number of parameters."""
    matrix, _ = data(60)
    space = make_space("fusion", matrix)
    task = make_task(matrix, (), folds=5, repeats=1, holdout=False, metric="pearson", seed=42)
    with tempfile.TemporaryDirectory() as folder:
        study = open_study(open_storage(None, Path(folder)), "overhead", "maximize", {}, space)
        study.sampler, study.pruner = SpaceSampler(space, space.defaults(matrix), 42), search_pool.make_pruner(task)
        pool = search_pool.Pool(study, space, task, trials, Path(folder))
        spent = []
        for _ in range(trials):
            started = time.perf_counter()
            trial = claim(study, space.distributions, trials)
            assert trial is not None
            given = Given(task, space.candidate(trial.params), -abs(np.log10(trial.params["lr"]) + 3))
            for _ in task.stages:
                given.fold_scores.append(given.value)
                if not pool.goes_on(trial, given):
                    break
            spent.append(1000 * (time.perf_counter() - started))
    return statistics.mean(spent), statistics.mean(spent[-100:]), len(space.distributions)


def quick() -> str:
    """A short search of two regressors, and the cost of Optuna and the journal, in one line."""
    matrix, seconds, best = data(300)[0], {}, 0.0
    shorter = {"fusion": {"min_steps": 60, "epochs": {"low": 5, "high": 8}}}
    for name, total, folds, narrowed in (("fusion", 8, 2, shorter), ("svr", 40, 3, None)):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = search(matrix, [name], folder, total_trials=total, folds=folds, narrowed=narrowed)
        seconds[name], best = time.perf_counter() - started, max(best, found.best["score"])
    searches = ", ".join(f"{name} {spent:.1f} s" for name, spent in seconds.items())
    return f"{searches}, best r {best:.4f}; Optuna and the journal {overhead(200)[0]:.1f} ms per trial"


def main() -> None:
    """Run both searches and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--overhead", type=int, default=1000, help="trials to measure Optuna's own time with; 0: none")
    parser.add_argument("--quick", action="store_true", help="ours alone, in one line")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if args.quick:
        print(quick())
        return
    print(f"# Search of the fusion head\n\n```\n{describe()}, optuna {optuna.__version__}\n```\n")
    matrix, fresh = data(args.rows)
    space = make_space("fusion", matrix, NARROWED)
    task = make_task(matrix, (), folds=FOLDS, repeats=1, holdout=False, metric="pearson", seed=42)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = search(matrix, ["fusion"], folder, total_trials=args.trials, folds=FOLDS, narrowed=NARROWED)
    ours = time.perf_counter() - started
    print(f"ours: {ours:.0f} s", file=sys.stderr)
    started = time.perf_counter()
    plain_best, plain_candidate = plain_search(task, space, args.trials, args.device)
    plain = time.perf_counter() - started
    winner = Candidate("fusion", tuple(found.best["blocks"]), found.best["settings"])
    rows = [
        ["plain trainings under optimize", plain, plain_best, on_fresh_images(plain_candidate, matrix, fresh)],
        ["drexcache search", ours, found.best["score"], on_fresh_images(winner, matrix, fresh)],
    ]
    print(f"{args.trials} trials, {FOLDS} folds of {args.rows} x 4,224: {plain / ours:.1f} times as fast")
    print(f"({found.rows[0].pruned} trials pruned; nested estimate of the winner {found.best['nested']:.3f})\n")
    headers = ["", "seconds", "best r, out of fold", "its r on 2,000 fresh images"]
    print(tabulate(rows, headers=headers, tablefmt="github", floatfmt=("", ".0f", ".4f", ".4f")), flush=True)
    if args.overhead:
        mean, last, parameters = overhead(args.overhead)
        print(
            f"\nOptuna and the journal, without any training: {mean:.1f} ms per trial over {args.overhead} trials of "
        )
        print(f"{parameters} parameters, {last:.1f} ms in the last hundred.")


if __name__ == "__main__":
    main()
