"""Ctrl-C and SIGTERM at any moment of any command: status 130 or 143, one sentence, files old or new, never half."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import draw
from test_outputs import all_commands

from drexcache.cli import main

READY = "import sys; from drexcache.cli import main; print('ready', flush=True); main()"
COMMANDS = {
    "extract": "extract pictures --ratings pictures/ratings.csv --recipe classic -o more.h5",
    "train": "train art.h5 -r fusion -o model.drex --log log.csv",
    "evaluate": "evaluate art.h5 -r svr -r fusion -o scores.csv",
    "ablate": "ablate art.h5 -r svr -o ablation.csv",
    "search": "search art.h5 -r svr -r neighbours -o found --total-trials 300 --split none",
    "compare": "compare given.csv -o pairs.csv",
    "report": "report given.csv -o report.html --images art=pictures",
    "predict": "predict given.drex pictures -o predictions.csv",
    "cache export": "cache export art.h5 -o table.csv",
    "cache rate": "cache rate changed.h5 pictures/ratings.csv --target again --range 0 100 --replace",
    "cache verify": "cache verify art.h5",
    "cache merge": "cache merge part1.h5 part2.h5 -o merged.h5",
    "cache import": "cache import clip.csv --block clip -o changed.h5 --replace",
    "cache info": "cache info art.h5",
    "cache diff": "cache diff art.h5 art.h5",
    "regressors": "regressors",
    "recipes": "recipes",
    "runs": "runs",
    "demo": "demo -o demo",
    "curve": "curve art.h5 -r ridge -o curve.csv",
    "similar": "similar art.h5",
    "push": "push art.h5 ada/art --dry-run",
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, their cache, a model and scores."""
    folder = tmp_path_factory.mktemp("workplace")
    draw(folder / "pictures", 30)
    table = "".join(f"{number:03}.png,{number},{number % 3}\n" for number in range(30))
    (folder / "clip.csv").write_text(f"file,clip_1,clip_2\n{table}")
    for line in (
        "extract pictures --ratings pictures/ratings.csv --range 0 100 --recipe classic --dataset art -o art.h5",
        "train art.h5 -r ridge -o given.drex",
        "evaluate art.h5 -r svr -r ridge -o given.csv",
        "extract pictures --ratings pictures/ratings.csv --range 0 100 --recipe classic --shard 1/2 -o part1.h5",
        "extract pictures --ratings pictures/ratings.csv --range 0 100 --recipe classic --shard 2/2 -o part2.h5",
    ):
        done = run(folder, line)
        assert done.returncode == 0, done.stderr
    shutil.copy(folder / "art.h5", folder / "changed.h5")  # two targets would make the others ask for one
    return folder


def run(folder: Path, line: str, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "drexcache.cli", *line.split()]
    return subprocess.run(command, cwd=folder, env=os.environ | changes, capture_output=True, text=True, check=False)


def cut(folder: Path, line: str, how: signal.Signals, delay: float) -> tuple[int, str, str]:
    """Exit status, output and standard error of a command that gets a signal so long after its start."""
    process = subprocess.Popen(
        [sys.executable, "-c", READY, *line.split()], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=delay)
    process.send_signal(how)
    printed, said = process.communicate(timeout=120)
    return process.returncode, printed, said


def check_cut(folder: Path, name: str, how: signal.Signals, delay: float) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    status, printed, said = cut(folder, COMMANDS[name], how, delay)
    # Where the work is over and the interpreter is ending, the signal itself ends it: a shell shows the same status.
    ending = status == -how
    assert status in (0, 128 + how) or ending, (name, how, delay, said)
    assert "Traceback" not in said, (name, how, delay, said)
    if ending:
        (folder / "merged.h5").unlink(missing_ok=True)  # merge writes a new file
        assert (printed or said) and run(folder, COMMANDS[name]).returncode == 0, (name, how, delay, said)
    elif status:
        assert "stopped" in said or "interrupted" in said, (name, how, delay, said)
    for path in folder.iterdir():
        if path.suffix in (".csv", ".html", ".drex") and path.is_file():
            assert path.stat().st_size > 20
    assert before.keys() <= {path for path in folder.iterdir() if path.is_file()}


def test_every_command_is_interrupted() -> None:
    assert all_commands(main) == COMMANDS.keys() | {"import-reference", "export"}  # which need backbones


@pytest.mark.parametrize("name", COMMANDS)
def test_a_signal_at_a_random_moment(workplace: Path, name: str) -> None:
    rng = random.Random(name)
    for how in (signal.SIGINT, signal.SIGTERM):
        check_cut(workplace, name, how, rng.uniform(0.1, 3.0))
        (workplace / "merged.h5").unlink(missing_ok=True)  # merge writes a new file
    if name in ("extract", "cache rate", "cache import"):
        assert run(workplace, COMMANDS[name]).returncode == 0
        for cache in ("art.h5", "changed.h5"):
            assert run(workplace, f"cache verify {cache}").returncode == 0


@pytest.mark.thorough
@pytest.mark.parametrize("name", COMMANDS)
def test_signals_at_many_moments(workplace: Path, name: str) -> None:
    rng = random.Random(name)
    for _ in range(40):
        check_cut(workplace, name, rng.choice([signal.SIGINT, signal.SIGTERM]), rng.uniform(0.0, 6.0))
        (workplace / "merged.h5").unlink(missing_ok=True)
    done = run(workplace, COMMANDS[name])
    assert done.returncode == 0, done.stderr
