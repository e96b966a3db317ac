"""Small datasets on disk, and what reading them gives, for the tests of what comes in."""

import zipfile
from pathlib import Path

import openpyxl
import pytest

from drexcache.datasets import ImageTable, Target, read_images
from drexcache.errors import DrexcacheError

ADVICE = "correct the file, or leave them out with --allow-unmatched"


def folder_of(root: Path, *names: str, **texts: str) -> Path:
    """A folder of files that hold their own name, and of texts: ratings="..." is ratings.csv."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name, encoding="utf-8")
    for name, text in texts.items():
        (root / f"{name}.csv").write_text(text, encoding="utf-8")
    return root


def zip_of(path: Path, members: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def workbook(path: Path, rows: list[list[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    book.save(path)
    return path


def values(table: ImageTable, name: str = "rating") -> list[float]:
    return table.targets[name].values.tolist()


def about(target: Target) -> tuple[object, ...]:
    return target.name, target.low, target.high, target.higher_is, target.declared


def refusal(*args: object, **options: object) -> str:
    with pytest.raises(DrexcacheError) as caught:
        read_images(*args, **options)  # type: ignore[arg-type]
    return str(caught.value)
