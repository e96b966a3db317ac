"""What is built: the sdist without git, the abi3 wheel with and without its compiled step, other compilers."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPILED = {  # module -> its source, who imports it, the tests that compare it with others, its own flags
    "drexcache.fusion.kernel.fusion_cpu": (
        "drexcache/fusion/kernel/fusion_cpu.c", "drexcache.fusion.kernel.compiled", "test_fusion_compiled.py", [],
    ),
    "drexcache.features.resize_cpu": (
        "features/resize_cpu.c", "drexcache.features.bilinear", "test_pixels.py", ["-ffp-contract=off"],
    ),
}  # fmt: skip
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", "*.so", ".*_cache", "site"
)
USE = """
import warnings
import numpy as np
from drexcache import AttentionFusionRegressor, recipe
from drexcache.fusion.kernel import compiled
warnings.simplefilter("ignore")
X = np.random.default_rng(0).normal(size=(40, 6)).astype("f4")
found = AttentionFusionRegressor(width=16, epochs=2, ema=0.5, device="cpu").fit(X, X[:, 0]).predict(X)
print(compiled.fusion_cpu is not None, recipe("drex").dim, f"{found.sum():.3f}", compiled.__file__)
"""


def run(*command: str | Path, place: Path, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources that git knows nothing of."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "copy", ignore=LEFT_OUT)
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", folder, place=folder / "copy")
    return next(folder.glob("drexcache-*.tar.gz"))


@pytest.mark.parametrize("compiler", ["", "false"], ids=["with a compiler", "without a compiler"])
def test_a_wheel_of_the_sdist_works_in_a_fresh_environment(compiler: str, sdist: Path, tmp_path: Path) -> None:
    if not compiler and not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("no C compiler here")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, sdist]
    run(*build, place=tmp_path, **({"CC": compiler} if compiler else {}))
    wheel = next(tmp_path.glob("*.whl"))
    inside = zipfile.ZipFile(wheel).namelist()
    if not compiler:
        assert "cp311-abi3" in wheel.name
        assert {f"{module.replace('.', '/')}.abi3.so" for module in COMPILED} <= {*inside}
    assert any(name.endswith(".so") for name in inside) == (not compiler)
    venv.create(tmp_path / "fresh", with_pip=False)
    python = tmp_path / "fresh/bin/python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", place=tmp_path).strip())
    libraries = [path for path in sys.path if path.endswith("site-packages")] or [sysconfig.get_path("purelib")]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")  # torch and the others, not this checkout
    zipfile.ZipFile(wheel).extractall(site)
    has_step, dim, _, home = run(python, "-c", USE, place=tmp_path).split()
    assert (has_step, dim) == (str(not compiler), "4224") and home.startswith(str(site))
    assert run(python, "-m", "drexcache.cli", "--version", place=tmp_path).startswith("drexcache, version ")


PRELOAD = """
import importlib, importlib.util, sys
built, name, user, tests = sys.argv[1:]
spec = importlib.util.spec_from_file_location(name, built)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
room, _, short = name.rpartition(".")
sys.modules[name] = module
setattr(importlib.import_module(room), short, module)
assert getattr(importlib.import_module(user), short) is module
import pytest
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", tests]))
"""


@pytest.mark.parametrize("command", ["clang -O3", "gcc -O3 -mno-avx2 -mno-avx -DFOR_EACH_PROCESSOR="])
@pytest.mark.parametrize("module", COMPILED)
def test_other_compilers_and_processors_compute_the_same(command: str, module: str, tmp_path: Path) -> None:
    compiler, *flags = command.split()
    source, user, tests, own = COMPILED[module]
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} here")
    if "-mno-avx2" in flags and platform.machine() != "x86_64":
        pytest.skip("no x86-64 processor here")
    flags += [*own, "-fno-math-errno", "-Wno-psabi", "-Werror=implicit-function-declaration", "-shared", "-fPIC"]
    out, headers = tmp_path / f"{module.rpartition('.')[2]}.abi3.so", sysconfig.get_path("include")
    run(compiler, ROOT / source, *flags, "-lm", f"-I{headers}", "-o", out, place=tmp_path)
    assert " passed" in run(sys.executable, "-c", PRELOAD, out, module, user, ROOT / "tests" / tests, place=ROOT)
