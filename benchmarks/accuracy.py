"""Recipes and regressors on SAVOIAS: inside each category, from each to each other, and from all others to each.

python benchmarks/accuracy.py SAVOIAS --work DIR > benchmarks/results/accuracy.md

Features, and every regressor's predictions, are kept in DIR: a run that was stopped goes on where it was. The recipes
and the settings of fusion were chosen on these three categories, so that all scores are slightly too good.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fusion_settings import correlation
from machine import describe
from tabulate import tabulate

from drexcache import open_cache, read_images, recipe
from drexcache.features import extract
from drexcache.scores import render
from drexcache.studies import evaluate
from drexcache.studies.evaluation import Predictions, Run, attention_table, contributions_table

CATEGORIES = ("Scenes", "Objects", "Advertisement")
RECIPES = ("classic", "offline", "complexity-lean", "complexity")
REGRESSORS = ("ridge", "pls", "svr", "gaussian-process", "fusion", "best")
AGAINST = ("ridge", "fusion")
SEEDED = ("fusion", "best")  # also with a second seed
EXPLAINED = ("ridge", "fusion")  # also what each block adds to a prediction
KINDS = {"in-domain": "inside", "cross": "across", "leave-one-out": "left out"}
RESAMPLES = 2000


@dataclass(frozen=True)
class Result:
    """What one regressor did with one recipe.

    means : kind of score -> mean r, and the same of RESAMPLES draws of the images.
    """

    runs: list[Run]
    means: dict[str, tuple[float, np.ndarray]]
    seconds: float
    megabytes: float


def caches(savoias: Path, work: Path, name: str) -> list[Path]:
    """A cache for each category, which now has the recipe's blocks beside those of recipes before."""
    paths = [work / f"{category.lower()}.h5" for category in CATEGORIES]
    for category, path in zip(CATEGORIES, paths, strict=True):
        table = read_images(savoias / "Images" / category, layout="savoias", allow_unmatched=True)
        extract(table, recipe(name), path, say=lambda line: print(line, file=sys.stderr, flush=True))
    return paths


def predict(name: str, regressor: str, out: Path, paths: Sequence[str]) -> None:
    """Evaluate one regressor in this process and write its predictions, its seconds and its peak of memory."""
    matrices = [open_cache(path).matrix([block.name for block in recipe(name).blocks]) for path in paths]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seeds = (42, 43) if regressor.startswith(SEEDED) else (42,)
    explained = regressor in EXPLAINED
    predictions = evaluate(matrices, [regressor], seeds=seeds, leave_one_out=True, contributions=explained)[1]
    cost = {
        "seconds": sum(run.seconds or 0 for run in predictions.runs),
        "megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }
    out.with_suffix(".json").write_text(json.dumps(cost))
    predictions.to_csv(out)


def result(name: str, regressor: str, paths: Sequence[Path]) -> Result:
    """The result of a regressor with a recipe, from an earlier run or a process of its own."""
    out = paths[0].with_name(f"{name}-{regressor}.csv")
    if not out.exists():
        subprocess.run([sys.executable, __file__, "--child", name, regressor, str(out), *map(str, paths)], check=True)
    runs = Predictions.read_csv(out).runs
    cost = json.loads(out.with_suffix(".json").read_text())
    return Result(runs, {kind: mean_r(runs, kind) for kind in KINDS}, **cost)


def mean_r(runs: Sequence[Run], kind: str) -> tuple[float, np.ndarray]:
    """Mean r over cells and seeds, and of RESAMPLES draws of each category's images and of each cell's seeds.

    A category's draws are the same for every regressor and recipe, so that differences of means are paired.
    """
    rng, point, draws = np.random.default_rng(0), [], []
    for cell in sorted({run.cell for run in runs if run.kind == kind}):
        own = [run for run in runs if run.cell == cell]
        order = [np.argsort(run.ids) for run in own]
        rated = own[0].rated[order[0]]
        predicted = np.stack([run.predicted[at] for run, at in zip(own, order, strict=True)])  # (seeds, n)
        of_category = np.random.default_rng(CATEGORIES.index(own[0].test))
        pick = of_category.integers(len(rated), size=(RESAMPLES, len(rated)))
        rs = correlation(rated[pick][None], predicted[:, pick])  # (seeds, RESAMPLES)
        seeds = rng.integers(len(own), size=(len(own), RESAMPLES))
        point.append(correlation(rated, predicted).mean())
        draws.append(np.take_along_axis(rs, seeds, axis=0).mean(0))
    return float(np.mean(point)), np.mean(draws, axis=0)


def difference(new: Result, old: Result, kind: str) -> str:
    """Mean r of one less that of the other, its 95% interval, and whether that leaves out 0."""
    gain = new.means[kind][0] - old.means[kind][0]
    low, high = np.quantile(new.means[kind][1] - old.means[kind][1], (0.025, 0.975))
    verdict = "better" if low > 0 else "worse" if high < 0 else "within noise"
    return f"{gain:+.3f} [{low:+.3f}, {high:+.3f}] {verdict}"


def score_table(found: Mapping[str, Result]) -> str:
    """A line for each regressor of one recipe."""
    lines = []
    for name, own in found.items():
        inside = [run for run in own.runs if run.kind == "in-domain"]
        by_set = [np.mean([correlation(r.rated, r.predicted) for r in inside if r.test == test]) for test in CATEGORIES]
        means = [f"{point:.3f} [{', '.join(f'{q:.3f}' for q in np.quantile(draws, (0.025, 0.975)))}]"
                 for point, draws in own.means.values()]  # fmt: skip
        lines.append(
            [name, means[0], *(f"{r:.3f}" for r in by_set), *means[1:], f"{own.seconds:.0f}", f"{own.megabytes:.0f}"]
        )
    headers = ["regressor", "inside", *CATEGORIES, *list(KINDS.values())[1:], "seconds", "MB"]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def difference_table(pairs: Mapping[str, tuple[Result, Result]], first: str) -> str:
    """A line for each pair: the first less the second."""
    lines = [[name, *(difference(*pair, kind) for kind in KINDS)] for name, pair in pairs.items()]
    return tabulate(lines, [first, *KINDS.values()], tablefmt="github", disable_numparse=True)


def arms_of(found: Mapping[str, Result]) -> str:
    """The attention and the contributions of each recipe's blocks, inside each category."""
    inside = Predictions([run for own in found.values() for run in own.runs if run.kind == "in-domain"])
    return render([*attention_table(inside), *contributions_table(inside)])


def main() -> None:
    """Evaluate what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("savoias", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipe", action="append", dest="recipes")
    parser.add_argument("--regressor", action="append", dest="regressors")
    args = parser.parse_args()
    recipes, regressors = args.recipes or RECIPES, args.regressors or REGRESSORS
    found: dict[str, dict[str, Result]] = {}
    for name in recipes:
        paths = caches(args.savoias, args.work, name)
        found[name] = {regressor: result(name, regressor, paths) for regressor in regressors}
    print(f"# Accuracy of recipes and regressors\n\n```\n{describe()}\n```\n")
    print("Mean r over the categories [95%]; seconds of all trainings, and the memory that they add.")
    for name, own in found.items():
        print(f"\n## Recipe {name}, {recipe(name).dim} columns\n\n{score_table(own)}")
        for base in AGAINST:
            if pairs := {r: (one, own[base]) for r, one in own.items() if base in own and r != base}:
                print(f"\nLess {base}, image by image:\n\n{difference_table(pairs, 'regressor')}")
        print(f"\n{arms_of(own)}")
    print("\n## Recipes against offline, image by image")
    for name, own in found.items():
        if name != "offline" and "offline" in found:
            pairs = {r: (one, found["offline"][r]) for r, one in own.items()}
            print(f"\n**{name}**\n\n{difference_table(pairs, 'regressor')}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        predict(*sys.argv[2:4], Path(sys.argv[4]), sys.argv[5:])
    else:
        main()
