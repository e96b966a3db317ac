"""Trackers: what evaluate, train and search record can be read back with each tool's own client."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import draw

from drexcache import ScoreTable
from drexcache.cli import main
from drexcache.errors import DrexcacheError
from drexcache.studies import tracking

SCORE = {
    "regressor": "a/b",
    "train": "art",
    "test": "maps",
    "metric": "pearson",
    "value": 0.5,
    "low": 0.4,
    "high": None,
}
RUN = {
    "command": "drexcache evaluate", "caches": [{"dataset": "art"}], "settings": {"lr": 0.1, "deep": {"n": 2}},
    "scores": [SCORE], "files": ["nowhere.csv"],
}  # fmt: skip
CURVE = [{"epoch": 1, "loss": 0.5, "validation": None}, {"epoch": 2, "loss": 0.25, "validation": 0.5}]


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return str(result.output)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracking")
    run("extract", draw(folder / "art", 20), "--recipe", "classic", "--range", 0, 100, "-o", folder / "art.h5")
    return folder / "art.h5"


def test_mlflow_holds_scores_settings_curves_and_files(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("DREXCACHE_TRACKER", "mlflow")
    assert "MLflow run " in run("evaluate", cache, "-r", "ridge", "-r", "mean", "-o", "scores.csv")
    run("train", cache, "-r", "fusion", "-o", "art.drex")
    run("search", cache, "-r", "svr", "--total-trials", 2, "--split", "none", "-o", "found")
    run("report", "scores.csv", "--no-thumbnails", "-o", "report.html")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = {one.data.tags["drexcache"]: one for one in client.search_runs(["0"])}
    assert set(runs) == {"evaluate", "train", "search", "report"}
    (score,) = ScoreTable.read_csv("scores.csv").select(regressor="ridge", metric="pearson", calibrated=False).rows
    found = runs["evaluate"].data
    assert found.metrics["ridge/art/pearson"] == score.value and found.metrics["ridge/art/pearson low"] == score.low
    assert "mean/art/pearson" not in found.metrics  # undefined
    assert found.params["command"].startswith("drexcache evaluate ")
    files = {kind: {file.path for file in client.list_artifacts(one.info.run_id)} for kind, one in runs.items()}
    assert files == {
        "evaluate": {"scores.csv", "scores-predictions.csv"},
        "train": {"art.drex"},
        "search": {"best.json", "trials.csv"},
        "report": {"report.html"},
    }  # fmt: skip
    losses = client.get_metric_history(runs["train"].info.run_id, "epochs/loss")
    assert len(losses) > 1 and all(math.isfinite(loss.value) for loss in losses)


def test_tensorboard_holds_scores_and_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGDIR", str(tmp_path))
    where = tracking.track("tensorboard", "evaluate", RUN, CURVE)
    (folder,) = tmp_path.iterdir()
    assert where == f"TensorBoard files in {folder}"
    events = accumulator.EventAccumulator(str(folder)).Reload()
    read = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert read == {
        "a_b/art to maps/pearson": [(0, 0.5)], "a_b/art to maps/pearson low": [(0, pytest.approx(0.4))],
        "epochs/loss": [(1, 0.5), (2, 0.25)], "epochs/validation": [(2, 0.5)],
    }  # fmt: skip


def test_wandb_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="Weights & Biases is not installed")
    code = f"from drexcache.studies import tracking; print(tracking.track('wandb', 'evaluate', {RUN!r}, {CURVE!r}))"
    offline = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    command = [sys.executable, "-c", code]  # a process of its own: at its end wandb's service has written everything
    done = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Weights & Biases run ")
    (kept,) = tmp_path.rglob("*.wandb")
    assert b"a_b/art to maps/pearson" in kept.read_bytes()


def test_a_tracker_that_fails_loses_nothing(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    out = tmp_path / "scores.csv"
    said = run("evaluate", cache, "-r", "mean", "-o", out, "--tracker", "mlflow", code=1)
    assert "Error: mlflow has not recorded this run: " in said and f"{out}, " in said and "stand as written" in said
    assert ScoreTable.read_csv(out).rows


def test_a_missing_or_unknown_tracker_is_refused_before_the_work(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", "no_such_mlflow")
    said = run("evaluate", cache, "-r", "mean", "-o", tmp_path / "s.csv", "--tracker", "mlflow", code=1)
    assert "mlflow is not installed: pip install 'drexcache[mlflow]'" in said
    assert not (tmp_path / "s.csv").exists()
    with pytest.raises(DrexcacheError, match="no tracker named 'paper'; there are: mlflow, wandb, tensorboard"):
        tracking.require("paper")
    assert "is not one of 'mlflow', 'wandb', 'tensorboard'" in run(
        "train", cache, "-r", "ridge", "-o", tmp_path / "m", "--tracker", "paper", code=2
    )
