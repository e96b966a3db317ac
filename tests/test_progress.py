"""Progress where there is no terminal: a line a minute, even while one step takes longer."""

import time

import pytest

from drexcache.cli import progress


def test_a_log_gets_lines_while_a_step_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "MINUTE", 0.05)
    with progress.step_bar("evaluate", "training") as show:
        show(3, 12, "svr, art → maps")
        until = time.monotonic() + 20
        while "svr" not in (text := capsys.readouterr().err) and time.monotonic() < until:
            time.sleep(0.01)
    line = text.splitlines()[-1]
    assert line.startswith("evaluate: training 4 of 12 (svr, art → maps), 0 minutes gone, about ")


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.step_bar("evaluate", "training") as show:
        show(0, 2, "ridge")
    assert capsys.readouterr().err == ""
