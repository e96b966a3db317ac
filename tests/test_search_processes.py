"""A search by real processes: killed, interrupted, and several at once on one study."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from test_search import study_of, toy

from drexcache.studies.searching.space import make_space
from drexcache.studies.searching.storage import JOURNAL, open_storage
from drexcache.studies.searching.study import search
from drexcache.studies.searching.trials import (
    BEAT,
    WORKER,
    SpaceSampler,
    claim,
    counted,
    elsewhere,
    finished,
    give_up,
    is_void,
)

SCRIPT = """
import sys
from test_search import toy
from drexcache.studies.searching.study import search
found = search(toy(), ["svr"], sys.argv[1], total_trials=int(sys.argv[2]), repeats=5)
print(int(found.interrupted), found.finished)
"""


def start(folder: Path, total: int) -> subprocess.Popen[str]:
    """A search of svr in a process of its own, 25 trainings per trial."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(total)], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for_trials(folder: Path, count: int) -> None:
    """Until so many trials are finished."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        journal = folder / JOURNAL
        if journal.exists() and journal.read_text().count('"op_code":6') >= count:
            return
        time.sleep(0.02)
    raise AssertionError("no trial was finished in two minutes")


def states(folder: Path) -> Counter[str]:
    trials = study_of(folder, "svr").get_trials(deepcopy=False)
    return Counter("void" if is_void(trial) else trial.state.name for trial in trials)


def test_killed_and_continued(tmp_path: Path) -> None:
    process = start(tmp_path, 12)
    wait_for_trials(tmp_path, 3)
    process.kill()
    process.communicate()
    before = {t.number: t.values for t in finished(study_of(tmp_path, "svr"))}
    running = [t.number for t in study_of(tmp_path, "svr").trials if t.state is TrialState.RUNNING]
    with (tmp_path / JOURNAL).open("a") as journal:
        journal.write('{"op_code":5,"worker_id":"half a li')  # as a full disk leaves it
    found = search(toy(), ["svr"], tmp_path, total_trials=12, repeats=5)
    after = {t.number: t.values for t in finished(study_of(tmp_path, "svr"))}
    assert found.finished == len(after) == 12
    assert {number: after[number] for number in before} == before  # nothing finished is lost or done again
    assert states(tmp_path)["RUNNING"] == 0
    assert states(tmp_path)["void"] == len(running)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_continued(tmp_path: Path, how: signal.Signals) -> None:
    process = start(tmp_path, 200)
    wait_for_trials(tmp_path, 3)
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    done = sum(states(tmp_path)[name] for name in ("COMPLETE", "PRUNED"))
    assert out.split() == [str(int(how)), str(done)]
    assert states(tmp_path)["RUNNING"] == 0
    assert json.loads((tmp_path / "best.json").read_text())["trials"] == done


def test_three_processes_make_the_total_together_although_one_is_killed(tmp_path: Path) -> None:
    processes = [start(tmp_path, 18) for _ in range(3)]
    wait_for_trials(tmp_path, 5)
    processes[0].kill()
    outs = [process.communicate(timeout=300) for process in processes]
    assert [out.split() for out, _ in outs[1:]] == [["0", "18"]] * 2, outs
    counts = states(tmp_path)
    assert counts["COMPLETE"] + counts["PRUNED"] == 18
    assert counts["RUNNING"] == 0
    study = study_of(tmp_path, "svr")
    seen = [tuple(sorted(trial.params.items())) for trial in finished(study)]
    assert len(set(seen)) == 18  # every process draws from seeds of its own
    assert len({trial.user_attrs[WORKER] for trial in finished(study)}) >= 2


def test_a_claim_that_came_too_late_is_given_up(tmp_path: Path) -> None:
    """Two processes both see one free place: the one with the higher number leaves."""
    storage = open_storage(None, tmp_path)
    study = optuna.create_study(storage=storage, study_name="s")
    first = claim(study, {}, 2)
    assert first is not None
    other = optuna.load_study(storage=open_storage(None, tmp_path), study_name="s")
    assert counted(other) == 1
    late = other.ask()  # asked after another process took the last place, before it could know
    assert claim(study, {}, 2) is None
    give_up(other, late.number)
    assert counted(study) == 1
    assert claim(study, {}, 2) is not None
    assert claim(other, {}, 2) is None


def test_a_process_without_a_sign_of_life_is_taken_for_dead(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(None, tmp_path), study_name="s")
    quiet, lively = study.ask(), study.ask()
    for trial, seconds_ago in ((quiet, 1000), (lively, 10)):
        trial.set_user_attr(WORKER, "another-machine:1")
        trial.set_user_attr(BEAT, time.time() - seconds_ago)
    assert elsewhere(study, []) == ([lively.number], [quiet.number])
    assert elsewhere(study, [quiet.number]) == ([lively.number], [])


def test_seeds_are_distinct_and_the_sampler_learns(tmp_path: Path) -> None:
    space = make_space("svr", toy())
    sampler = SpaceSampler(space, space.defaults(toy()), 42)
    assert len({sampler.seed_of(number) for number in range(1000)}) == 1000
    study = optuna.create_study(
        storage=open_storage(None, tmp_path), study_name="s", sampler=sampler, direction="maximize"
    )
    for _ in range(50):
        trial = study.ask(space.distributions)
        study.tell(trial, -abs(np.log10(trial.params["svr__C"]) - 1))
    late = [abs(np.log10(trial.params["svr__C"]) - 1) for trial in study.trials[-15:]]
    early = [abs(np.log10(trial.params["svr__C"]) - 1) for trial in study.trials[:10]]
    assert np.mean(late) < 0.8 * np.mean(early)
