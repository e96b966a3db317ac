"""A folder as the pages of docs/ suppose it: the datasets that they name, with few small drawn pictures."""

from __future__ import annotations

import zipfile
from pathlib import Path

import openpyxl
from conftest import draw

from drexcache.recipes import Recipe, recipe, recipe_from_dict

SAVOIAS = {"Advertisement": "ad", "Objects": "objects", "Scenes": "scenes"}


def furnish(root: Path) -> None:
    """photos/ with photos.csv and raters.csv, holiday/ without ratings, SAVOIAS and IC9600 in their own forms."""
    photos = draw(root / "photos", 24)
    lines = (photos / "ratings.csv").read_text().splitlines()
    rated = [f"{line},{'indoors' if number % 2 else 'outdoors'}" for number, line in enumerate(lines[1:])]
    (root / "photos.csv").write_text("\n".join([f"{lines[0]},place", *rated]) + "\n")
    (photos / "ratings.csv").unlink()
    write_raters(root / "raters.csv", lines[1:])
    draw(root / "holiday", 3, start=40)
    (root / "holiday" / "ratings.csv").unlink()
    for at, (category, ending) in enumerate(SAVOIAS.items()):
        savoias(root / "savoias", category, ending, start=100 * (at + 1))
    ic9600(root / "IC9600.zip", root / "photos")


def write_raters(path: Path, lines: list[str]) -> None:
    """Five raters, who agree but for a few points."""
    out = ["file,rater_a,rater_b,rater_c,rater_d,rater_e"]
    for number, line in enumerate(lines):
        name, score, _ = line.split(",")
        ratings = [min(100.0, max(0.0, float(score) + (number * step) % 9 - 4)) for step in (2, 5, 7, 1, 4)]
        out.append(",".join([name, *(f"{rating:.1f}" for rating in ratings)]))
    path.write_text("\n".join(out) + "\n")


def savoias(root: Path, category: str, ending: str, start: int, count: int = 12) -> None:
    """One category: numbered pictures, and their ratings in a workbook."""
    folder = draw(root / "Images" / category, count, start)
    book = openpyxl.Workbook()
    book.worksheets[0].append(["gt"])
    for number, line in enumerate((folder / "ratings.csv").read_text().splitlines()[1 + start :]):
        name, score, _ = line.split(",")
        (folder / name).rename(folder / f"{number}.png")
        book.worksheets[0].append([float(score)])
    (folder / "ratings.csv").unlink()
    (root / "Ground truth" / "xlsx").mkdir(parents=True, exist_ok=True)
    book.save(root / "Ground truth" / "xlsx" / f"global_ranking_{ending}.xlsx")


def ic9600(path: Path, pictures: Path) -> None:
    """The zip of IC9600: images/, train.txt and test.txt."""
    names = sorted(picture.name for picture in pictures.glob("*.png"))
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.write(pictures / name, f"images/{name}")
        for split, part in (("train", names[:14]), ("test", names[14:])):
            text = "".join(f"{name}  {int(name[:3]) / 24:.3f}\n" for name in part)
            archive.writestr(f"{split}.txt", text)


def small_recipe(name: str | Path) -> Recipe:
    """The recipe of that name with tiny backbones and random weights in the place of those that need a download."""
    full = recipe(name)
    small = {"dino": ("test_vit", 160), "resnet": ("test_resnet", 32), "effnet": ("tf_efficientnet_lite0", 64)}
    blocks = []
    for block in full.blocks:
        if block.name not in small:
            return full
        backbone, size = small[block.name]
        taps = [{"name": tap.name, "layer": tap.layer, "pool": tap.pool} for tap in block.taps]
        blocks.append({"name": block.name, "backbone": backbone, "size": size, "taps": taps})
    return recipe_from_dict({"name": full.name, "weights": "random", "blocks": blocks}, "tests")
