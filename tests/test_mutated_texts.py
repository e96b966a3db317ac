"""Altered texts (settings, recipes, scores, ledgers, ratings, ...) are read, or refused in a sentence."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from small_scores import names, run_of, save_scores
from test_search import toy

from drexcache import DrexcacheError, recipe
from drexcache.datasets import match_comparisons, read_comparisons, read_ratings
from drexcache.regressors import read_settings
from drexcache.scores import ScoreTable
from drexcache.studies import ledger, search
from drexcache.studies.comparison import read_curves
from drexcache.studies.evaluation import Predictions, predictions_beside, read_pair
from drexcache.studies.reporting.searches import read_search
from drexcache.studies.searching.space import read_narrowed

ROOT = Path(__file__).parents[1]
WORDS = [
    b"", b" ", b"\0", b"\n", b'"', b"'", b"{}", b"[]", b"null", b"true", b"-1", b"0", b"1e999", b"nan", b"inf", b"1_0",
    b"9" * 400, b"[" * 3000, b"{" * 3000, b"\xff", "é".encode(), "\u2028".encode(), b"1900-01-01", b"1,5", b";", b"\t",
]  # fmt: skip
SPACE = '[ridge]\nalphas = [0.1, 1.0]\n[svr]\nsvr__C = [0.1, 10.0]\nkernel = ["rbf"]\nblocks = ["cues"]\n'
WINNERS = "winner,loser,tie,rater,weight\na.png,b.png,no,x,1\nb.png,c.png,yes,y,2\nc.png,a.png,,x,1.5\n"
CHOICES = "left;right;choice;rater\na.png;b.png;left;x\nb.png;c.png;tie;y\nc.png;a.png;c.png;x\n"
CURVE = "regressor,dataset,kind,images,value,low,high\nridge,art,measured,10,0.5,0.4,0.6\nridge,art,fitted,10,0.5,,\n"
SEVERAL = "file;ana;ben;split\na.png;1,5;2;train\nb.png;3;;test\nc.png;4;4,5;train\nd.png;;;\n"


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to three changes: bytes, words, parts that go, come twice or change places."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        to, kind = min(len(data), at + rng.choice((0, 1, 1, 2, 5, 20))), rng.randrange(6)
        if kind == 0:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind <= 2:
            data = data[:at] + rng.choice(WORDS) + data[to:]
        elif kind == 3:
            lines = data.splitlines(keepends=True) or [b""]
            line, other = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[line : line + 1] = rng.choice([[], [lines[line]] * 2, [lines[other]], [b"\n"]])
            data = b"".join(lines)
        elif kind == 4:
            parts = data.split(separator := rng.choice((b",", b":", b"=", b'"', b"\n")))
            one, two = rng.randrange(len(parts)), rng.randrange(len(parts))
            parts[one], parts[two] = parts[two], parts[one]
            data = separator.join(parts)
        else:
            data = data[:at] if rng.random() < 0.3 else data[:at] + data[to:]
    return data


def texts(folder: Path) -> dict[str, tuple[Path, Callable[[Path], Any]]]:
    """What is altered, and what reads it."""
    ids = names(14)
    scores = save_scores(folder / "s.csv", [run_of(name, "art", "art", ids) for name in ("ridge", "svr")])
    found = folder / "found"
    search(toy(), ["svr"], found, total_trials=4)
    (folder / "space.toml").write_text(SPACE)
    (folder / "r.csv").write_text("file,rating,split\na.png,1.5,train\nb.png,3,test\n")
    (folder / "raters.csv").write_text(SEVERAL)
    for name, text in (("winners", WINNERS), ("choices", CHOICES), ("curve", CURVE)):
        (folder / f"{name}.csv").write_text(text)
    (folder / "recipe.toml").write_bytes((ROOT / "drexcache" / "recipe_files" / "drex.toml").read_bytes())
    scored = [{"regressor": "ridge", "train": "art", "test": "art", "metric": "rmse", "value": 0.5}]
    caches = [{"path": "art.h5", "dataset": "art", "images": 14}]
    record = ledger.append(
        folder / "s.csv", "evaluate", regressors=["ridge"], scores=scored, caches=caches, files=["s"]
    )
    return {
        "settings": (found / "best.json", read_settings),
        "search": (found / "best.json", lambda path: read_search(path.parent)),
        "space": (folder / "space.toml", lambda path: read_narrowed(path, ["ridge", "svr"])),
        "recipe": (folder / "recipe.toml", recipe),
        "scores": (scores, ScoreTable.read_csv),
        "predictions": (predictions_beside(scores), Predictions.read_csv),
        "scores and predictions": (scores, read_pair),
        "ledger": (record, summaries),
        "ratings": (folder / "r.csv", read_ratings),
        "raters": (folder / "raters.csv", read_ratings),
        "comparisons": (folder / "winners.csv", compared),
        "choices": (folder / "choices.csv", compared),
        "curve": (folder / "curve.csv", read_curves),
    }


def compared(path: Path) -> object:
    return match_comparisons(["a.png", "b.png", "c.png"], read_comparisons(path), allow_unmatched=True)


def summaries(path: Path) -> list[list[str]]:
    return [ledger.summary(entry, "rmse", 80) for entry in ledger.select(ledger.read(path)[0])]


def faults(folder: Path, seeds: Sequence[int]) -> tuple[int, list[str]]:
    """How many were tried, and what went wrong with which text: anything but a sentence of one line."""
    wrong = {name: no_sentence(path, read, mutated, name, seeds) for name, (path, read) in texts(folder).items()}
    return len(wrong) * len(seeds), [one for found in wrong.values() for one in found]


def no_sentence(
    path: Path, read: Callable[[Path], object], mutant: Callable[[bytes, random.Random], bytes], name: str,
    seeds: Sequence[int],
) -> list[str]:  # fmt: skip
    """What reading the file's mutants raised other than a sentence of one line; the file is put back."""
    wrong, data = [], path.read_bytes()
    for seed in seeds:
        path.write_bytes(mutant(data, random.Random(f"{name} {seed}")))
        try:
            read(path)
        except DrexcacheError as error:
            if "\n" in str(error).strip() or len(str(error)) > 2000:
                wrong.append(f"{name} {seed}: {str(error)[:300]}")
        except Exception as error:
            wrong.append(f"{name} {seed}: {type(error).__name__}: {error}")
    path.write_bytes(data)
    return wrong


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.thorough)])
def test_altered_texts(tmp_path: Path, count: int) -> None:
    assert faults(tmp_path, range(count))[1] == []
