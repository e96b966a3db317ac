"""The house stands as designed: rooms in order, one door each, a spine that a newcomer can read, light commands."""

import ast
import functools
import os
import re
import subprocess
import sys
import time
import tokenize
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from small_scores import names, run_of, save_scores

from drexcache import open_cache, read_images
from drexcache.features import extract
from drexcache.recipes import Recipe
from drexcache.regressors import train_model

ROOT = Path(__file__).parents[1]
HOMES = {"drexcache": "drexcache", "features": "drexcache.features", "studies": "drexcache.studies"}
HOMES["cli"] = "drexcache.cli"

# Each imports from those above it alone; features and studies never import each other.
ROOMS = [
    "drexcache.errors",
    "drexcache.files",
    "drexcache.hub",
    "drexcache.progress",
    "drexcache.devices",
    "drexcache.shown",
    "drexcache.recipes",
    "drexcache.bootstrap",
    "drexcache.metrics",
    "drexcache.datasets",
    "drexcache.cache",
    "drexcache.fusion",
    "drexcache.regressors",
    "drexcache.scores",
    "drexcache.features",
    "drexcache.studies.ledger",
    "drexcache.studies.tracking",
    "drexcache.studies.evaluation",
    "drexcache.studies.publishing",
    "drexcache.studies.comparison",
    "drexcache.studies.searching",
    "drexcache.studies.reporting",
    "drexcache.studies",
    "drexcache.cli",
]
LIBRARIES = {"timm": "drexcache.features", "optuna": "drexcache.studies.searching", "click": "drexcache.cli"}

# Private names of libraries that offer no public one: of trees before they are followed, of parameters before they are
# used, of the processor, and of a proxy whose calls get a deadline.
FOREIGN_PRIVATE = {
    "_predictors", "_parameter_constraints", "_validate_params", "_is_mkldnn_bf16_supported", "_setup",
}  # fmt: skip
FOREIGN_PRIVATE |= {"_training_dim", "_fit_X", "_y", "_tree", "_loss", "_bin_mapper", "_baseline_prediction"}
FOREIGN_PRIVATE |= {"_preprocessor", "_is_categorical_remapped", "_n_features"}  # of fitted estimators from a file


@functools.cache
def modules() -> dict[str, Path]:
    """Module name -> file, of everything that is installed."""
    found = {}
    for folder, package in HOMES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(path: Path, *, typing: bool = True) -> Iterator[tuple[str, str]]:
    """(module, name) of each import of a file, wherever it stands; ``typing``: also those for the type checker."""
    skipped = set()
    if not typing:
        skipped = {id(n) for node in ast.walk(tree(path)) if is_type_checking(node) for n in ast.walk(node)}
    for node in ast.walk(tree(path)):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


def room_of(module: str) -> str:
    """The room that a module stands in; a package's own name counts as its room."""
    inside = [room for room in ROOMS if module == room or module.startswith(room + ".")]
    return max(inside, key=len, default="")


def exported(room: str) -> set[str]:
    """What a room's door lists."""
    path = modules()[room].with_suffix(".pyi")
    nodes = tree(path if path.is_file() else modules()[room]).body
    names = {alias.asname or alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    return names | {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_every_module_has_a_room() -> None:
    roomless = {"drexcache", "drexcache.recipe_files"}
    assert [name for name in modules() if not room_of(name) and name not in roomless] == []


def test_rooms_import_only_rooms_above_them() -> None:
    wrong = []
    for module, path in modules().items():
        mine = room_of(module)
        for found, name in imported(path):
            theirs = max(room_of(found), room_of(f"{found}.{name}"), key=len)
            if not theirs or not mine or theirs == mine:
                continue
            apart = {"drexcache.features", "drexcache.studies"} <= {".".join(r.split(".")[:2]) for r in (mine, theirs)}
            if ROOMS.index(theirs) > ROOMS.index(mine) or apart:
                wrong.append(f"{path.relative_to(ROOT)} imports {found}.{name}")
    assert wrong == []


def test_rooms_are_entered_by_their_door() -> None:
    wrong = []
    for module, path in modules().items():
        for found, name in imported(path):
            room = room_of(found)
            if not room or room == room_of(module) or modules()[room].name != "__init__.py":
                continue
            if room == "drexcache.studies" and room_of(f"{found}.{name}") != room:
                continue  # a module beside the rooms of studies
            if found != room or name not in exported(room) | ({"main", "say"} if room == "drexcache.cli" else set()):
                wrong.append(f"{path.relative_to(ROOT)}: from {found} import {name}")
    assert wrong == []


def test_libraries_stay_in_their_rooms() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {found}"
        for module, path in modules().items()
        for found, _ in imported(path)
        for library, room in LIBRARIES.items()
        if found.split(".")[0] == library and not module.startswith(room)
    ]
    assert wrong == []


def test_no_imports_in_a_circle() -> None:
    """Not even inside of functions; those for the type checker alone do not count."""
    known = modules()
    edges: dict[str, set[str]] = {}
    for module, path in known.items():
        found = {f"{a}.{b}" if f"{a}.{b}" in known else a for a, b in imported(path, typing=False)}
        # through a door one reaches the whole room, and a room's order is held above
        edges[module] = {name for name in found if name in known and room_of(name) == room_of(module)} - {module}
    left = dict(edges)
    while free := [module for module, needs in left.items() if not needs & set(left)]:
        for module in free:
            del left[module]
    assert left == {}, "these modules import each other, directly or through others"


def test_nobody_touches_the_private_names_of_another_object() -> None:
    wrong = []
    for path in modules().values():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("drexcache"):
                wrong += [f"{path}: imports {alias.name}" for alias in node.names if is_private(alias.name)]
            if not isinstance(node, ast.Attribute) or not is_private(node.attr) or node.attr in FOREIGN_PRIVATE:
                continue
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert wrong == []


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_no_pickle_and_no_unsafe_load() -> None:
    for path in modules().values():
        assert not {name for name, _ in imported(path)} & {"pickle", "joblib", "dill", "cloudpickle"}, path
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path


# What a newcomer reads: from a folder and a CSV to a row in the file, from a matrix to a fusion head or a ridge, from
# predictions to a score. CONTRIBUTING.md walks through it.
SPINE_BY_ROOM = {
    "drexcache": ("recipes", "metrics"),
    "drexcache.datasets": ("table", "files", "decoding", "ratings", "matching"),
    "drexcache.features": ("extraction", "planning", "pipeline", "pixels", "backbone"),
    "drexcache.cache": ("format", "storage", "writer", "reader", "matrix"),
    "drexcache.fusion": ("head", "plan", "step", "training", "estimator"),
    "drexcache.regressors": ("ridge", "ridge_sums"),
    "drexcache.studies.evaluation": ("folds", "cells", "fitting", "predictions", "scoring"),
    "drexcache.scores": ("table",),
}
SPINE = [f"{room}.{file}" for room, files in SPINE_BY_ROOM.items() for file in files]
LEAVES = (
    "drexcache.studies.searching", "drexcache.studies.reporting", "drexcache.studies.comparison", "drexcache.cli",
    "drexcache.features.weights", "drexcache.features.checkpoint", "drexcache.features.authors_checkpoint",
    "drexcache.features.packaged", "drexcache.features.cues", "drexcache.features.demo_pictures",
    "drexcache.features.ray",
)  # fmt: skip


def test_the_spine_is_short_and_imports_no_leaf() -> None:
    wrong = [
        f"{module} imports {found}.{name}"
        for module in SPINE
        for found, name in imported(modules()[module])
        if f"{found}.{name}".startswith(LEAVES)
    ]
    assert wrong == []
    sizes = {module: lines_of_code(modules()[module]) for module in SPINE}
    print(sum(sizes.values()), "lines of code in", len(sizes), "files of the spine")
    assert len(sizes) <= 30
    assert sum(sizes.values()) <= 4000


def test_contributing_names_files_that_exist_and_the_whole_spine() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/.]+\.(?:py|c))`", text))
    assert {path for path in named if not (ROOT / path).is_file()} == set()
    assert {str(modules()[module].relative_to(ROOT)) for module in SPINE} - named == set()
    paths = [re.findall(r"`([\w/.]+\.py)`", path) for path in re.split(r"\*\*.*\*\*", text)[1:4]]
    for path in paths[:3]:
        files = path[: path.index("drexcache/files.py") + 1] if "drexcache/files.py" in path else path[:15]
        assert len(files) == len(set(files)) <= 15


def lines_of_code(path: Path) -> int:
    """Without docstrings, comments and empty lines."""
    lines: set[int] = set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in NO_CODE:
                lines |= set(range(token.start[0], token.end[0] + 1))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree(path)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


NO_CODE = {
    tokenize.ENCODING, tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip

HEAVY = {"torch", "timm", "torchvision", "sklearn", "scipy", "optuna", "sqlalchemy", "h5py", "pandas", "matplotlib"}
TORCH_OR_OPTUNA = {"torch", "timm", "torchvision", "optuna", "sqlalchemy"}
CACHE, SCORES = ROOT / "tests/data/release-0.1-cache.h5", "SCORES"
# Command -> what it must not load. SCORES stands for a small score file with its predictions.
LIGHT = {
    ("--help",): HEAVY,
    ("extract", "--help"): HEAVY,
    ("evaluate", "--help"): HEAVY,
    ("recipes",): TORCH_OR_OPTUNA | {"sklearn", "h5py", "pandas"},
    ("cache", "info", str(CACHE)): TORCH_OR_OPTUNA | {"sklearn", "pandas"},
    ("cache", "verify", str(CACHE)): TORCH_OR_OPTUNA | {"sklearn"},
    ("cache", "diff", str(CACHE), str(CACHE)): TORCH_OR_OPTUNA | {"sklearn"},
    ("compare", SCORES): TORCH_OR_OPTUNA,
    ("runs", "."): TORCH_OR_OPTUNA | {"sklearn"},
}


@pytest.mark.parametrize("command", LIGHT, ids=lambda command: " ".join(command[:2]))
def test_light_commands_load_nothing_heavy(command: tuple[str, ...], tmp_path: Path) -> None:
    if SCORES in command:
        runs = [run_of(name, "a", "a", names(30)) for name in ("ridge", "svr")]
        saved = str(save_scores(tmp_path / SCORES, runs))
        assert loaded_by([saved if word == SCORES else word for word in command], LIGHT[command], tmp_path) == "set()"
    else:
        assert loaded_by(command, LIGHT[command], tmp_path) == "set()"


@pytest.mark.parametrize("regressor", ["fusion", "ridge", "boosting"])
def test_predict_loads_no_torch_where_openvino_has_the_backbones(
    regressor: str, pictures: Path, tiny: Recipe, tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    extract(read_images(pictures), tiny, tmp_path / "c.h5", engine_cpu="openvino", say=lambda line: None)
    cache = open_cache(tmp_path / "c.h5")
    train_model(regressor, cache.matrix(), cache, tuple(cache.blocks), seed=0).save(tmp_path / "m.drex")
    command = [
        "predict",
        str(tmp_path / "m.drex"),
        str(pictures / "003.png"),
        "-o",
        "p.csv",
        "--engine-cpu",
        "openvino",
    ]
    assert loaded_by(command, TORCH_OR_OPTUNA | {"skops"}, tmp_path) == "set()"
    assert (tmp_path / "p.csv").read_text().splitlines()[1].startswith("003.png,")


def loaded_by(command: Sequence[str], forbidden: set[str], folder: Path) -> str:
    """Which of the forbidden modules a command loads, as the text of a set."""
    code = (
        "import sys, time; start = time.perf_counter(); import drexcache, drexcache.cli as c\n"
        f"try: c.main({list(command)!r}, standalone_mode=False)\n"
        f"finally: print('\\n', time.perf_counter() - start, {forbidden!r} & set(sys.modules), sep='|')"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    inside, loaded = done.stdout.rpartition("\n|")[2].strip().split("|")
    print(f"{' '.join(command[:2])}: {float(inside):.2f} s, the process {time.perf_counter() - started:.2f} s")
    return loaded


def test_packaging_names_every_package() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"])
    found = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert found - listed == set()


def test_wheel_holds_only_drexcache(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*build, "-w", str(tmp_path), str(ROOT)], capture_output=True, text=True, check=False)
    if done.returncode and ("setuptools" in done.stderr or "No module named pip" in done.stderr):
        pytest.skip("no pip or setuptools here to build a wheel without isolation")
    assert done.returncode == 0, done.stderr
    listing = [sys.executable, "-m", "zipfile", "-l", str(next(tmp_path.glob("*.whl")))]
    lines = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\n")[1:]
    names = {line.split("  ")[0].strip() for line in lines} - {""}
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"drexcache"}
    for name in modules():
        inside = str(modules()[name].relative_to(ROOT))
        inside = inside if inside.startswith("drexcache/") else f"drexcache/{inside}"
        assert inside in names
    for needed in ("recipe_files/drex.toml", "py.typed", "__init__.pyi", "fusion/kernel/fusion_cpu.pyi"):
        assert f"drexcache/{needed}" in names


def test_wheel_build_works_outside_of_the_path() -> None:
    code = "import importlib.util as u; print([n for n in ('cli', 'features', 'studies') if u.find_spec(n)])"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
