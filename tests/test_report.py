"""The report without a browser: what stands in the file, what is left out and said, and every mistake."""

from __future__ import annotations

import csv
import json
import re
import shlex
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import draw
from PIL import Image
from small_scores import names, pictures, run_of, save_scores, two_datasets

pytest.importorskip("matplotlib", reason="needs matplotlib, of drexcache[report]")
pytest.importorskip("jinja2", reason="needs Jinja2, of drexcache[report]")

from drexcache.cache.reader import open_cache
from drexcache.cli import main
from drexcache.datasets.table import read_images
from drexcache.errors import DrexcacheError
from drexcache.features import extract
from drexcache.recipes import recipe
from drexcache.studies import evaluate, ledger
from drexcache.studies.comparison import Comparison, compare
from drexcache.studies.evaluation.predictions import Run, predictions_beside
from drexcache.studies.reporting.commands import extract_commands
from drexcache.studies.reporting.evidence import Scale, read_evidence
from drexcache.studies.reporting.figures import calibration_band
from drexcache.studies.reporting.page import report
from drexcache.studies.reporting.pictures import find_images, thumbnails
from drexcache.studies.reporting.summary import summarise


class Page(HTMLParser):
    """Its visible text, its data, and every address it names."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html, self.texts, self.addresses, self.tags, self.inside = path.read_text(), [], [], [], ""
        self.feed(self.html)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]

    def handle_data(self, data: str) -> None:
        if self.inside not in ("style", "script"):
            self.texts.append(data)

    @property
    def data(self) -> dict:
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', self.html, re.DOTALL)
        assert found
        return json.loads(found[1])


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_datasets(tmp_path_factory.mktemp("scores") / "scores.csv")


@pytest.fixture(scope="module")
def page(scores: Path) -> Page:
    pictures(scores.parent / "art", names(30))
    pictures(scores.parent / "photos", names(28))
    report(
        [scores], scores.parent / "r.html", images=[str(scores.parent / "art"), f"photos={scores.parent / 'photos'}"]
    )
    return Page(scores.parent / "r.html")


def refusal(*args: object, **options: object) -> str:
    with pytest.raises(DrexcacheError) as caught:
        report(*args, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_file_asks_for_nothing_from_anywhere(page: Page) -> None:
    assert {address for address in page.addresses if not address.startswith("#")} == set()
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert "@import" not in page.html and "url(" not in re.sub(r"url\(#[\w.-]+\)", "", page.html)
    assert "default-src 'none'" in page.html and "script-src 'sha256-" in page.html


def test_words_first_and_no_nan(page: Page) -> None:
    assert "ridge and fusion lead, and nothing separates them; poor is worse." in page.text
    assert page.text.index("nothing separates") < page.text.index("Spearman")
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", page.text, re.IGNORECASE)
    assert "within noise" in page.text and "the pooled score mixes 3 groups" in page.text


def test_what_is_left_out_is_said(page: Page) -> None:
    assert "photos: no picture of 2 of 30 images (028.png, 029.png): not found where --images says" in page.text
    assert "no record of the run that wrote it" in page.text
    assert "no recipe and fingerprints of art, photos; give their caches: --cache FILE" in page.text


def test_every_image_is_embedded_once_and_every_point_knows_its_own(page: Page) -> None:
    data = page.data
    assert len(data["images"]) == 60
    assert sum(bool(picture) for *_, picture in data["images"]) == 58
    assert page.html.count("data:image/webp") == 58
    result = data["results"][data["panels"]["scatter-ridge-art"][0]["result"]]
    points = data["panels"]["scatter-ridge-art"][0]
    rated = [data["images"][result["images"][row]][2] for row in points["rows"]]
    # In the figure, right is a higher rating and up (a smaller y) is a higher prediction.
    assert np.corrcoef(rated, points["x"])[0, 1] > 0.9999
    assert np.corrcoef([result["predicted"][row] for row in points["rows"]], points["y"])[0, 1] < -0.9999


def test_a_point_of_data_is_where_the_figure_draws_it(page: Page) -> None:
    points = page.data["panels"]["scatter-ridge-art"][0]
    svg = page.html[page.html.index('data-panel="scatter-ridge-art"') :]
    drawn = re.findall(r'<use href="#scatter-ridge-art-[^"]*" x="([\d.]+)" y="([\d.]+)"', svg[: svg.index("</svg>")])
    drawn = [(float(x), float(y)) for x, y in drawn]
    for x, y in zip(points["x"], points["y"], strict=True):
        assert min(abs(x - u) + abs(y - v) for u, v in drawn) < 0.11


def test_the_summary_says_what_the_verdicts_say(scores: Path) -> None:
    evidence = read_evidence([scores], "pearson")
    comparison = compare(evidence.predictions)
    summary = summarise(evidence, comparison)
    assert "4 of 6 differences inside the datasets and 4 of 6 across them are" in summary.sentences[-1]
    assert summary.leader in ("ridge", "fusion")
    same = [replace(pair, verdict="within noise") for pair in comparison.pairs]
    assert summarise(evidence, replace(comparison, pairs=same)).headline == (
        "Nothing separates ridge, fusion and poor: every difference is within noise."
    )
    best = [replace(pair, verdict="better" if pair.first == "ridge" else "within noise") for pair in comparison.pairs]
    assert summarise(evidence, replace(comparison, pairs=best)).headline == (
        "ridge is the best: better in all 4 comparisons."
    )


def test_p_inside_the_datasets_is_not_corrected_for_the_many_pairs_across(scores: Path, page: Page) -> None:
    evidence = read_evidence([scores], "pearson")
    inside = compare(evidence.predictions, kind="in-domain").pairs
    assert [pair.kind for pair in inside] == ["in-domain"] * 6
    for pair in inside:
        assert pair.p_holm is not None
        shown = "< 0.001" if pair.p_holm < 0.001 else f"{pair.p_holm:.3f}"
        assert f"{pair.test} {pair.first} {pair.second} " in page.text and f"{pair.sentence} {shown} " in page.text


def test_a_crowd_without_an_unbeaten_one_is_told_by_its_best_mean(scores: Path) -> None:
    evidence = read_evidence([scores], "pearson")
    pairs = compare(evidence.predictions).pairs
    beaten = [
        replace(pair, verdict="worse" if (pair.first, pair.test) == ("ridge", "art") else "better") for pair in pairs
    ]
    told = summarise(evidence, Comparison(beaten, [])).headline
    means = {
        name: np.mean([result.value for result in evidence.home(name) if result.value is not None])
        for name in evidence.regressors
    }
    best = max(("ridge", "fusion"), key=lambda name: means[name])
    assert told.startswith(
        f"{best} has the best mean, r = {means[best]:.3f} on average over 2 test sets, but no regressor"
    )


def headline(folder: Path, runs: list[Run]) -> str:
    evidence = read_evidence([save_scores(folder / "s.csv", runs)], "pearson")
    summary = summarise(evidence, compare(evidence.predictions))
    return " ".join([summary.headline, *summary.sentences])


def test_constant_regressors_take_no_part_in_the_verdict(tmp_path: Path) -> None:
    mean, ridge = run_of("mean", "art", "art", names(15), constant=True), run_of("ridge", "art", "art", names(15))
    told = headline(tmp_path, [mean, ridge])
    assert told.startswith("ridge predicts the ratings of art with r = 0.9")
    assert told.endswith("mean cannot be compared: the predictions are constant.")
    told = headline(tmp_path, [mean, ridge, run_of("fusion", "art", "art", names(15))])
    assert told.startswith("Nothing separates fusion and ridge: every difference is within noise.")


def test_many_regressors_do_not_fill_the_headline(tmp_path: Path) -> None:
    """Such as an ablation's, whose names have commas."""
    variants = [run_of(f"ridge, only tap{'s' * number}", "art", "art", names(20)) for number in range(6)]
    told = headline(tmp_path, variants)
    assert re.match("Nothing separates “ridge, only taps*” and 5 others: every difference is within noise.", told)
    assert "2 more in the table." in told
    told = headline(tmp_path / "more", [*variants, run_of("poor", "art", "art", names(20), noise=3)])
    assert re.match(
        r"“ridge, only taps*” leads with r = 0.\d+: better than 1 of the 6 others, within noise of 5.", told
    )


def test_errors_as_the_metric_lead_to_the_smallest(tmp_path: Path, scores: Path) -> None:
    summary = summarise(read_evidence([scores], "rmse"), compare(read_evidence([scores], "rmse").predictions, "rmse"))
    assert summary.leader != "poor" and "poor is worse" in summary.headline


def test_a_noise_ceiling_is_what_scores_are_a_share_of(tmp_path: Path) -> None:
    path = save_scores(tmp_path / "s.csv", [run_of("ridge", "art", "art", names(40))], noise={"art": 0.01})
    result = read_evidence([path], "pearson").results[0]
    assert result.ceiling == pytest.approx(np.sqrt(1 - 0.01 / np.var(result.rated, ddof=1)))
    report([path], tmp_path / "r.html")
    text = Page(tmp_path / "r.html").text
    assert result.value is not None and result.share in text
    assert f"{result.value / result.ceiling:.0%} of {result.ceiling:.3f}" in text


def test_one_regressor_without_any_option(tmp_path: Path) -> None:
    path = save_scores(tmp_path / "s.csv", [run_of("ridge", "art", "art", names(12))])
    said = report([path], tmp_path / "r.html")
    assert said[0].startswith("no pictures; give the folder or zip")
    page = Page(tmp_path / "r.html")
    assert "there is nothing to compare it with" in page.text and "Train → test" not in page.text


def test_constant_predictions_are_said_to_be_undefined(tmp_path: Path) -> None:
    runs = [run_of("mean", "art", test, names(15), constant=True) for test in ("art", "photos")]
    runs += [run_of("ridge", "art", test, names(15)) for test in ("art", "photos")]
    report([save_scores(tmp_path / "s.csv", runs)], tmp_path / "r.html", export=tmp_path / "out")
    page = Page(tmp_path / "r.html")
    assert "undefined (constant predictions)" in page.text
    everything = page.text + "".join(path.read_text() for path in (tmp_path / "out" / "tables").iterdir())
    assert not re.search(r"\bnan\b", everything, re.IGNORECASE)
    alone = save_scores(tmp_path / "t.csv", runs[:1])
    report([alone], tmp_path / "t.html")
    assert "mean predicts the ratings of art with r undefined" in Page(tmp_path / "t.html").text


def test_several_files_tell_last_weeks_regressor_from_todays(tmp_path: Path) -> None:
    scores = save_scores(tmp_path / "new.csv", [run_of("ridge", "art", "art", names(30))])
    old = save_scores(tmp_path / "old.csv", [run_of("ridge", "art", "art", names(30), noise=0.5)])
    report([scores, old], tmp_path / "r.html")
    options = re.findall(r"<option[^>]*>([^<]*)<", (tmp_path / "r.html").read_text())
    assert options == [f"{scores}: ridge", f"{old}: ridge"]
    other = save_scores(tmp_path / "other.csv", [run_of("svr", "art", "art", names(25))])
    said = refusal([scores, other], tmp_path / "q.html")
    assert "25 images match" in said and "ask to compare only those that match" in said
    report([scores, other], tmp_path / "q.html", match=True)
    assert "25 images match" in Page(tmp_path / "q.html").text


def test_seeds_become_one_point_with_a_spread(tmp_path: Path) -> None:
    runs = [run_of("fusion", "art", "art", names(12), seed=seed) for seed in (1, 2, 3)]
    path = save_scores(tmp_path / "s.csv", runs)
    result = read_evidence([path], "pearson").results[0]
    np.testing.assert_allclose(result.predicted, np.mean([run.predicted for run in runs], axis=0))
    np.testing.assert_allclose(result.spread, np.std([run.predicted for run in runs], axis=0, ddof=1))


def test_mistakes_are_one_sentence(tmp_path: Path, scores: Path) -> None:
    out = tmp_path / "r.html"
    assert "no such" in refusal([scores], out, images=[str(tmp_path / "none")]).lower()
    assert "no dataset named arts; the scores have: art, photos" in refusal([scores], out, images=["arts=x"])
    (tmp_path / "somewhere").mkdir()
    assert "--images NAME=" in refusal([scores], out, images=[str(tmp_path / "somewhere")])
    pictures(tmp_path / "art", ["x.png"])
    assert "none of the 30 images of art is there; expected such as 000.png, found such as x.png" in refusal(
        [scores], out, images=[str(tmp_path / "art")]
    )
    few = save_scores(tmp_path / "few.csv", [run_of("ridge", "art", "art", names(9))])
    assert "art has 9 images; a report needs at least 10" in refusal([few], out)
    assert "no metric named r;" in refusal([scores], out, metric="r")
    assert "no best.json" in refusal([scores], out, studies=[tmp_path])
    assert "no.csv: cannot be read" in refusal([tmp_path / "no.csv"], out)
    assert not out.exists()


def test_scores_without_their_predictions(tmp_path: Path) -> None:
    path = two_datasets(tmp_path / "s.csv", n=12)
    beside = predictions_beside(path)
    kept = beside.read_text()
    beside.write_text("\n".join(line for line in kept.splitlines() if not line.startswith("poor")) + "\n")
    assert "no predictions of poor, art → art" in refusal([path], tmp_path / "r.html")
    other = two_datasets(tmp_path / "other" / "s.csv", n=13)
    beside.write_bytes(predictions_beside(other).read_bytes())
    assert "do not belong together" in refusal([path], tmp_path / "r.html")
    beside.unlink()
    assert "s-predictions.csv" in refusal([path], tmp_path / "r.html")


def test_the_ledger_gives_command_and_settings(tmp_path: Path) -> None:
    path = save_scores(tmp_path / "s.csv", [run_of("ridge", "art", "art", names(12))])
    caches = [
        {"path": "art.h5", "dataset": "art", "images": 12, "target": "rating", "fingerprints": {"dino": "ab" * 32}}
    ]
    command = "drexcache evaluate art.h5 -r ridge -o s.csv"
    ledger.append(path, "evaluate", command=command, caches=caches, settings={"folds": 5}, files=[str(path)])
    report([path], tmp_path / "r.html", command="drexcache report s.csv -o r.html")
    text = Page(tmp_path / "r.html").text
    assert f"{command} drexcache report s.csv -o r.html" in text
    assert "ab" * 32 in text and "art.h5: the cache of art is no longer there" in text


def test_a_real_evaluation_is_traced_back_to_its_images(tmp_path: Path) -> None:
    """Images, extraction, evaluation and report as the commands do them, from another folder than the caches'."""
    draw(tmp_path / "art", 20)
    table = read_images(tmp_path / "art", value_range=(0, 100), allow_unmatched=True)
    extract(table, recipe("classic"), tmp_path / "art.h5", say=lambda line: None)
    cache = open_cache(tmp_path / "art.h5")
    matrix = cache.matrix()
    scores, predictions = evaluate([matrix], ["ridge"])
    scores.to_csv(tmp_path / "s.csv")
    predictions.to_csv(predictions_beside(tmp_path / "s.csv"))
    ledger.append(
        tmp_path / "s.csv", "evaluate", caches=ledger.caches_of({"art.h5": matrix}), command="drexcache evaluate ...",
        files=["s.csv"],
    )  # fmt: skip
    changed = tmp_path / "art" / "003.png"
    Image.new("RGB", (32, 24), "red").save(changed)
    said = report([tmp_path / "s.csv"], tmp_path / "r.html", images=[str(tmp_path / "art")])
    assert said == ["art: no picture of 1 image (003.png): not the file that the features were computed from"]
    page = Page(tmp_path / "r.html")
    text, target = page.text, cache.targets["rating"]
    own = dict(zip(cache.ids, np.round(target.values, 3).tolist(), strict=True))  # on 0 to 100
    assert {image: rated for image, _, rated, _ in page.data["images"]} == own
    assert page.data["results"][0]["digits"] == 1
    np.testing.assert_allclose(page.data["results"][0]["predicted"], 100 * predictions.runs[0].predicted, atol=5e-4)
    assert cache.blocks["cues"].fingerprint in text and "edge_density 1" in text
    command = f"drexcache extract IMAGES --dataset art -o {tmp_path / 'art.h5'} --ratings RATINGS --range 0 100"
    assert f"{command} --higher-is more --target rating --recipe classic drexcache evaluate ..." in text
    other = save_scores(tmp_path / "other" / "s.csv", [run_of("ridge", "photos", "photos", names(12))])
    assert "art.h5: holds art; the scores are of photos" in refusal([other], tmp_path / "q.html", caches=[cache.path])
    other = save_scores(tmp_path / "other" / "s.csv", [run_of("ridge", "art", "art", names(25))])
    assert "5 of the 25 images of art are not in it" in refusal([other], tmp_path / "q.html", caches=[cache.path])


def test_the_commands_make_the_same_cache(tmp_path: Path) -> None:
    """Two blocks of which one has a name of its own, another target, less is more, EXIF applied, float16."""
    draw(tmp_path / "art", 12)
    cache, ratings = tmp_path / "art.h5", tmp_path / "art" / "ratings.csv"
    extract = ["extract", str(tmp_path / "art"), "-o", str(cache), "--range", "0", "120", "--higher-is", "less"]
    extract += [
        "--recipe",
        "classic",
        "--as",
        "cues=plain",
        "--exif",
        "apply",
        "--store",
        "float16",
        "--target",
        "ease",
    ]
    rate = ["cache", "rate", str(cache), str(ratings), "--target", "again", "--range", "-5", "150"]
    for arguments in ([*extract, "--allow-unmatched"], [*rate, "--allow-unmatched"]):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
    lines = extract_commands(open_cache(cache))
    assert len(lines) == 2
    cache.rename(tmp_path / "first.h5")
    paths = {"IMAGES": str(tmp_path / "art"), "RATINGS": str(ratings)}
    for line in lines:
        words = [paths.get(word, word) for word in shlex.split(line)[1:]]
        done = CliRunner().invoke(main, [*words, "--allow-unmatched"])
        assert done.exit_code == 0, done.output
    first, again = open_cache(tmp_path / "first.h5"), open_cache(cache)
    assert {name: (one.fingerprint, one.dtype) for name, one in again.blocks.items()} == {
        name: (one.fingerprint, one.dtype) for name, one in first.blocks.items()
    }
    assert {name: (one.low, one.high, one.higher_is) for name, one in again.targets.items()} == {
        "ease": (0, 120, "less"),
        "again": (-5, 150, "more"),
    }
    for name, target in first.targets.items():
        np.testing.assert_array_equal(again.targets[name].values, target.values)


def search_folder(folder: Path, **changes: str) -> Path:
    """What a search leaves: best.json, results.csv, trials.csv, importance.csv."""
    files = {
        "best.json": '{"format": 1, "metric": "pearson", "dataset": "art", "score": 0.8}',
        "results.csv": "regressor,trials,pruned,failed,score,low,high,nested,nested_low,nested_high,blocks,settings\n"
        'svr,3,1,0,0.8,0.7,0.9,0.75,0.6,0.85,"dino, effnet","{""svr__C"": 2.18026826}"\n',
        "trials.csv": "regressor,trial,state,score\nsvr,0,complete,0.6\nsvr,2,complete,0.8\nsvr,1,pruned,\n",
        "importance.csv": "regressor,parameter,importance\nsvr,svr__C,0.9\nsvr,block dino,0.1\n",
    }
    folder.mkdir()
    for name, text in (files | changes).items():
        (folder / name).write_text(text)
    return folder


def test_a_search_is_shown_with_what_mattered(tmp_path: Path) -> None:
    path = save_scores(tmp_path / "s.csv", [run_of("ridge", "art", "art", names(12))])
    report([path], tmp_path / "r.html", studies=[search_folder(tmp_path / "search")])
    page = Page(tmp_path / "r.html")
    assert "svr 3 1 0 0.800 [0.700, 0.900] 0.750 [0.600, 0.850] dino, effnet svr__C 2.18" in page.text
    assert "svr: share of the scores&#x27; variance: svr__C 90%, block dino 10%" in page.html.replace("'", "&#x27;")
    assert "Pearson's r of 2 trials, best 0.800" in page.html
    broken = search_folder(tmp_path / "broken", **{"best.json": "{"})
    assert "best.json: cannot be read" in refusal([path], tmp_path / "q.html", studies=[broken])
    several = search_folder(tmp_path / "several", **{"best.json": '{"metric": ["mae"], "dataset": "art"}'})
    assert "not what drexcache search writes" in refusal([path], tmp_path / "q.html", studies=[several])
    unknown = search_folder(tmp_path / "unknown", **{"best.json": '{"metric": "beauty", "dataset": "art"}'})
    assert "not what drexcache search writes" in refusal([path], tmp_path / "q.html", studies=[unknown])


def test_pictures_come_from_folders_zips_and_folders_of_folders(tmp_path: Path) -> None:
    ids = {"art": ["a.png", "b/c.png"], "photos": ["a.png"]}
    pictures(tmp_path / "all" / "art", ids["art"])
    pictures(tmp_path / "all" / "photos", ids["photos"])
    files, notes = find_images([str(tmp_path / "all")], ids)
    assert list(files) == [("art", "a.png"), ("art", "b/c.png"), ("photos", "a.png")] and notes == []
    with zipfile.ZipFile(tmp_path / "art.zip", "w") as archive:
        archive.write(tmp_path / "all" / "art" / "a.png", "a.png")
    files, notes = find_images([str(tmp_path / "art.zip")], ids)
    assert list(files) == [("art", "a.png")]
    assert notes == [
        "art: no picture of 1 of 2 images (b/c.png): not found where --images says",
        "photos: no pictures; give its folder or zip: --images photos=FOLDER",
    ]


def test_pictures_that_are_broken_or_not_those_computed_from_are_left_out(tmp_path: Path) -> None:
    pictures(tmp_path / "art", names(3))
    (tmp_path / "art" / "001.png").write_bytes(b"no picture")
    files, _ = find_images([str(tmp_path / "art")], {"art": names(3)})
    made, notes = thumbnails(files, {("art", "000.png"): "0" * 64})
    assert list(made) == [("art", "002.png")]
    assert notes[0] == "art: no picture of 1 image (000.png): not the file that the features were computed from"
    assert notes[1].startswith("art: no picture of 1 image (001.png): cannot be read")


def size_of_report(folder: Path, side: int) -> int:
    """Of 1,000 pictures of noise, which compresses worst, each of them shown."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    ids = names(1000)
    (folder / "art").mkdir()
    for number, name in enumerate(ids):
        Image.fromarray(np.roll(noise, number, axis=0)).save(folder / "art" / name, compress_level=0)
    runs = [run_of("fusion", "art", "art", ids, attention=("dino", "resnet"))]
    report([save_scores(folder / "s.csv", runs)], folder / "r.html", images=[str(folder / "art")])
    assert (folder / "r.html").read_text().count("data:image/webp") == 1000
    return (folder / "r.html").stat().st_size


def test_a_thousand_pictures_stay_below_ten_megabytes(tmp_path: Path) -> None:
    assert size_of_report(tmp_path, 48) < 10_000_000


@pytest.mark.thorough
def test_a_thousand_large_pictures_stay_below_ten_megabytes(tmp_path: Path) -> None:
    assert 5_000_000 < size_of_report(tmp_path, 300) < 10_000_000


def test_attention_is_told_from_what_folds_differ_by(tmp_path: Path) -> None:
    run = run_of("fusion", "art", "art", names(20), attention=("dino", "resnet"))
    own = np.linspace(-0.1, 0.1, 20)  # what images differ by: the same in every fold's average
    own -= (np.bincount(run.fold, own) / np.bincount(run.fold))[run.fold]
    weights = 0.5 + own + 0.06 * (run.fold - 2)
    run = replace(run, attention={"dino": weights, "resnet": 1 - weights})
    result = read_evidence([save_scores(tmp_path / "s.csv", [run])], "pearson").results[0]
    np.testing.assert_allclose(result.attention["dino"], 0.5 + own)
    np.testing.assert_allclose(result.attention["dino"] + result.attention["resnet"], 1)
    assert result.fold_averages["dino"] == pytest.approx((0.38, 0.62))


def test_ratings_of_which_less_is_more_keep_their_own_numbers() -> None:
    scale = Scale(7, 1)
    assert scale.limits == (1, 7)
    np.testing.assert_allclose(scale.of(np.array([0.0, 0.5, 1.0])), [7, 4, 1])


def test_hostile_names_are_only_names(tmp_path: Path) -> None:
    evil = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)> {{7*7}} $\\frac{'
    ids = [f"{evil}{number}" for number in range(12)]
    runs = [run_of(name, evil, evil, ids, group=[evil, "b"] * 6, attention=(evil, "x")) for name in ("ridge", evil)]
    report([save_scores(tmp_path / "s.csv", runs)], tmp_path / "r.html", export=tmp_path / "out")
    page = Page(tmp_path / "r.html")
    assert page.html.count("<script") == 2 and "<img src" not in page.html and "49" not in page.data["images"][0][0]
    assert page.data["images"][0][0] == ids[0]
    latex = (tmp_path / "out" / "tables" / "scores.tex").read_text()
    assert "\\frac" not in latex and "\\textbackslash{}frac" in latex


def test_export_writes_figures_and_tables(tmp_path: Path) -> None:
    groups, arms = ["street", "wood"] * 6, ("dino", "resnet")
    runs = [run_of("ridge", train, "art", names(12), group=groups) for train in ("art", "photos")]
    runs += [run_of("fusion", "art", "art", names(12), attention=arms)]
    scores = save_scores(tmp_path / "s.csv", runs)
    report([scores], tmp_path / "r.html", with_thumbnails=False, export=tmp_path / "out", export_figures=["all"])
    figures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert "scatter-ridge-art.svg" in figures and "scatter-fusion-art.svg" in figures
    assert {
        "matrix-ridge.png",
        "matrix-ridge.svg",
        "scatter-ridge-art.svg",
        "residuals-ridge-photos-to-art.png",
        "attention-fusion-art.svg",
    } <= figures
    assert Image.open(tmp_path / "out" / "figures" / "scatter-ridge-art.png").size[0] > 500
    assert "<text" not in (tmp_path / "out" / "figures" / "scatter-ridge-art.svg").read_text()  # outlines, not a font
    legend = (tmp_path / "out" / "figures" / "figures.txt").read_text()
    assert (
        legend.count("\n") == len(figures) // 2 and "scatter-ridge-art: ridge, art: predicted against rated" in legend
    )
    rows = list(csv.DictReader((tmp_path / "out" / "tables" / "scores.csv").open()))
    expected = read_evidence([scores], "pearson").results[0]
    assert float(rows[0]["Pearson's r"]) == expected.value and float(rows[0]["Pearson's r low"]) == expected.low
    assert "\\toprule" in (tmp_path / "out" / "tables" / "differences.tex").read_text()
    assert (tmp_path / "out" / "tables" / "scores.md").read_text().startswith("| regressor")


def test_export_writes_the_leading_regressors_figures_unless_told_otherwise(tmp_path: Path, scores: Path) -> None:
    def exported(**options: object) -> set[str]:
        report([scores], tmp_path / "r.html", export=tmp_path / "out", **options)  # type: ignore[arg-type]
        legend = (tmp_path / "out" / "figures" / "figures.txt").read_text().splitlines()
        return {line.split(":")[0] for line in legend}

    evidence = read_evidence([scores], "pearson")
    leader = summarise(evidence, compare(evidence.predictions, kind="in-domain")).leader
    kinds = ["scatter"] + ["attention"] * (leader == "fusion")
    cells = ["art", "photos", "art-to-photos", "photos-to-art"]
    matrices = {"matrix-ridge", "matrix-fusion", "matrix-poor"}
    own = {f"{kind}-{leader}-{cell}" for kind in kinds for cell in cells}
    assert exported() == matrices | own | {f"residuals-{leader}-photos", f"residuals-{leader}-art-to-photos"}
    assert {name for name in exported(export_figures=["poor"]) if name.startswith("scatter")} == {
        f"scatter-poor-{cell}" for cell in cells
    }
    said = refusal([scores], tmp_path / "r.html", export=tmp_path / "out", export_figures=["rigde"])
    assert (
        said == "no regressor rigde to export the figures of; did you mean ridge? there are: ridge, fusion, poor, all"
    )


def test_the_calibration_line_is_least_squares() -> None:
    from scipy import stats

    rng = np.random.default_rng(3)
    predicted = rng.uniform(size=50)
    rated = 0.2 + 0.7 * predicted + rng.normal(scale=0.1, size=50)
    band = calibration_band(rated, predicted)
    oracle = stats.linregress(predicted, rated)
    assert band is not None
    np.testing.assert_allclose(band.line, oracle.intercept + oracle.slope * band.at)
    # Where predictions are 0, the mean's interval is the intercept's.
    at_zero = calibration_band(rated, predicted - predicted.min())
    shifted = stats.linregress(predicted - predicted.min(), rated)
    assert at_zero is not None and at_zero.at[0] == 0
    np.testing.assert_allclose(at_zero.mean[0], stats.t.ppf(0.975, 48) * shifted.intercept_stderr)
    assert calibration_band(rated, np.full(50, 0.3)) is None


def test_the_command_says_what_is_missing_and_where_the_report_is(tmp_path: Path) -> None:
    scores = save_scores(tmp_path / "s.csv", [run_of("ridge", "art", "art", names(12))])
    out = tmp_path / "folder" / "r.html"
    done = CliRunner().invoke(main, ["report", str(scores), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "no pictures; give the folder" in done.stderr and f"report in {out}" in done.stderr and out.is_file()
