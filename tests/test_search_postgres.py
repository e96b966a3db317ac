"""Searches that share a study on a server: PostgreSQL, and Optuna's gRPC proxy in front of it; all real."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import optuna
import pytest
from click.testing import CliRunner
from conftest import draw, tiny_recipe
from postgres_server import GUARDED, postgres
from sqlalchemy import make_url

import drexcache
from drexcache.cli import main
from drexcache.features import extract
from drexcache.studies.searching import storage as search_storage
from drexcache.studies.searching.space import SearchSpace, make_space
from drexcache.studies.searching.storage import open_storage
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
    open_study,
)

psycopg = pytest.importorskip("psycopg", reason="needs psycopg (pip install 'drexcache[postgres]')")

TOTAL, SINGLE = 24, 5  # trials of a search; searches by one process that say how much its best score varies
MARGIN = 3.0  # standard deviations of those below their mean that the shared search may end
START = """
import sys
import drexcache.studies.searching.study
from drexcache.cli import main
print("ready", flush=True)
sys.stdin.readline()
main()
"""
SERVE = """
import sys
from optuna.storages import get_storage, run_grpc_proxy_server
run_grpc_proxy_server(get_storage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]))
"""
NewDatabase = Callable[[], str]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty drawn pictures with two blocks."""
    folder = tmp_path_factory.mktemp("cache")
    table = drexcache.read_images(draw(folder / "pictures", 60), value_range=(0, 100))
    extract(table, tiny_recipe(), folder / "pictures.h5")
    return folder / "pictures.h5"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a running PostgreSQL server's first database."""
    with postgres() as url:
        yield url.replace("+psycopg", "")  # as users write it


@pytest.fixture
def new_database(server: str) -> NewDatabase:
    """Makes empty databases, each at a URL of its own."""

    def new() -> str:
        name = f"d{time.time_ns()}"
        run_sql(server, f"CREATE DATABASE {name}")
        return make_url(server).set(database=name).render_as_string(hide_password=False)

    return new


def run_sql(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@contextmanager
def proxy_of(url: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The URL and the process of Optuna's proxy in front of a database."""
    pytest.importorskip("grpc", reason="needs grpcio (pip install 'drexcache[grpc]')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = url.replace("postgresql://", "postgresql+psycopg://")
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVE, address, str(port)], stderr=subprocess.DEVNULL
    )
    try:
        yield f"grpc://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


def command(cache: Path, out: Path, url: str, total: int) -> list[str]:
    """The settings of svr are continuous: no two candidates are alike by chance."""
    return [
        "search", str(cache), "-r", "svr", "-o", str(out), "--total-trials", str(total), "--split", "none", "--storage",
        url,
    ]  # fmt: skip


def start(count: int, arguments: list[str]) -> list[subprocess.Popen[str]]:
    """The real command line in so many processes, at the same moment."""
    run, pipe = [sys.executable, "-c", START, *arguments], subprocess.PIPE
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(run, env=environment, text=True, stdin=pipe, stdout=pipe, stderr=pipe) for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return processes


def study_at(url: str) -> optuna.Study:
    return optuna.load_study(study_name="pictures/svr", storage=open_storage(url, Path()))


def kill_one_that_works(processes: list[subprocess.Popen[str]], url: str) -> int:
    """Once each has finished a trial, SIGKILL a process that has a running one, and say which trial that is."""
    names = {f"{socket.gethostname()}:{process.pid}": process for process in processes}
    storage, deadline = open_storage(url, Path()), time.monotonic() + 120
    while time.monotonic() < deadline:
        time.sleep(0.02)
        with suppress(KeyError):  # no process has made the study yet
            study = optuna.load_study(study_name="pictures/svr", storage=storage)
            if {trial.user_attrs[WORKER] for trial in finished(study)} < set(names):
                continue
            for name, process in names.items():
                process.send_signal(signal.SIGSTOP)
                time.sleep(0.1)  # what it has just sent arrives
                for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
                    if trial.user_attrs.get(WORKER) == name:
                        process.kill()
                        process.communicate()
                        return trial.number
                process.send_signal(signal.SIGCONT)
    raise AssertionError("no process has worked for two minutes")


def check_shared_search(cache: Path, count: int, total: int, url: str, out: Path) -> float:
    """So many processes, of which one is killed in the middle: the others make the total. The best score."""
    processes = start(count, command(cache, out, url, total))
    try:
        lost = kill_one_that_works(processes, url)
        outs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    living = [process for process in processes if process.returncode != -signal.SIGKILL]
    assert [process.returncode for process in living] == [0] * (count - 1), outs
    study = study_at(url)
    assert Counter("void" if is_void(trial) else trial.state.name for trial in study.trials)["RUNNING"] == 0
    done = finished(study)
    assert len(done) == total
    assert is_void(study.trials[lost])  # given up, and another has taken its place
    assert [trial.number for trial in study.trials] == list(range(len(study.trials)))
    assert len({tuple(sorted(trial.params.items())) for trial in done}) == total
    assert len({trial.user_attrs[WORKER] for trial in done}) == count
    best = json.loads((out / "best.json").read_text())
    assert (best["trials"], best["score"]) == (total, study.best_value)
    assert best["nested"] is not None  # of the predictions of all processes
    return float(study.best_value)


def test_four_processes_share_a_study_on_postgresql(cache: Path, new_database: NewDatabase, tmp_path: Path) -> None:
    """They start on an empty database at the same moment, and one is killed."""
    url, out = new_database(), tmp_path / "shared"
    best = check_shared_search(cache, 4, TOTAL, url, out)
    matrix = drexcache.open_cache(cache).matrix()
    alone = [
        search(matrix, ["svr"], tmp_path / str(seed), total_trials=TOTAL, seed=seed).best["score"]
        for seed in range(SINGLE)
    ]
    print(f"best of four processes {best:.4f}; of one process {np.round(alone, 4).tolist()}")
    assert best >= np.mean(alone) - MARGIN * np.std(alone, ddof=1)
    space = make_space("svr", matrix)
    sampler = SpaceSampler(space, space.defaults(matrix), 42)
    numbers = [trial.number for trial in study_at(url).trials]
    assert len({sampler.seed_of(number) for number in numbers}) == len(numbers)


def test_two_processes_search_through_a_proxy(cache: Path, new_database: NewDatabase, tmp_path: Path) -> None:
    with proxy_of(new_database()) as (url, _):
        check_shared_search(cache, 2, 12, url, tmp_path / "shared")


@contextmanager
def storage_of(kind: str, url: str) -> Iterator[str]:
    if kind == "postgresql":
        yield url
    else:
        with proxy_of(url) as (address, _):
            yield address


@pytest.mark.parametrize("kind", ["postgresql", "proxy"])
def test_a_process_of_another_machine_that_falls_silent_is_replaced(
    kind: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    """Optuna's heartbeat needs Study.optimize, and the proxy does not pass it on; ours is an attribute of the trial."""
    with storage_of(kind, new_database()) as url:
        study = open_study(open_storage(url, tmp_path), "s", "maximize", {"seed": 1}, SearchSpace("svr", ("deep",)))
        quiet, lively = study.ask(), study.ask()
        for trial, seconds_ago in ((quiet, 1000), (lively, 10)):
            trial.set_user_attr(WORKER, "another-machine:1")
            trial.set_user_attr(BEAT, time.time() - seconds_ago)
        other = open_study(open_storage(url, tmp_path), "s", "maximize", {"seed": 1}, SearchSpace("svr", ("deep",)))
        assert claim(other, {}, 2) is None
        assert elsewhere(other, []) == ([lively.number], [quiet.number])
        give_up(other, quiet.number)
        assert counted(other) == 1
        taken = claim(other, {}, 2)
        assert taken is not None
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            quiet.set_user_attr(BEAT, time.time())  # it was only slow: its result will not count twice
        assert claim(study, {}, 2) is None


def refused(cache: Path, out: Path, url: str) -> str:
    """What the command says, in one sentence that never holds the password."""
    result = CliRunner().invoke(main, command(cache, out, url, total=2))
    assert result.exit_code == 1, result.output
    said = result.stderr.strip()
    assert said.count("\n") == 0
    assert not re.search("secret|Traceback", said)
    return said


def test_rights_and_passwords(cache: Path, server: str, new_database: NewDatabase, tmp_path: Path) -> None:
    empty, used = make_url(new_database()), make_url(new_database())
    run_sql(server, f"CREATE ROLE {GUARDED} LOGIN PASSWORD 'secret'")
    open_storage(used.render_as_string(), tmp_path)
    run_sql(used.render_as_string(), f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {GUARDED}")

    def said(url: str) -> str:
        return refused(cache, tmp_path, url)

    as_guarded = [url.set(username=GUARDED, password="secret") for url in (empty, used)]
    texts = [said(url.render_as_string(hide_password=False)) for url in as_guarded]
    assert "permission denied for schema public; give the role a database of its own" in texts[0]
    assert "permission denied for table studies" in texts[1]
    wrong = said(as_guarded[0].set(password="not-secret").render_as_string(hide_password=False))
    assert f"{GUARDED}@127.0.0.1:{empty.port}/{empty.database}: the storage of trials cannot be used" in wrong
    assert f'password authentication failed for user "{GUARDED}"' in wrong
    in_query = said(f"postgresql://127.0.0.1:{empty.port}/postgres?user={GUARDED}&password=not-secret")
    assert "password authentication failed" in in_query
    assert 'database "nowhere" does not exist' in said(empty.set(database="nowhere").render_as_string())


def test_servers_that_do_not_answer(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_storage, "CONNECT", 1)
    with socket.socket() as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        assert "connection timeout expired" in refused(cache, tmp_path, f"postgresql://me:secret@127.0.0.1:{port}/db")
        pytest.importorskip("grpc", reason="needs grpcio (pip install 'drexcache[grpc]')")
        assert "no proxy has answered within 1 seconds" in refused(cache, tmp_path, f"grpc://127.0.0.1:{port}")
    assert "Connection refused" in refused(cache, tmp_path, "postgresql://me:secret@127.0.0.1:1/db")
    assert "no proxy has answered within 1 seconds" in refused(cache, tmp_path, "grpc://127.0.0.1:1")
    assert "a proxy is given as grpc://HOST:PORT" in refused(cache, tmp_path, "grpc://127.0.0.1")


def test_packages_that_are_missing(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("psycopg", "grpc"):
        monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    assert "pip install 'drexcache[postgres]'" in refused(cache, tmp_path, "postgresql://me:secret@127.0.0.1:1/db")
    assert "pip install 'drexcache[grpc]'" in refused(cache, tmp_path, "grpc://127.0.0.1:13000")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_proxy_that_is_lost_in_the_middle(
    cache: Path, new_database: NewDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    """Gone, or there and silent: the search ends in a sentence, and what is finished is kept."""
    monkeypatch.setattr(search_storage, "CALL", 1.0)
    database = new_database()
    with proxy_of(database) as (url, process):

        def lose(done: int, total: int, label: str) -> None:
            if done >= 2:
                process.send_signal(how)

        with pytest.raises(drexcache.DrexcacheError, match=r"the storage of trials cannot be used: the proxy: "):
            search(
                drexcache.open_cache(cache).matrix(), ["svr"], tmp_path, total_trials=200, repeats=3, storage=url,
                progress=lose,
            )  # fmt: skip
    assert len(finished(study_at(database))) >= 2
