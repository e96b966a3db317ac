"""What commands print: JSON for programs, tables that fit a terminal, plain text when piped, silence when asked for."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import draw
from small_scores import two_datasets

from drexcache.cli import main
from drexcache.cli.output import fitted
from drexcache.scores import Table, score_entry, score_tables
from drexcache.scores.table import ScoreTable

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def run(*words: str | Path, code: int = 0) -> Any:
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_datasets(tmp_path_factory.mktemp("output") / "scores.csv")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    run("extract", draw(folder / "pictures", 24), "--recipe", "classic", "--range", 0, 100, "-o", folder / "c.h5")
    return folder / "c.h5"


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a frame, None for what is not known."""
    return [{k: None if pd.isna(v) else v for k, v in line.items()} for line in frame.to_dict("records")]


def test_json_is_what_the_files_hold(scores: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.csv"
    printed = json.loads(run("evaluate", cache, "-r", "mean", "-r", "ridge", "-o", out, "--json").stdout)
    expected = records(ScoreTable.read_csv(out).to_pandas())
    assert [line | {"seconds": None} for line in printed] == [
        line | {"seconds": None} for line in json.loads(json.dumps(expected))
    ]
    ablated = json.loads(run("ablate", cache, "-r", "ridge", "--folds", 2, "-o", tmp_path / "a.csv", "--json").stdout)
    assert {line["regressor"] for line in ablated} > {"ridge"}
    pairs = json.loads(run("compare", scores, "--json", "-o", tmp_path / "pairs.csv").stdout)
    assert len(pairs) == len(pd.read_csv(tmp_path / "pairs.csv")) == 12
    assert {"first": "ridge", "second": "fusion"}.items() <= pairs[0].items()
    search = ("search", cache, "-r", "ridge", "-o", tmp_path / "s", "--total-trials", 2, "--split", "none", "--json")
    (row,) = json.loads(run(*search).stdout)
    assert row["regressor"] == "ridge" and row["score"] == json.loads((tmp_path / "s/best.json").read_text())["score"]


def test_json_of_checks(cache: Path) -> None:
    found = json.loads(run("cache", "verify", cache, "--json").stdout)
    assert found == {"path": str(cache), "intact": True, "problems": []}
    same = json.loads(run("cache", "diff", cache, cache, "--json").stdout)
    assert same == {"same": True, "differences": []}


def on_a_terminal(*words: str | Path, columns: int) -> str:
    """What a command writes to a terminal of that width."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "LINES": "50"}
    command = [sys.executable, "-m", "drexcache.cli", *map(str, words)]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, env=environment) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux: the other end was closed
                break
            if not piece:
                break
            written += piece
    os.close(ours)
    assert process.returncode == 0
    return written.decode().replace("\r\n", "\n")


def test_a_terminal_gets_tables_that_fit_and_a_pipe_plain_ones(scores: Path) -> None:
    shown = on_a_terminal("compare", scores, columns=100)
    assert max(len(ANSI.sub("", line)) for line in shown.splitlines()) <= 100
    assert "|" not in shown and "is better" in " ".join(shown.split())
    piped = run("compare", scores).stdout
    assert piped.startswith("| train → test") and not ANSI.search(piped)


def test_the_best_of_each_dataset_is_marked(scores: Path) -> None:
    inside, *_ = score_tables(ScoreTable.read_csv(scores), "rmse")
    for line in inside.body if inside.headers[0] == "dataset" else zip(*[row[1:] for row in inside.body], strict=True):
        entries = [one for one in line if not isinstance(one, str)]
        assert [one.best for one in entries] == [one.value == min(e.value for e in entries) for one in entries]
    text = fitted(inside, 200)
    marked = re.findall(r"\x1b\[32m\x1b\[1m(.*?)\x1b\[0m", text)
    assert marked == [str(one) for line in inside.body for one in line if not isinstance(one, str) and one.best]


def test_long_entries_are_wrapped_and_keep_their_mark() -> None:
    from dataclasses import replace

    best = replace(score_entry(0.5, 0.25, 0.75), best=True)
    text = fitted(Table("", ["name", "r"], [["a regressor with a long name", best]]), 24)
    assert max(len(ANSI.sub("", line)) for line in text.splitlines()) <= 24
    assert re.sub(r"\s+", " ", ANSI.sub("", text)).count("[0.250") == 1 and text.count("\x1b[32m") == 3


def test_quiet_prints_results_and_errors_only(cache: Path, tmp_path: Path) -> None:
    loud = run("train", cache, "-r", "ridge", "-o", tmp_path / "a.drex")
    assert "ridge trained on 24 rated images" in loud.stderr
    assert run("--quiet", "train", cache, "-r", "ridge", "-o", tmp_path / "b.drex").output == ""
    evaluated = run("-q", "evaluate", cache, "-r", "ridge", "-o", tmp_path / "s.csv")
    assert evaluated.stdout.startswith("**Inside a dataset") and evaluated.stderr == ""
    failed = run("-q", "train", cache, "-r", "rigde", "-o", tmp_path / "c.drex", code=1)
    assert failed.output.startswith("Error: no regressor named rigde")
    assert "ridge trained on 24" in run("train", cache, "-r", "ridge", "-o", tmp_path / "a.drex").stderr  # loud again


def test_verbose_shows_where_an_error_was(cache: Path, tmp_path: Path) -> None:
    plain = run("train", cache, "-r", "rigde", "-o", tmp_path / "c.drex", code=1)
    assert len(plain.output.splitlines()) == 1
    traced = run("--verbose", "train", cache, "-r", "rigde", "-o", tmp_path / "c.drex", code=1)
    assert "Traceback (most recent call last)" in traced.output and traced.output.endswith(plain.output)


def test_help_names_the_exit_statuses_and_the_completion() -> None:
    said = " ".join(run("--help").stdout.split())
    assert "Exit status: 0 done; 1 not done" in said and "130 after Ctrl-C, 143 after SIGTERM" in said
    assert 'eval "$(_DREXCACHE_COMPLETE=bash_source drexcache)"' in said


def test_the_shell_completes_commands_and_options() -> None:
    def completed(words: str, at: int) -> list[str]:
        environment = {**os.environ, "_DREXCACHE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        code = "import sys; sys.argv[0] = 'drexcache'; from drexcache.cli import main; main(prog_name='drexcache')"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert completed("drexcache tr", 1) == ["train"]
    assert completed("drexcache compare --aga", 2) == ["--against"]
