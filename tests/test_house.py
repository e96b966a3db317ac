"""The house stands as designed: what may import what, and what an installation puts where."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOMES = {
    "drexcache": "drexcache",
    "features": "drexcache.features",
    "studies": "drexcache.studies",
    "cli": "drexcache.cli",
}
FORBIDDEN = {
    "drexcache": ("drexcache.features", "drexcache.studies", "drexcache.cli", "timm", "optuna", "click"),
    "features": ("drexcache.studies", "drexcache.cli", "optuna", "click"),
    "studies": ("drexcache.features", "drexcache.cli", "timm", "click"),
    "cli": ("timm", "optuna"),
}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("home", HOMES)
def test_data_flows_one_way(home: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / home).rglob("*.py"))
        for name in imports_of(path)
        if any(name == bad or name.startswith(bad + ".") for bad in FORBIDDEN[home])
    ]
    assert wrong == []


def test_no_pickle_and_no_unsafe_load() -> None:
    for home in HOMES:
        for path in (ROOT / home).rglob("*.py"):
            assert not imports_of(path) & {"pickle", "joblib", "dill", "cloudpickle"}, path
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                    assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path


def test_import_and_help_stay_fast() -> None:
    heavy = "{'torch', 'timm', 'sklearn', 'scipy', 'optuna', 'h5py', 'pandas', 'matplotlib'}"
    code = (
        "import sys, drexcache, drexcache.cli as c; c.main(['--help'], standalone_mode=False); "
        f"print({heavy} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("set()"), done.stdout


def test_wheel_holds_only_drexcache(tmp_path: Path) -> None:
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    if done.returncode and "setuptools" in done.stderr:
        pytest.skip("no setuptools here to build a wheel without isolation")
    assert done.returncode == 0, done.stderr
    names = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(next(tmp_path.glob("*.whl")))],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")[1:]
    tops = {name.split("/")[0] for name in (line.split("  ")[0].strip() for line in names) if name}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"drexcache"}
    for needed in (
        "drexcache/features/extraction.py",
        "drexcache/recipe_files/drex.toml",
        "drexcache/py.typed",
        "drexcache/fusion/kernel/fusion_cpu.pyi",
        "drexcache/cache/__init__.pyi",
    ):
        assert any(line.startswith(needed) for line in names), needed


def test_wheel_build_works_outside_of_the_path() -> None:
    code = "import importlib.util as u; print([n for n in ('cli', 'features', 'studies') if u.find_spec(n)])"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
