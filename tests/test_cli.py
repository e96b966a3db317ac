"""The command line as a new user meets it: the walk from images to predictions, and one sentence for every mistake."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import draw
from small_scores import names, run_of, save_scores

from drexcache import load_model, open_cache
from drexcache.cli import main


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def error(*arguments: object) -> str:
    """The one line that a mistake gives."""
    result = run(*arguments, code=1)
    lines = [line for line in result.stderr.strip().splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and "Traceback" not in result.output, result.output
    return lines[0]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 60 rated pictures, classic cues."""
    folder = tmp_path_factory.mktemp("cli")
    images = draw(folder / "pictures", 60)
    run("extract", images, "--recipe", "classic", "--range", 0, 100, "-o", folder / "c.h5")
    return folder / "c.h5"


def test_from_images_to_predictions(cache: Path, tmp_path: Path) -> None:
    assert "60 rated, range 0 to 100" in run("cache", "info", cache).stdout
    assert "every checksum holds" in run("cache", "verify", cache).stdout
    for name in ("ridge", "svr", "mean", "fusion"):
        run("train", cache, "-r", name, "-o", tmp_path / f"{name}.drex")
    new = draw(tmp_path / "new", 6, start=100)
    run("predict", tmp_path / "ridge.drex", new, "-o", tmp_path / "p.csv")
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    rated = {row["file"]: float(row["rating"]) for row in csv.DictReader((new / "ratings.csv").open())}
    assert [row["id"] for row in rows] == [f"{i}.png" for i in range(100, 106)]
    predicted = np.array([float(row["prediction"]) for row in rows])
    truth = np.array([rated[row["id"]] for row in rows])
    assert np.corrcoef(predicted, truth)[0, 1] > 0.9
    assert np.abs(predicted - truth).mean() < 15  # on 0 to 100, the target's own range


def test_a_model_predicts_the_same_from_cache_images_and_after_reload(cache: Path, tmp_path: Path) -> None:
    run("train", cache, "-r", "fusion", "-o", tmp_path / "m.drex")
    run("predict", tmp_path / "m.drex", cache, "-o", tmp_path / "a.csv")
    run("predict", tmp_path / "m.drex", cache.parent / "pictures", "-o", tmp_path / "b.csv")
    run("predict", tmp_path / "m.drex", cache.parent / "pictures" / "003.png", "-o", tmp_path / "c.csv")
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    printed = run("predict", tmp_path / "m.drex", cache.parent / "pictures" / "003.png")
    assert printed.stdout == (tmp_path / "c.csv").read_text()
    one = (tmp_path / "c.csv").read_text().splitlines()
    assert one[0] == "id,prediction,spread,attention_cues" and one[1] in (tmp_path / "a.csv").read_text()
    model = load_model(tmp_path / "m.drex")
    again = model.predict(open_cache(cache))
    model.save(tmp_path / "n.drex")
    np.testing.assert_array_equal(load_model(tmp_path / "n.drex").predict(open_cache(cache)).value, again.value)


def test_evaluate_and_compare(cache: Path, tmp_path: Path) -> None:
    other = draw(tmp_path / "other", 30, start=60)
    run("extract", other, "--recipe", "classic", "--range", 0, 100, "--allow-unmatched", "-o", tmp_path / "o.h5")
    result = run("evaluate", cache, tmp_path / "o.h5", "-r", "ridge", "-r", "mean", "-o", tmp_path / "s.csv")
    assert "pictures → other" in result.stdout and "undefined (constant predictions)" in result.stdout
    assert "nan" not in (tmp_path / "s.csv").read_text().lower()
    assert "| pictures (in-domain)" in run("compare", tmp_path / "s.csv", "--metric", "rmse").stdout
    one = run("evaluate", "--train", cache, "--test", tmp_path / "o.h5", "-r", "ridge", "-o", tmp_path / "t.csv")
    assert "other → pictures" not in one.stdout
    assert "pictures" in run("evaluate", cache, "--split", "split", "-r", "ridge", "-o", tmp_path / "u.csv").stdout


def test_an_ic9600_zip(tmp_path: Path) -> None:
    images = draw(tmp_path / "pictures", 12)
    with zipfile.ZipFile(tmp_path / "IC.zip", "w") as archive:
        for i in range(12):
            archive.write(images / f"{i:03}.png", f"IC/images/{i:03}.png")
        for split, rows in (("train", range(8)), ("test", range(8, 12))):
            archive.writestr(f"IC/{split}.txt", "".join(f"{i:03}.jpg  {i / 12:.3f}\n" for i in rows))
    result = run("extract", tmp_path / "IC.zip", "--recipe", "classic", "-o", tmp_path / "c.h5")
    assert ".png" in result.stderr and "12" in result.stderr
    found = json.loads(run("cache", "info", "--json", tmp_path / "c.h5").stdout)
    assert found["labels"] == {"split": {"test": 4, "train": 8}}
    assert (found["targets"]["rating"]["low"], found["targets"]["rating"]["high"]) == (0.0, 1.0)
    run("train", tmp_path / "c.h5", "-r", "ridge", "--split", "split=train", "-o", tmp_path / "m.drex")
    assert load_model(tmp_path / "m.drex").trained["images"] == 8


def test_recipes_and_regressors_are_listed() -> None:
    assert "4224" in run("recipes").stdout
    shown = run("recipes", "drex").stdout
    for expected in ("vit_small_patch16_dinov3_qkvb.lvd1689m", "DINOv3 License", "512x512", "layer4", "2048"):
        assert expected in shown
    assert json.loads(run("recipes", "offline", "--json").stdout)["weights"] == "packaged"
    assert "fusion-paper" in run("regressors").stdout


def test_failures_end_with_status_one_unless_allowed(tmp_path: Path) -> None:
    images = draw(tmp_path / "pictures", 4)
    (images / "002.png").write_bytes(b"")
    arguments = ("extract", images, "--recipe", "classic", "--range", 0, 100, "-o", tmp_path / "c.h5")
    assert "4 images, 4 computed (1 of them failed), 0 already there" in (failed := run(*arguments, code=1).stderr)
    assert "002.png" in failed
    run(*arguments, "--allow-failures")


def test_what_cannot_be_predicted_is_a_row_with_the_reason(cache: Path, tmp_path: Path) -> None:
    run("train", cache, "-r", "ridge", "-o", tmp_path / "m.drex")
    images = draw(tmp_path / "pictures", 4)
    (images / "002.png").write_bytes(b"")
    (images / "camera.raw").write_bytes(b"x")
    done = run("predict", tmp_path / "m.drex", images, "-o", tmp_path / "p.csv", code=1)
    assert "left out files that are not among its images: .raw 1" in done.stderr
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["000.png", "001.png", "003.png", "002.png"]
    assert [row["failure"] for row in rows] == ["", "", "", "empty file"]
    assert [bool(row["prediction"]) for row in rows] == [True, True, True, False]


def test_no_output_is_written_over_an_input_or_a_file_of_another_kind(cache: Path, tmp_path: Path) -> None:
    c, other, model = (tmp_path / name for name in ("c.h5", "other.h5", "m.drex"))
    for copy in (c, other):
        copy.write_bytes(cache.read_bytes())
    ratings = tmp_path / "photos.csv"
    ratings.write_text("file,rating\n")
    scores = save_scores(tmp_path / "s.csv", [run_of(name, "art", "art", names(20)) for name in ("one", "two")])
    beside = tmp_path / "s-predictions.csv"
    run("train", c, "-r", "ridge", "-o", model)
    (tmp_path / "link.csv").symlink_to(scores)
    before = {path: path.read_bytes() for path in (c, other, model, ratings, scores, beside)}
    for command, lost, reason in (
        (("evaluate", c, "-r", "ridge", "-o", c), c, "this command reads it"),
        (("evaluate", c, "-r", "ridge", "-o", model), model, "is a model"),
        (("train", c, "-r", "ridge", "-o", c), c, "this command reads it"),
        (("train", c, "-r", "ridge", "-o", ratings), ratings, "is no model"),
        (("train", c, "-r", "ridge", "-o", other), other, "is a cache"),
        (("train", c, "-r", "fusion", "-o", model, "--log", other), other, "is a cache"),
        (("predict", model, cache, "-o", model), model, "this command reads it"),
        (("report", scores, "-o", tmp_path / "link.csv"), tmp_path / "link.csv", "this command reads it"),
        (("compare", scores, "-o", beside), beside, "this command reads it"),
        (("ablate", c, "-r", "ridge", "-o", other), other, "is a cache"),
        (("cache", "export", c, "-o", scores.parent / "c.h5"), c, "this command reads it"),
    ):
        assert error(*command).startswith(f"Error: {lost}: ") and reason in error(*command)
    assert {path: path.read_bytes() for path in before} == before
    run("train", c, "-r", "ridge", "-o", model)  # its own earlier output may be replaced
    run("compare", scores, "-o", tmp_path / "pairs.csv")
    run("compare", scores, "-o", tmp_path / "pairs.csv")


def test_every_mistake_is_one_sentence(cache: Path, tmp_path: Path) -> None:
    out, images = tmp_path / "x.h5", cache.parent / "pictures"
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.h5").write_text("hello")
    assert "nowhere" in error("extract", tmp_path / "nowhere", "-o", out)
    assert "empty" in error("extract", tmp_path / "empty", "-o", out)
    assert "did you mean offline" in error("extract", images, "--recipe", "ofline", "--range", 0, 100, "-o", out)
    assert "no block named dinosaur" in error("extract", images, "--block", "dinosaur", "--range", 0, 100, "-o", out)
    assert "drex.toml" in error("recipes", tmp_path / "drex.toml")
    assert "not a drexcache cache, but a text" in error("cache", "info", tmp_path / "text.h5")
    assert "no such file" in error("train", tmp_path / "none.h5", "-r", "ridge", "-o", "m")
    assert "did you mean ridge" in error("train", cache, "-r", "rigde", "-o", tmp_path / "m")
    assert "no target named beauty; there are: rating" in error(
        "train", cache, "-r", "ridge", "--target", "beauty", "-o", tmp_path / "m"
    )
    assert "no block named dino; there are: cues" in error("train", cache, "-r", "ridge", "--block", "dino", "-o", "m")
    assert error("compare", tmp_path / "gone.csv") == f"Error: {tmp_path}/gone.csv: no such file"
    assert "no image with split=dev; values: test, train" in error(
        "train", cache, "-r", "ridge", "--split", "split=dev", "-o", tmp_path / "m"
    )
    assert "not a drexcache model file" in error("predict", tmp_path / "text.h5", images, "-o", tmp_path / "p.csv")
    (tmp_path / "file").write_text("in the way")
    for work in (("evaluate", cache, "-r", "ridge"), ("train", cache, "-r", "ridge")):
        assert "its folder cannot be made" in error(*work, "-o", tmp_path / "file" / "out")
    assert "no cache given" in error("evaluate", "-r", "ridge", "-o", tmp_path / "s.csv")
    assert "expected I/N" in run("extract", images, "-o", out, "--shard", "5/2", code=2).output
    assert "device" in error(
        "extract", images, "--recipe", "classic", "--range", 0, 100, "--device", "cuda:99", "-o", out
    )
    assert not out.exists()


@pytest.mark.parametrize(
    "command",
    [
        "compare PIPE", "report PIPE -o r.html", "report SCORES --curve PIPE -o r.html", "runs PIPE", "cache info PIPE",
        "report SCORES --cache PIPE -o r.html", "evaluate PIPE -r ridge -o s.csv", "predict PIPE . -o p.csv",
        "evaluate CACHE --from PIPE -o s.csv", "search CACHE -r ridge --split none --space PIPE -o found",
        "export PIPE -o m.onnx", "import-reference PIPE -o m.drex",
        "cache import PIPE -o x.h5 --block b", "extract IMAGES --recipe classic -o PIPE",
        "extract IMAGES --recipe classic -o /dev/full", "cache import a.npy -o /dev/full --block b",
        "cache merge CACHE CACHE -o /dev/full",
    ],
)  # fmt: skip
def test_pipes_and_devices_are_not_waited_for(
    command: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    np.save("a.npy", np.ones((60, 2), "f4"))
    save_scores(tmp_path / "s.csv", [run_of("ridge", "noise", "noise", names(20))])
    given = {"PIPE": "pipe", "SCORES": "s.csv", "CACHE": str(cache), "IMAGES": str(cache.parent / "pictures")}
    words = [given.get(word, word) for word in command.split()]
    what = "/dev/full" if "/dev/full" in words else "pipe"
    line = error(*words)
    assert line.startswith(f"Error: {what}: ") and "not a regular file" in line


def test_a_device_is_no_folder(cache: Path, tmp_path: Path) -> None:
    save_scores(tmp_path / "s.csv", [run_of("ridge", "noise", "noise", names(20))])
    for command in (("search", cache, "-r", "mean", "-o"), ("report", tmp_path / "s.csv", "--export"), ("demo", "-o")):
        assert "'/dev/full' is no folder" in run(*command, "/dev/full", code=2).stderr


def test_a_model_refuses_other_features(cache: Path, tmp_path: Path) -> None:
    run("train", cache, "-r", "ridge", "-o", tmp_path / "m.drex")
    images = cache.parent / "pictures"
    run("extract", images, "--recipe", "classic", "--exif", "apply", "--range", 0, 100, "-o", tmp_path / "e.h5")
    said = error("predict", tmp_path / "m.drex", tmp_path / "e.h5", "-o", tmp_path / "p.csv")
    assert 'block cues is not what the model was trained on: exif: "ignore" -> "apply"' in said


def test_hostile_model_files_are_refused(cache: Path, tmp_path: Path) -> None:
    run("train", cache, "-r", "svr", "-o", tmp_path / "m.drex")
    data = (tmp_path / "m.drex").read_bytes()
    for name, content in {
        "cut": data[: len(data) // 2],
        "newer": data.replace(b'\\"version\\": 1', b'\\"version\\": 9'),
        "evil": data.replace(b"StandardScaler", b"EvilScaler1234"),
        "system": data.replace(b"sklearn.preprocessing._data", b"os.system.preprocessing_dat"),
    }.items():
        assert content != data, name
        (tmp_path / f"{name}.drex").write_bytes(content)
        assert name in error("predict", tmp_path / f"{name}.drex", cache, "-o", tmp_path / "p.csv")


def test_unreachable_weights_are_one_sentence_with_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    images = draw(tmp_path / "pictures", 3)
    said = error("extract", images, "--recipe", "drex", "--range", 0, 100, "-o", tmp_path / "c.h5")
    assert "--weights" in said
    assert not (tmp_path / "c.h5").exists()


def test_savoias_scores_are_about_what_was_measured(savoias: Path, tmp_path: Path) -> None:
    """Thirty-three images of each category, packaged weights; on all images ridge reaches .84 to .89 inside one."""
    pytest.importorskip("onnx", reason="needs the packages of drexcache[demo]")
    caches = [tmp_path / f"{name}.h5" for name in ("Advertisement", "Objects", "Scenes")]
    for out in caches:
        images = savoias / "Images" / out.stem
        reading = ("--recipe", "offline", "--shard", "1/6", "--allow-unmatched", "-o", out)
        assert "layout savoias" in run("extract", images, *reading).stderr
    scores = tmp_path / "scores.csv"
    run("evaluate", *caches, "-r", "ridge", "-r", "fusion", "-o", scores)
    rows = [row for row in csv.DictReader(scores.open()) if row["metric"] == "pearson"]
    found = {(row["regressor"], row["train"], row["test"]): float(row["value"]) for row in rows}
    assert len(found) == 18
    ridge = [value for (name, _, _), value in found.items() if name == "ridge"]
    fusion = [value for (name, _, _), value in found.items() if name == "fusion"]
    assert np.mean(ridge) > 0.65 and np.mean(fusion) > 0.55


@pytest.mark.parametrize(("given", "found"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_told_otherwise(given: dict[str, str], found: str) -> None:
    """Set before torch is loaded: afterwards it has no effect."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    code = "import os, sys, drexcache.cli; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [found, "False"]


def test_windows_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    found = CliRunner().invoke(main, ["recipes"])
    assert (found.exit_code, found.output) == (
        1, "Error: drexcache runs on Linux and macOS; on Windows, run it in WSL or in its Dockerfile\n"
    )  # fmt: skip
