"""Which sizes, layers and poolings of the packaged backbones tell complexity: what recipe `complexity` was chosen by.

python benchmarks/recipe_ablation.py SAVOIAS --work DIR > benchmarks/results/recipe-ablation.md
python benchmarks/recipe_ablation.py SAVOIAS --work DIR --shapes > benchmarks/results/recipe-shapes.md

Everything is extracted once, 17,000 columns an image; a line of a table is a choice of columns, scored inside each
category (five folds, two divisions), from each category to each other, and from all others together to each. With
--shapes: whether images are better cropped, padded or mirrored.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from fusion_settings import correlation
from machine import describe
from tabulate import tabulate
from threadpoolctl import threadpool_limits

from drexcache import FeatureMatrix, open_cache, read_images, recipe
from drexcache.features import extract
from drexcache.recipes import Recipe, recipe_from_dict
from drexcache.regressors import make_regressor
from drexcache.studies.evaluation import hash_folds

CATEGORIES = ("Scenes", "Objects", "Advertisement")
REGRESSORS = ("ridge", "pls", "svr")
DIVISIONS = (0, 1)
RESAMPLES = 2000
DINO = {3: "blocks.2", 6: "blocks.5", 9: "blocks.8", 12: "norm"}  # a tap's number -> its layer
EFFNET = {number: (f"blocks.{number - 1}", dim) for number, dim in enumerate((16, 24, 40, 80, 112, 192, 320), 1)}

DINO_TAPS = "(cls|patch_mean|std)"
OFFLINE = "dino224/cls12|eff512/mean[12357]"
EFFNET_TAPS = "eff.../(mean|std|max)"
LINES = {  # a choice of columns, by "block/tap"; each table's first line is what its others are compared with
    "More taps of the two passes of offline": {
        "offline": OFFLINE,
        "+ all seven stages": "dino224/cls12|eff512/mean",
        "+ spread (std) of the stages": "dino224/cls12|eff512/(mean|std)[12357]",
        "+ max of the stages": "dino224/cls12|eff512/(mean|max)[12357]",
        "+ [CLS] of blocks 3, 6, 9": "dino224/cls|eff512/mean[12357]",
        "+ patch mean": "dino224/(cls|patch_mean)12|eff512/mean[12357]",
        "+ patch spread (std)": "dino224/(cls|std)12|eff512/mean[12357]",
        "+ patch max": "dino224/(cls|max)12|eff512/mean[12357]",
        "+ patch mean and spread, mean and spread of all stages": f"dino224/{DINO_TAPS}12|eff512/(mean|std)",
        "+ the same of blocks 3, 6, 9, 12": f"dino224/{DINO_TAPS}|eff512/(mean|std)",
        "+ the same and max": "dino224/|eff512/",
    },
    "Sizes": {
        "224 and 512": f"dino224/{DINO_TAPS}|eff512/(mean|std|max)",
        "DINO alone, 224": f"dino224/{DINO_TAPS}",
        "DINO alone, 448": f"dino448/{DINO_TAPS}",
        "DINO alone, both": f"dino.../{DINO_TAPS}",
        "EfficientNet alone, 256": "eff256/(mean|std|max)",
        "EfficientNet alone, 512": "eff512/(mean|std|max)",
        "EfficientNet alone, both": "eff.../(mean|std|max)",
        "224 and 256": f"dino224/{DINO_TAPS}|eff256/(mean|std|max)",
        "224, and both of EfficientNet": f"dino224/{DINO_TAPS}|{EFFNET_TAPS}",
        "448 and 512": f"dino448/{DINO_TAPS}|eff512/(mean|std|max)",
        "448, and both of EfficientNet": f"dino448/{DINO_TAPS}|{EFFNET_TAPS}",
        "both of both": f"dino.../{DINO_TAPS}|{EFFNET_TAPS}",
    },
    "Around recipe complexity": {
        "complexity: DINO at 448, EfficientNet at 256 and 512": f"dino448/{DINO_TAPS}|{EFFNET_TAPS}",
        "complexity-lean: DINO at 224": f"dino224/{DINO_TAPS}|{EFFNET_TAPS}",
        "DINO at 224 and 448": f"dino.../{DINO_TAPS}|{EFFNET_TAPS}",
        "+ DINO's max": f"dino448/|{EFFNET_TAPS}",
        "- DINO's [CLS]": f"dino448/(patch_mean|std)|{EFFNET_TAPS}",
        "- DINO's mean": f"dino448/(cls|std)|{EFFNET_TAPS}",
        "- DINO's std": f"dino448/(cls|patch_mean)|{EFFNET_TAPS}",
        "DINO's blocks 9 and 12 only": f"dino448/{DINO_TAPS}(9|12)|{EFFNET_TAPS}",
        "DINO's block 12 only": f"dino448/{DINO_TAPS}12|{EFFNET_TAPS}",
        "DINO's last [CLS] only": f"dino448/cls12|{EFFNET_TAPS}",
        "lean, DINO's block 12 only": f"dino224/{DINO_TAPS}12|{EFFNET_TAPS}",
        "lean, DINO's last [CLS] only": f"dino224/cls12|{EFFNET_TAPS}",
    },
    "EfficientNet's part of recipe complexity": {
        "complexity": f"dino448/{DINO_TAPS}|{EFFNET_TAPS}",
        "- EfficientNet's mean": f"dino448/{DINO_TAPS}|eff.../(std|max)",
        "- EfficientNet's std": f"dino448/{DINO_TAPS}|eff.../(mean|max)",
        "- EfficientNet's max": f"dino448/{DINO_TAPS}|eff.../(mean|std)",
        "- EfficientNet's stages 4 and 6": f"dino448/{DINO_TAPS}|{EFFNET_TAPS}[12357]",
        "- EfficientNet's stages 1 and 2": f"dino448/{DINO_TAPS}|{EFFNET_TAPS}[34567]",
        "- EfficientNet's stages 6 and 7": f"dino448/{DINO_TAPS}|{EFFNET_TAPS}[12345]",
    },
}
SHAPES = {
    "Shapes of images, and mirror images: DINO at 224, EfficientNet at 256": {
        "squeezed to a square": f"dino/{DINO_TAPS}|eff/",
        "middle square": f"dino-crop/{DINO_TAPS}|eff-crop/",
        "three squares, averaged": f"dino-crops/{DINO_TAPS}|eff-crops/",
        "padded to a square": f"dino-pad/{DINO_TAPS}|eff-pad/",
        "squeezed, and mirrored, averaged": f"dino-flip/{DINO_TAPS}|eff-flip/",
        "squeezed beside three squares": f"dino(-crops)?/{DINO_TAPS}|eff(-crops)?/",
    }
}
WAYS = {  # after a block's name
    "": {}, "-crop": {"fit": "crop"}, "-crops": {"fit": "crop", "crops": 3}, "-pad": {"fit": "pad"},
    "-flip": {"flip": True},
}  # fmt: skip


def superset(shapes: bool) -> Recipe:
    """Every size, layer and pooling that is tried as one recipe, or every shape."""
    dino = [
        {"name": f"{pool}{number}", "layer": layer, "pool": pool, "dim": 384}
        for number, layer in DINO.items()
        for pool in ("cls", "patch_mean", "std", "max")
    ]
    effnet = [
        {"name": f"{pool}{number}", "layer": layer, "pool": pool, "dim": dim}
        for number, (layer, dim) in EFFNET.items()
        for pool in ("mean", "std", "max")
    ]
    vit = {**asdict(recipe("offline").blocks[0]), "taps": dino}
    lite = {**asdict(recipe("offline").blocks[1]), "taps": effnet}
    if shapes:
        blocks = [{**lite, "name": f"eff{way}", "size": 256, **fields} for way, fields in WAYS.items()]
        blocks += [{**vit, "name": f"dino{way}", **fields} for way, fields in WAYS.items()]
    else:
        blocks = [{**lite, "name": f"eff{side}", "size": side} for side in (256, 512)]
        blocks += [{**vit, "name": f"dino{side}", "size": side} for side in (224, 448)]
    name = "shapes" if shapes else "super"
    return recipe_from_dict({"name": name, "weights": "packaged", "blocks": blocks}, name)


def extracted(savoias: Path, work: Path, wanted: Recipe) -> list[FeatureMatrix]:
    """The categories' features; what an earlier run has computed is kept."""
    matrices = []
    for category in CATEGORIES:
        table = read_images(savoias / "Images" / category, layout="savoias", allow_unmatched=True)
        out = work / f"{wanted.name}-{category.lower()}.h5"
        extract(table, wanted, out, say=lambda line: print(line, file=sys.stderr, flush=True))
        matrices.append(open_cache(out).matrix([block.name for block in wanted.blocks]))
    return matrices


def chosen(matrix: FeatureMatrix, pattern: str) -> FeatureMatrix:
    """The taps whose "block/tap" begins as the pattern says."""
    return matrix.select([tap for tap in matrix.taps if re.match(pattern, tap)])


def predictions(train: FeatureMatrix, y: np.ndarray, test: FeatureMatrix) -> np.ndarray:
    """(4, n) of ridge, pls, svr and their mean, each on the training predictions' own scale."""
    fitted = [make_regressor(name, train).fit(train.X, y) for name in REGRESSORS]
    single = [np.ravel(one.predict(test.X)) for one in fitted]
    return np.stack([*single, np.mean(single, axis=0)])


def inside(matrix: FeatureMatrix, division: int) -> np.ndarray:
    """(4, n) out-of-fold predictions."""
    folds, out = hash_folds(matrix.ids, 5, division), np.zeros((len(REGRESSORS) + 1, len(matrix)))
    for k in range(5):
        rest = matrix.rows(folds != k)
        out[:, folds == k] = predictions(rest, rest.y, matrix.rows(folds == k))
    return out


def pooled(matrices: Sequence[FeatureMatrix], test: FeatureMatrix) -> np.ndarray:
    """(4, n) predictions of a category by the others, each one's ratings on its own mean and spread."""
    X = np.concatenate([one.X for one in matrices])
    ids = [f"{one.dataset}/{name}" for one in matrices for name in one.ids]
    y = np.concatenate([0.5 + (one.y - one.y.mean()) / one.y.std() / 5 for one in matrices])
    return predictions(FeatureMatrix(X, y, ids, test.blocks), y, test)


def all_predictions(matrices: Sequence[FeatureMatrix]) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Kind of score -> (which category is tested, its (4, n) predictions)."""
    numbers = range(len(matrices))
    others = {i: [matrices[j] for j in numbers if j != i] for i in numbers}
    return {
        "inside": [(i, inside(matrices[i], division)) for i in numbers for division in DIVISIONS],
        "across": [(i, pooled([other], matrices[i])) for i in numbers for other in others[i]],
        "left out": [(i, pooled(others[i], matrices[i])) for i in numbers],
    }


def row(name: str, matrices: Sequence[FeatureMatrix], found: dict, first: dict) -> list[str]:
    """Mean r of every regressor inside, of their mean elsewhere, each with its difference to the first line."""
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(m), size=(RESAMPLES, len(m))) for m in matrices]  # the same for every line
    cells = [name, str(matrices[0].X.shape[1])]
    for kind, tested in found.items():
        rs = np.mean([correlation(matrices[i].y, predicted) for i, predicted in tested], axis=0)  # (4,)
        cells += [f"{r:.3f}" for r in (rs if kind == "inside" else rs[-1:])]
        if found is first:
            cells.append("")
            continue
        gains, point = np.zeros(RESAMPLES), 0.0
        for (i, new), (_, old) in zip(tested, first[kind], strict=True):
            y, pick = matrices[i].y, draws[i]
            gains += (correlation(y[pick], new[-1][pick]) - correlation(y[pick], old[-1][pick])) / len(tested)
            point += float(correlation(y, new[-1]) - correlation(y, old[-1])) / len(tested)
        low, high = np.percentile(gains, [2.5, 97.5])
        cells.append(f"{point:+.3f} [{low:+.3f}, {high:+.3f}]")
    return cells


def main() -> None:
    """Extract what is missing, then print a table for each question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("savoias", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shapes", action="store_true", help="cropped, padded and mirrored images instead")
    parser.add_argument("--only", default="", help="the tables whose title begins so")
    arguments = parser.parse_args()
    matrices = extracted(arguments.savoias, arguments.work, superset(arguments.shapes))
    threadpool_limits(1)  # on so few rows more threads only wait for each other
    what = "shapes" if arguments.shapes else "sizes, layers and poolings"
    print(f"# Choosing a recipe's {what}\n\n```\n{describe()}\n```")
    headers = ["features", "columns", *REGRESSORS, "their mean", "difference [95%]", "across", "difference [95%]",
               "left out", "difference [95%]"]  # fmt: skip
    for question, lines in (SHAPES if arguments.shapes else LINES).items():
        if not question.startswith(arguments.only):
            continue
        print(f"\n## {question}\n", flush=True)
        rows, first = [], None
        for name, pattern in lines.items():
            parts = [chosen(matrix, pattern) for matrix in matrices]
            found = all_predictions(parts)
            first = first or found
            rows.append(row(name, parts, found, first))
            print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
        print(tabulate(rows, headers, tablefmt="github", disable_numparse=True), flush=True)


if __name__ == "__main__":
    main()
