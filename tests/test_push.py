"""push and hf:// names, with the Hub's own client against a local server that speaks its protocol."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from socket import create_server

import click
import huggingface_hub
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import draw
from hub_server import Hub, hub_server
from huggingface_hub import DatasetCard, ModelCard
from test_search import toy

from drexcache import DrexcacheError, load_model, open_cache
from drexcache.cli import main
from drexcache.files import write_file
from drexcache.hub import local_file
from drexcache.studies import search

CACHE, MODEL = "dataset ada/photos", "model ada/complexity"


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return str(result.output)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos.h5, photos.drex, scores.csv."""
    folder = tmp_path_factory.mktemp("push")
    run("extract", draw(folder / "photos", 20), "--recipe", "classic", "--range", 0, 100, "-o", folder / "photos.h5")
    run("train", folder / "photos.h5", "-r", "ridge", "-o", folder / "photos.drex")
    run("evaluate", folder / "photos.h5", "-r", "ridge", "-o", folder / "scores.csv")
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_server(monkeypatch, tmp_path / "hub") as served:
        yield served


def test_a_cache_goes_up_with_a_card_and_comes_back(work: Path, hub: Hub, tmp_path: Path) -> None:
    said = run("push", work / "photos.h5", "ada/photos", "--scores", work / "scores.csv")
    assert "no image" in said and f"{hub.address}/datasets/ada/photos" in said
    kept = hub.files[CACHE]
    assert hub.commits == {CACHE: 1}
    assert set(kept) == {"README.md", "photos.h5", "photos.parquet", "scores.csv", "scores-predictions.csv"}
    assert kept["photos.h5"] == (work / "photos.h5").read_bytes()
    name = "hf://datasets/ada/photos/photos.h5"
    here = open_cache(work / "photos.h5")
    assert np.array_equal(open_cache(name).matrix().X, here.matrix().X)
    frame = pd.read_parquet(io.BytesIO(kept["photos.parquet"]))
    assert np.array_equal(frame[list(here.matrix().columns)].to_numpy(np.float32), here.matrix().X)
    card = DatasetCard(kept["README.md"].decode())
    assert (card.data.license, card.data.size_categories) == ("other", ["n<1K"])
    for part in ("20 images rated from 0 to 100", "Scores, with 95% intervals", f'open_cache("{name}")'):
        assert part in card.text
    assert '"images": 20' in run("cache", "info", name, "--json")
    run("evaluate", name, "-r", "ridge", "-o", tmp_path / "again.csv")
    run("train", name, "-r", "ridge", "-o", tmp_path / "again.drex")


def test_a_model_goes_up_and_predicts(work: Path, hub: Hub, tmp_path: Path) -> None:
    run("push", work / "photos.drex", "ada/complexity", "--scores", work / "scores.csv")
    card = ModelCard(hub.files[MODEL]["README.md"].decode())
    assert card.data.library_name == "drexcache"
    assert {result.metric_type for result in card.data.eval_results} >= {"pearson", "rmse"}
    assert "## Intended use" in card.text and "- images: 20" in card.text
    run("predict", "hf://ada/complexity/photos.drex", work / "photos.h5", "-o", tmp_path / "hub.csv")
    run("predict", work / "photos.drex", work / "photos.h5", "-o", tmp_path / "here.csv")
    assert (tmp_path / "hub.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    assert load_model("hf://models/ada/complexity@main/photos.drex").regressor == "ridge"


def test_scores_go_up_with_their_predictions(work: Path, hub: Hub) -> None:
    run("push", work / "scores.csv", "ada/scores")
    assert set(hub.files["dataset ada/scores"]) == {"README.md", "scores.csv", "scores-predictions.csv"}


def test_a_dry_run_prints_the_card_and_sends_nothing(work: Path, hub: Hub) -> None:
    assert "# photos: features of 20 images" in run("push", work / "photos.h5", "ada/photos", "--dry-run")
    assert hub.files == {}


def test_a_name_that_exists_is_not_written_to_unless_told(work: Path, hub: Hub) -> None:
    run("push", work / "photos.drex", "ada/complexity")
    said = run("push", work / "photos.drex", "ada/complexity", code=1)
    assert "Error: ada/complexity: exists already; give --replace to add a commit, or another name" in said
    run("push", work / "photos.drex", "ada/complexity", "--replace")
    assert hub.commits == {MODEL: 2}


def test_a_refused_commit_leaves_nothing(work: Path, hub: Hub) -> None:
    hub.refuse = True
    said = run("push", work / "photos.drex", "ada/complexity", code=1)
    assert "Error: ada/complexity: nothing has gone up: " in said
    assert hub.files == {}


def test_no_token_no_network_a_bad_name(work: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "a repository is named USER/NAME" in run("push", work / "photos.drex", "ada/com/plexity", code=1)
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    assert "the token may not write there" in run("push", work / "photos.drex", "ada/x", code=1)
    monkeypatch.delenv("HF_TOKEN")
    assert "log in with `hf auth login`, or set HF_TOKEN" in run("push", work / "photos.drex", "ada/x", code=1)
    assert hub.files == {}


def test_outputs_are_not_written_to_the_hub(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in every_command(main):
        for option in command.params:
            if isinstance(option, click.Option) and isinstance(option.type, click.Path) and option.name not in READ:
                with pytest.raises(
                    DrexcacheError, match="names on the Hub are only read; write a file here, then drex"
                ):
                    option.type.convert("hf://ada/complexity/x", option, None)
    said = run("search", work / "photos.h5", "-r", "ridge", "-o", "hf://ada/complexity/found", code=1)
    assert said == (
        "Error: hf://ada/complexity/found: names on the Hub are only read; write a file here, then drexcache push\n"
    )
    for write in (lambda name: search(toy(), ["svr"], name, total_trials=1), lambda name: write_file(name, "text")):
        with pytest.raises(DrexcacheError, match="only read"):
            write("hf://ada/complexity/found")
    assert list(tmp_path.iterdir()) == []


READ = ("ratings", "comparisons", "images", "ids", "train", "test", "scores", "caches", "studies", "curves", "space")
READ += ("chosen", "others", "settings", "with_", "other")


def every_command(group: click.Group) -> Iterator[click.Command]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from every_command(command)
        elif command:
            yield command


def test_no_network(work: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{closed}")
    assert "Error: ada/x: nothing has gone up: " in run("push", work / "photos.drex", "ada/x", code=1)


def test_a_private_repository_asks_for_a_login(work: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    run("push", work / "photos.drex", "ada/complexity", "--private")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(DrexcacheError, match="no such repository, or a private one; log in with `hf auth login`"):
        load_model("hf://ada/complexity/photos.drex")


def test_a_cache_with_failed_rows_is_pushed_only_if_told(hub: Hub, tmp_path: Path) -> None:
    (draw(tmp_path / "photos", 12) / "5.png").write_bytes(b"no picture")
    cache = tmp_path / "c.h5"
    allowed = ("--allow-failures", "--allow-unmatched")
    run("extract", tmp_path / "photos", "--recipe", "classic", "--range", 0, 100, *allowed, "-o", cache)
    assert "or push as it is with --allow-failures" in run("push", cache, "ada/photos", code=1)
    run("push", cache, "ada/photos", "--allow-failures")
    assert "1 image has no features, for the file could not be read" in hub.files[CACHE]["README.md"].decode()


@pytest.mark.parametrize("fault", ["cut", "spoil"])
def test_a_download_that_is_not_whole_is_never_used(work: Path, hub: Hub, fault: str) -> None:
    run("push", work / "photos.drex", "ada/complexity")
    name = "hf://ada/complexity/photos.drex"
    setattr(hub, fault, True)
    with pytest.raises(DrexcacheError, match=r"cannot be fetched|does not have the Hub's checksum"):
        load_model(name)
    setattr(hub, fault, False)
    assert load_model(name).regressor == "ridge"


def test_names_of_another_form_and_files_that_are_not_there(work: Path, hub: Hub) -> None:
    run("push", work / "photos.drex", "ada/complexity")
    for name, message in {
        "hf://photos.h5": "expected hf://datasets/USER/NAME/FILE or hf://USER/NAME/FILE",
        "hf://ada/complexity/other.drex": "the repository has no such file",
        "hf://ada/nothing/other.drex": "no such repository, or a private one",
    }.items():
        with pytest.raises(DrexcacheError, match=message):
            local_file(name)


def test_a_license_that_is_gated_is_said() -> None:
    from drexcache import recipe
    from drexcache.cache import StoredBlock
    from drexcache.studies.publishing import _blocks

    block = StoredBlock(recipe("drex").blocks[0], "0" * 64, "hub", (384,))
    assert "DINOv3 License by Meta also binds" in _blocks([block])
