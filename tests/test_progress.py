"""Progress where there is no terminal: a line a minute, even while one step takes longer."""

import time
from pathlib import Path

import numpy as np
import pytest

from drexcache import FeatureCache, progress, read_images, recipe
from drexcache.cache import diff, merge
from drexcache.features import extract, planning
from drexcache.features.pipeline import read_image
from drexcache.fusion import AttentionFusionRegressor


def told(capsys: pytest.CaptureFixture[str], word: str) -> str:
    """The latest line on stderr once a line has that word."""
    until, text = time.monotonic() + 20, ""
    while word not in text and time.monotonic() < until:
        time.sleep(0.01)
        text += capsys.readouterr().err
    return text.splitlines()[-1]


def test_a_log_gets_lines_while_a_step_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "MINUTE", 0.05)
    with progress.step_bar("evaluate", "training") as show:
        show(3, 12, "svr, art → maps")
        assert told(capsys, "svr") == "evaluate: training 4 of 12 (svr, art → maps), 0 minutes gone"


def test_what_is_left_goes_by_the_latest_steps() -> None:
    """Of 1,000 images the first 200 took four times as long as the others, after five minutes of getting ready."""
    pace = progress.Pace("image", started=0)
    for done in range(8, 1001, 8):
        pace.note(300 + 4 * min(done, 200) + max(done - 200, 0), done, 1000, "0 failed")
        if done == 800:  # 1,700 seconds gone; 200 images of a second each are left
            assert pace.line(1700) == "image 801 of 1,000 (0 failed), 28 minutes gone, about 3 left"


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.step_bar("evaluate", "training") as show:
        show(0, 2, "ridge")
    assert capsys.readouterr().err == ""


def test_a_fusion_head_in_training_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "MINUTE", 0.01)
    rng = np.random.default_rng(0)
    head = AttentionFusionRegressor(arms={"a": slice(0, 300), "b": slice(300, 600)}, epochs=40, verbose=True)
    head.fit(rng.normal(size=(400, 600)).astype("f4"), rng.random(400))
    assert "fusion: step " in capsys.readouterr().err


def test_whatever_reads_a_whole_cache_says_where_it_is(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = read_images(pictures), tmp_path / "c.h5"
    for number in (1, 2):
        extract(table.shard(number, 2), recipe("classic"), tmp_path / f"{number}.h5", say=lambda line: None)
    read = FeatureCache.features

    def slowly(cache: FeatureCache, *which: object) -> np.ndarray:
        time.sleep(0.05)
        return read(cache, *which)

    monkeypatch.setattr(FeatureCache, "features", slowly)
    monkeypatch.setattr(progress, "MINUTE", 0.01)
    cache = merge([tmp_path / "1.h5", tmp_path / "2.h5"], out)
    assert "copy cues of 2.h5: " in capsys.readouterr().err
    assert (cache.verify(), diff(cache, cache)) == ([], [])
    said = capsys.readouterr().err
    assert "check cues: " in said and "compare cues: " in said
    monkeypatch.setattr(planning, "read_image", lambda *which: (time.sleep(0.05), read_image(*which))[1])
    extract(table, recipe("classic"), out, rehash=True, say=lambda line: None)
    assert "look through the files: file " in capsys.readouterr().err
