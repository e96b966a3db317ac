"""Files that name code: nothing that a settings, space or model file names runs unless the user trusts the file."""

from __future__ import annotations

import io
import json
import multiprocessing.connection
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner
from conftest import draw

from drexcache import DrexcacheError, load_model, open_cache
from drexcache.cli import main
from drexcache.regressors import make_regressor, read_settings

MODULE = """
from pathlib import Path
Path("trace").touch()
from sklearn.linear_model import Ridge as Best
"""


class Evil:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trust")
    arguments = ["extract", str(draw(folder / "pictures", 24)), "--recipe", "classic", "-o", str(folder / "c.h5")]
    assert CliRunner().invoke(main, [*arguments, "--range", "0", "100"]).exit_code == 0
    return folder / "c.h5"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module that leaves the file "trace" there when it is imported."""
    (tmp_path / "sent_along.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(cache: Path, *options: str, code: int = 1) -> str:
    result = CliRunner().invoke(main, ["train", str(cache), "-o", "m.drex", *options])
    assert result.exit_code == code, result.output
    return result.output


def settings_file(**fields: Any) -> str:
    Path("best.json").write_text(json.dumps(fields))
    return "best.json"


def test_a_module_that_a_settings_file_names_is_not_imported(cache: Path, folder: Path) -> None:
    best = settings_file(regressor="sent_along:Best")
    said = train(cache, "--from", best)
    assert said == (
        "Error: best.json: the regressor sent_along:Best is an import path, and importing it would run its code; "
        "if you trust this file, add --trust\n"
    )
    with pytest.raises(DrexcacheError, match="is an import path"):
        read_settings(best)
    assert not Path("trace").exists()


def test_the_current_folder_is_on_the_path_only_when_asked_for(cache: Path, folder: Path) -> None:
    best = settings_file(regressor="sent_along:Best")
    command = [sys.executable, "-m", "drexcache.cli", "train", str(cache), "--from", best, "--trust", "-o", "m.drex"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "module 'sent_along' cannot be imported" in run.stderr and not Path("trace").exists()
    run = subprocess.run(command, env=environment | {"PYTHONPATH": "."}, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and Path("trace").exists() and Path("m.drex").exists()


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("multiprocessing.connection:Listener", "found the class Listener"),
        ("os:abort", "found a value of type builtin_function_or_method"),
        ("http.server.test", "found a value of type function"),
        ("sklearn.svm:SVC", "found the class SVC"),
        ("sklearn:svm", "found a value of type module"),
    ],
)
def test_what_is_not_a_regressors_class_is_not_called(
    path: str, found: str, cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing.connection.Listener, "__init__", lambda *_: Path("trace").touch())
    said = train(cache, "--from", settings_file(regressor=path), "--trust")
    assert f"-r {path}: {found}; expected the class of a regressor" in said
    assert not Path("trace").exists()


def test_a_settings_file_cannot_fill_a_pipelines_memory_with_pickles(cache: Path, folder: Path) -> None:
    matrix = open_cache(cache).matrix()
    filled = make_regressor("svr", matrix).set_params(memory="cache", pca=None)
    filled.set_params(pca=make_regressor("svr", matrix, settings={"pca": 16})["pca"]).fit(matrix.X, matrix.y)
    for stored in Path("cache").rglob("output.pkl"):
        stored.write_bytes(pickle.dumps(Evil(folder / "trace")))
    with pytest.raises(TypeError):  # it unpickles, and finds no fitted scaler
        filled.fit(matrix.X, matrix.y)
    assert Path("trace").exists(), "the trap works"
    Path("trace").unlink()
    for name, key in (("svr", "memory"), ("mlp", "regressor__memory"), ("best", "svr__memory")):
        said = train(cache, "--from", settings_file(regressor=name, settings={key: "cache", "pca": 16}))
        assert f"{name}: setting {key} must be a number, true, false or null; found 'cache'" in said
    Path("space.toml").write_text('[svr]\nmemory = "cache"\npca = 16\n')
    searched = CliRunner().invoke(
        main, ["search", str(cache), "-r", "svr", "-o", "found", "--split", "none", "--space", "space.toml"]
    )
    assert "svr: setting memory must be a number, true, false or null; found 'cache'" in searched.output
    assert not Path("trace").exists()


def test_a_space_file_sets_imported_code_only_when_trusted(cache: Path, folder: Path) -> None:
    Path("space.toml").write_text('["sklearn.svm.SVR"]\nC = [0.5, 2.0]\n')
    search = ["search", str(cache), "-r", "sklearn.svm.SVR", "-o", "found", "--split", "none", "--space", "space.toml"]
    said = CliRunner().invoke(main, search).output
    assert "space.toml: [sklearn.svm.SVR] sets parameters of imported code; if you trust this file, add" in said
    assert CliRunner().invoke(main, [*search, "--trust", "--total-trials", "1"]).exit_code == 0
    assert json.loads(Path("found/best.json").read_text())["settings"] == {"C": 0.5}


@pytest.mark.parametrize("settings", [{"svr": 1}, {"steps": 1}, {"svr__kernel": "precomputed"}, {"svr__C": None}])
def test_settings_that_no_search_would_choose(settings: dict[str, Any], cache: Path, folder: Path) -> None:
    said = train(cache, "--from", settings_file(regressor="svr", settings=settings))
    assert "svr has no setting" in said or "svr: setting" in said


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"regressor": 3}, "Expected `str`, got `int` - at `$.regressor`"),
        ({"regressor": "svr", "settings": {"svr__C": [1]}}, "got `array` - at `$.settings[...]`"),
        ({"regressor": "svr", "settings": {"svr__C": {"a": 1}}}, "got `object` - at `$.settings[...]`"),
        ({"regressor": "svr", "blocks": "cues"}, "Expected `array | null`, got `str` - at `$.blocks`"),
        ({"regressor": "svr", "seed": -1}, "Expected `int` >= 0 - at `$.seed`"),
        ({"regressor": "svr", "seed": 1.5}, "Expected `int | null`, got `float` - at `$.seed`"),
        ({"regressor": "svr", "target": ["a"]}, "Expected `str | null`, got `array` - at `$.target`"),
    ],
)
def test_values_of_the_wrong_type(fields: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(DrexcacheError) as caught:
        read_settings(settings_file(**fields))
    assert message in str(caught.value)


def test_a_module_that_a_model_file_names_is_not_imported(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)
    train(cache, "-r", "sklearn.linear_model:Ridge", code=0)
    with safetensors.safe_open("m.drex", framework="numpy") as file:
        meta, data = file.metadata(), file.get_tensor("skops").tobytes()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile("evil.zip", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"sklearn.linear_model._ridge", b"sent_along"))
    named = Path("evil.zip").read_bytes()
    meta["drexcache"] = meta["drexcache"].replace("sklearn.linear_model:Ridge", "sent_along:Best")
    Path("m.drex").write_bytes(safetensors.numpy.save({"skops": np.frombuffer(data, "u1")}, meta))
    assert load_model("m.drex").regressor == "sent_along:Best"  # only a name
    Path("m.drex").write_bytes(safetensors.numpy.save({"skops": np.frombuffer(named, "u1")}, meta))
    with pytest.raises(DrexcacheError, match=r"holds sent_along\.Ridge, which a drexcache model never holds"):
        load_model("m.drex")
    assert not Path("trace").exists() and "sent_along" not in sys.modules
