"""Whatever a command writes is the old file or the new one, however it is killed, cut off or out of space."""

from __future__ import annotations

import ast
import errno
import os
import random
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from conftest import draw
from power_loss import Recorder, recorded, restore
from test_faults import cheap_cues, failing, instead_of

from drexcache import DrexcacheError
from drexcache.cli import main
from drexcache.features import cues
from drexcache.studies.evaluation import read_pair
from drexcache.studies.reporting.searches import read_search

ROOT = Path(__file__).parents[1]
READ_ONLY = {"cache info", "cache verify", "cache diff", "recipes", "regressors", "runs", "push", "similar"}
MADE_OF_OTHERS = {"demo", "export", "import-reference"}  # extract, evaluate, ...; one write_file; Model.save
APPENDED = ("drexcache-runs.jsonl", "trials.journal")  # a line at a time, see test_ledger and test_search_strangers


@dataclass
class Command:
    """A command line that makes ``outputs`` (in out/), and one that replaces them by others.

    mixed : raises DrexcacheError where old and new outputs stand side by side.
    """

    outputs: tuple[str, ...]
    old: str
    new: str
    mixed: Callable[[], object] | None = None
    folders: tuple[str, ...] = field(default=("out",))


FIGURES = ("figures/figures.txt", "tables/paper.md")
TAPS = "--block cues/symmetry --block cues/colourfulness"
TIMED = ("s.csv", "best.json", "page.html")  # which hold seconds or the time
FOUND = ("best.json", "results.md", "results.csv", "importance.csv", "trials.csv")
WRITING = {
    "extract": Command(
        ("c.h5",), "extract a --range 0 100 --recipe classic -o out/c.h5",
        "extract b --range 0 100 --dataset a --prune --recipe classic -o out/c.h5",
    ),
    "cache merge": Command(("merged.h5",), "", "cache merge shard1.h5 shard2.h5 -o out/merged.h5"),
    "cache rate": Command(
        ("rated.h5",), "copy a.h5 out/rated.h5", "cache rate out/rated.h5 a/ratings.csv --target again --range 0 100",
    ),
    "cache import": Command(
        ("imported.h5",), "copy a.h5 out/imported.h5", "cache import clip.csv --block clip -o out/imported.h5",
    ),
    "cache export": Command(("table.csv",), "cache export a.h5 -o out/table.csv", "cache export b.h5 -o out/table.csv"),
    "train": Command(
        ("m.drex", "log.csv"), "train a.h5 --from fusion.json --seed 1 -o out/m.drex --log out/log.csv",
        "train a.h5 --from fusion.json --seed 2 -o out/m.drex --log out/log.csv",
    ),
    "evaluate": Command(
        ("s.csv", "s-predictions.csv"), "evaluate a.h5 -r ridge -o out/s.csv", "evaluate b.h5 -r ridge -o out/s.csv",
        lambda: read_pair("out/s.csv"),
    ),
    "ablate": Command(
        ("s.csv", "s-predictions.csv"), f"ablate a.h5 -r ridge {TAPS} -o out/s.csv",
        f"ablate b.h5 -r ridge {TAPS} -o out/s.csv", lambda: read_pair("out/s.csv"),
    ),
    "compare": Command(
        ("pairs.csv",), "compare both.csv -o out/pairs.csv", "compare both.csv --metric mae -o out/pairs.csv",
    ),
    "search": Command(
        FOUND, "search a.h5 -r svr -o out --total-trials 2 --split none",
        "search a.h5 -r svr -o out --total-trials 4 --split none", lambda: read_search("out"),
    ),
    "report": Command(
        ("page.html", *FIGURES), "report both.csv --no-thumbnails --export out -o out/page.html",
        "report other.csv --no-thumbnails --export out -o out/page.html", None, ("out", "out/figures", "out/tables"),
    ),
    "curve": Command(
        ("curve.csv",), "curve a.h5 -r ridge --steps 4 --folds 8 -o out/curve.csv",
        "curve b.h5 -r ridge --steps 4 --folds 8 -o out/curve.csv",
    ),
    "predict": Command(("p.csv",), "predict a.drex a.h5 -o out/p.csv", "predict b.drex a.h5 -o out/p.csv"),
}  # fmt: skip


def run(line: str) -> tuple[int, str]:
    """Exit status and everything that was said."""
    if line.startswith("copy"):
        shutil.copy(*line.split()[1:])
        return 0, ""
    result = CliRunner().invoke(main, line.split() if line else ["recipes"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two sets of pictures with their caches, models, scores and features of another tool."""
    folder = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        furnish(folder, patch)
        yield folder


def furnish(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Make ``folder`` the current one, with all that the commands read."""
    patch.chdir(folder)
    patch.setattr(cues.Cues, "prepare", cheap_cues)
    draw(folder / "a", 16)
    ratings = (draw(folder / "b", 16, start=16) / "ratings.csv").read_text().splitlines(keepends=True)
    (folder / "b" / "ratings.csv").write_text("".join(ratings[:1] + ratings[17:]))
    table = [f"{number:03}.png,{number},{number % 3}" for number in range(16)]
    Path("clip.csv").write_text("\n".join(["file,clip_1,clip_2", *table]) + "\n")
    Path("fusion.json").write_text('{"regressor": "fusion", "settings": {"width": 128, "epochs": 5, "min_steps": 0}}')
    for line in (
        *(f"extract {name} --range 0 100 --recipe classic -o {name}.h5" for name in "ab"),
        *(f"extract a --range 0 100 --recipe classic --shard {i}/2 -o shard{i}.h5" for i in (1, 2)),
        *(f"train {name}.h5 -r ridge -o {name}.drex" for name in "ab"),
        "evaluate a.h5 -r ridge -r svr -o both.csv", "evaluate b.h5 -r ridge -r svr -o other.csv",
    ):  # fmt: skip
        status, said = run(line)
        assert status == 0, said


@pytest.fixture
def out(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder out/, in the current one."""
    monkeypatch.chdir(workplace)
    clean()
    return workplace / "out"


def clean() -> None:
    shutil.rmtree("out", ignore_errors=True)
    Path("out").mkdir()


def made(command: Command, line: str) -> dict[str, bytes]:
    status, said = run(line)
    assert status == 0, said
    return contents(command)


def contents(command: Command) -> dict[str, bytes]:
    """Output -> its bytes, of those that are there."""
    return {name: path.read_bytes() for name in command.outputs if (path := Path("out", name)).is_file()}


def all_commands(group: click.Group, before: str = "") -> set[str]:
    names = set[str]()
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        names |= all_commands(command, f"{name} ") if isinstance(command, click.Group) else {before + name}
    return names


def test_every_command_is_in_one_of_the_lists() -> None:
    assert all_commands(main) == WRITING.keys() | READ_ONLY | MADE_OF_OTHERS


def test_no_other_file_of_ours_writes_files() -> None:
    """Outputs go through `drexcache.files`; what writes otherwise is listed here."""
    others = {
        "drexcache/files.py", "drexcache/cache/beside.py", "drexcache/cache/writer.py", "drexcache/cache/storage.py",
        "studies/ledger.py", "studies/searching/storage.py",
    }  # fmt: skip
    writing = {
        str(path.relative_to(ROOT))
        for room in ("drexcache", "features", "studies", "cli")
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _writes(node)
    }
    assert writing == others


def _writes(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    modes = [one.value for one in [*call.args, *(k.value for k in call.keywords)] if isinstance(one, ast.Constant)]
    flags = {one.attr for one in ast.walk(call) if isinstance(one, ast.Attribute)}
    opens = name in ("open", "File", "fdopen") and any(isinstance(m, str) and set(m) & set("wax+") for m in modes[:2])
    return (
        opens
        or (name == "open" and "O_CREAT" in flags)
        or name in ("write_text", "write_bytes", "imsave", "copyfile", "pwrite")
    )


@contextmanager
def recorders(command: Command) -> Iterator[dict[str, Recorder]]:
    with ExitStack() as stack:
        yield {folder: stack.enter_context(recorded(Path(folder), "")) for folder in command.folders}


@pytest.mark.parametrize("name", WRITING)
def test_killed_or_cut_off_at_any_moment(out: Path, name: str) -> None:
    assert cut_off(WRITING[name]) >= 30


def cut_off(command: Command) -> int:
    """Look at what a kill, and what a power cut, leaves at each moment of a run; the number of states."""
    old = made(command, command.old)
    assert old.keys() == (set(command.outputs) if command.old else set())
    with recorders(command) as watched:
        new = made(command, command.new)
    changed = {output for output in command.outputs if old.get(output) != new[output]}
    assert new.keys() == set(command.outputs) and changed
    rng, states = random.Random(0), 0
    for folder, recorder in watched.items():
        own = [output for output in command.outputs if Path("out", output).parent == Path(folder)]
        for moment in recorder.moments:
            for state in (moment.after_a_kill(), *(moment.after_a_cut(rng) for _ in range(5))):
                states += 1
                found = {output: state.get(Path(output).name) for output in own}
                fresh = {output for output in own if found[output] == new[output]}
                assert all(found[output] == old.get(output) for output in set(own) - fresh)
                if command.mixed and 0 < len(fresh & changed) < len(changed):
                    for output in own:
                        Path("out", output).write_bytes(found[output] or b"")
                    with pytest.raises(DrexcacheError):
                        command.mixed()
    again_from_the_middle(command, watched["out"], new)
    return states


def again_from_the_middle(command: Command, recorder: Recorder, new: dict[str, bytes]) -> None:
    """Where a process was killed with most files about, the same command goes through and takes them away."""
    moment = max(recorder.moments, key=lambda one: len(one.after_a_kill()))
    kept = {name: Path("out", name).read_bytes() for name in APPENDED if Path("out", name).exists()}
    restore(Path("out"), "", moment.after_a_kill() | kept)
    found = made(command, command.new)
    assert found.keys() == new.keys()
    assert leftovers() == []


def leftovers() -> list[str]:
    return sorted(path.name for path in Path("out").rglob("*") if path.suffix in (".new", ".writer", ".rewrite"))


@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize("most", [4, pytest.param(1000, marks=pytest.mark.thorough)])
def test_a_disk_that_fills_up_at_any_moment(out: Path, name: str, most: int) -> None:
    assert fill_up(WRITING[name], most) >= 4


def fill_up(command: Command, most: int) -> int:
    """Run on a disk that is full from some call on, for at most so many of the calls; the number of runs."""
    out = Path("out")
    old = made(command, command.old)
    saved = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with instead_of(0, failing(errno.ENOSPC)) as calls:
        new = made(command, command.new)
    places = range(1, len(calls) + 1)
    chosen = sorted(random.Random(0).sample(places, min(most, len(places))))
    for at in chosen:
        put_back(out, saved)
        with instead_of(at, failing(errno.ENOSPC), persists=True):
            status, said = run(command.new)
        check_refusal(command, status, said, (calls[at - 1], old, new))
    for size in (0, 100):
        put_back(out, saved)
        with files_up_to(size):
            status, said = run(command.new)
        check_refusal(command, status, said, ("write", old, new))
    return len(chosen) + 2


@pytest.mark.parametrize("name", ["extract", "cache merge"])
def test_a_disk_that_takes_no_new_name(out: Path, name: str) -> None:
    """A folder can be full although its disk is not: what was to get its name at last is taken away again."""
    command = WRITING[name]
    old = made(command, command.old)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: failing(errno.ENOSPC)("replace"))
        status, said = run(command.new)
    check_refusal(command, status, said, ("replace", old, old))


def put_back(out: Path, saved: dict[Path, bytes]) -> None:
    shutil.rmtree(out)
    for path, data in saved.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    out.mkdir(exist_ok=True)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file grows beyond so many bytes: a write that would is cut short, and the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def without_numbers(data: bytes) -> bytes:
    """Two runs differ in nothing else: seconds, dates, names of runs."""
    return re.sub(rb'"[0-9a-f]{12}"|[-+.e0-9]+', b"", data)


def check_refusal(
    command: Command, status: int, said: str, happened: tuple[str, dict[str, bytes], dict[str, bytes]]
) -> None:
    call, old, new = happened
    found = contents(command)
    if command.outputs[0] in TIMED:
        old, new, found = ({name: without_numbers(data) for name, data in one.items()} for one in (old, new, found))
    assert status == 1, (call, said)
    line = said.strip().splitlines()[-1]
    assert "out" in line and ("o space left" in line or "File too large" in line), (call, said)
    assert leftovers() == [], call
    if call in ("replace", "fsync", "fdatasync", "write") and found != old:
        assert call != "write" or found == new, "an output was replaced although the disk was full"
        assert all(found.get(output) in (old.get(output), new.get(output)) for output in command.outputs)
        fresh = {output for output in command.outputs if found.get(output) == new[output] != old.get(output)}
        if command.mixed and 0 < len(fresh) < sum(new[output] != old.get(output) for output in command.outputs):
            with pytest.raises(DrexcacheError):
                command.mixed()
    else:
        assert found == old
