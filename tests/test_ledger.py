"""The ledger: what was run stays findable, whatever happens to the process that writes it."""

import json
import multiprocessing
import sys
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import draw

from drexcache.cli import main
from drexcache.cli.options import METRICS
from drexcache.errors import DrexcacheError
from drexcache.metrics import METRICS as ALL_METRICS
from drexcache.studies import ledger

SCORE = {"regressor": "ridge", "train": "art", "test": "art", "metric": "pearson", "value": 0.8}
SCORES = [
    SCORE,
    {**SCORE, "test": "maps", "value": 0.5},
    {**SCORE, "regressor": "mean", "value": None},
    {**SCORE, "metric": "rmse", "value": 0.1},
]
CACHES = [{"dataset": "art"}, {"dataset": "maps"}]


def test_there_and_back(tmp_path: Path) -> None:
    out = tmp_path / "s" / "scores.csv"
    out.parent.mkdir()
    where = ledger.append(out, "evaluate", regressors=["ridge"], scores=SCORES, files=[str(out), "/elsewhere/x.csv"])
    ledger.append(out.parent, "search", settings={"C": 1.5, "naïve": None})  # a folder as output holds its own record
    assert where == tmp_path / "s" / "drexcache-runs.jsonl"
    moved = (tmp_path / "s").rename(tmp_path / "moved")
    entries, notes = ledger.read(tmp_path)
    assert notes == []
    by_kind = {entry["kind"]: entry for entry in entries}
    assert by_kind["search"]["settings"] == {"C": 1.5, "naïve": None}
    assert by_kind["evaluate"]["scores"] == SCORES
    assert by_kind["evaluate"]["files"][0] == str(moved / "scores.csv")  # what moves along is found again
    assert datetime.fromisoformat(entries[0]["when"]).tzinfo is not None
    assert ledger.read(moved / "drexcache-runs.jsonl")[0] == entries


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    for number in range(3):
        ledger.append(tmp_path, "evaluate", number=number)
    path = tmp_path / ledger.NAME
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines()[0])):  # a writer that died after any number of bytes
        path.write_bytes(whole[:-cut])
        entries, notes = ledger.read(tmp_path)
        if cut > 1:
            assert [entry["number"] for entry in entries] == [0, 1]
            assert notes == [f"{path}: line 3 is not the whole record of a run and was left out"]
        ledger.append(tmp_path, "evaluate", number=3)
        found = sorted(entry["number"] for entry in ledger.read(tmp_path)[0])
        assert found == ([0, 1, 2, 3] if cut == 1 else [0, 1, 3])


def test_lines_that_are_no_runs_are_left_out_and_said(tmp_path: Path) -> None:
    ledger.append(tmp_path, "evaluate")
    path = tmp_path / ledger.NAME
    strange = ["[]", "{}", '{"when": 3, "kind": "x"}', '{"when": "2026-01-01", "kind": 3}', "\udcff", "[" * 100_000]
    strange += ['{"when": "2026-01-01", "kind": "x", "scores": [3]}', '{"when": "2026-01-01", "kind": "x", "files": 3}']
    for name in SCORE:
        broken = [{key: value for key, value in SCORE.items() if key != name}, {**SCORE, name: ["art"]}]
        strange += [json.dumps({"when": "2026-01-01", "kind": "x", "scores": [score]}) for score in broken]
    with path.open("ab") as file:
        file.write("\n".join(strange).encode("utf-8", "surrogateescape") + b"\n\n")
    entries, notes = ledger.read(tmp_path)
    assert (len(entries), len(notes)) == (1, len(strange))


def write_many(folder: Path, who: int) -> None:
    for i in range(40):
        ledger.append(folder, "search", who=who, i=i, text="x" * 50_000)


def test_many_processes_write_at_once(tmp_path: Path) -> None:
    start = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    writers = [start.Process(target=write_many, args=(tmp_path, who)) for who in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    entries, notes = ledger.read(tmp_path)
    assert notes == []
    assert sorted((entry["who"], entry["i"]) for entry in entries) == [(who, i) for who in range(4) for i in range(40)]


def test_select() -> None:
    monday = {"when": "2026-05-04T09:00:00+00:00", "kind": "evaluate", "scores": SCORES, "caches": CACHES,
              "regressors": ["ridge", "mean"]}  # fmt: skip
    friday = {"when": "2026-05-08T09:00:00+00:00", "kind": "search", "regressors": ["svr"], "caches": CACHES[:1]}
    both = [monday, friday]
    assert [entry["kind"] for entry in ledger.select(both)] == ["evaluate", "search"]
    assert [entry["kind"] for entry in ledger.select(both, kind="search")] == ["search"]
    assert [entry["kind"] for entry in ledger.select(both, since=datetime(2026, 5, 6))] == ["search"]
    assert [entry["scores"] for entry in ledger.select(both, dataset="maps")] == [[SCORES[1]]]
    assert [entry["scores"] for entry in ledger.select(both, regressor="mean")] == [[SCORES[2]]]
    assert [entry["scores"] for entry in ledger.select(both, metric="rmse")] == [[SCORES[3]], []]
    assert ledger.select(both, dataset="logos") == []


def test_what_cannot_be_written_or_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DrexcacheError, match=r"drexcache-runs.jsonl: this run cannot be written down: No such file"):
        ledger.append(tmp_path / "gone" / "scores.csv", "evaluate")
    with pytest.raises(DrexcacheError, match="no such file or folder to look for runs in"):
        ledger.read(tmp_path / "gone")
    (tmp_path / ledger.NAME).mkdir()
    with pytest.raises(DrexcacheError, match="Is a directory"):
        ledger.read(tmp_path)


def test_runs_fits_the_terminal_after_an_ablation(tmp_path: Path) -> None:
    scores = [
        {"regressor": f"ridge, without tap {at}", "kind": kind, "train": train, "test": "art", "metric": "pearson",
         "value": at / 100, "low": None, "high": None, "n": 50}
        for kind, train in (("in-domain", "art"), ("cross", "photographs of buildings at night"))
        for at in range(100)
    ]  # fmt: skip
    ledger.append(tmp_path / "a.csv", "ablate", scores=scores, files=[tmp_path / "a.csv"])
    listed = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["runs", str(tmp_path)])
    lines = [line for line in listed.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80
    assert lines[-2].endswith("  ridge, without tap 99 0.990 and 99 more")
    listed = CliRunner(env={"COLUMNS": "120"}).invoke(main, ["runs", str(tmp_path)])
    assert listed.stdout.splitlines()[-1].endswith(
        " ridge, without tap 99 0.990; ridge, without tap 98 0.980 and 98 more"
    )


def test_evaluate_leaves_a_line_and_runs_lists_it(tmp_path: Path) -> None:
    assert tuple(ALL_METRICS) == METRICS
    cache, out = tmp_path / "c d.h5", tmp_path / "s" / "scores.csv"
    made = CliRunner().invoke(main, ["extract", str(draw(tmp_path / "p", 20)), "--recipe", "classic", "-o", str(cache)])
    assert made.exit_code == 0, made.output
    arguments = ["evaluate", str(cache), "-r", "ridge", "-r", "mean", "--folds", "4", "-o", str(out)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    listed = CliRunner().invoke(main, ["runs", str(tmp_path), "--json"])
    (entry,) = json.loads(listed.stdout)
    options = ["--regressor", "ridge", "--regressor", "mean", "--out", str(out), "--folds", "4"]
    assert entry["command"] == " ".join(["drexcache", "evaluate", f"'{cache}'", *options])
    assert [(one["dataset"], one["images"], len(one["fingerprints"]["cues"])) for one in entry["caches"]] == [
        ("p", 20, 64)
    ]
    assert entry["files"] == [str(out), str(out.with_name("scores-predictions.csv"))]
    values = {score["regressor"]: score["value"] for score in entry["scores"]}
    text = CliRunner().invoke(main, ["runs", str(tmp_path)]).stdout
    assert f" evaluate rating {out}\n  p  ridge {values['ridge']:.3f}; mean undefined\n" in text
    assert "mean" not in CliRunner().invoke(main, ["runs", str(tmp_path), "--regressor", "ridge"]).stdout
    nothing = CliRunner().invoke(main, ["runs", str(tmp_path), "--since", "2126-01-01"])
    assert (nothing.stdout, nothing.stderr) == ("", "no runs found\n")
