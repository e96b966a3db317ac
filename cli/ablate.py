"""drexcache ablate"""

from __future__ import annotations

import click

from drexcache.cli import make_room_for
from drexcache.cli.options import (
    Output,
    block_option,
    folds_option,
    format_option,
    json_option,
    metric_option,
    regressors_option,
    repeats_option,
    seeds_option,
    target_option,
)
from drexcache.progress import step_bar


@click.command("ablate")
@click.argument("cache", type=click.Path())
@regressors_option
@click.option("-o", "--out", required=True, type=Output(dir_okay=False), help="The CSV of scores to write")
@block_option
@click.option(
    "--level", type=click.Choice(["tap", "block"]), default="tap", show_default=True,
    help="Leave out blocks and their taps, or whole blocks only",
)  # fmt: skip
@target_option
@folds_option
@repeats_option
@seeds_option
@click.option("--split", metavar="LABEL", help="Score by this split's train and test instead of folds")
@metric_option
@format_option
@json_option
def command(
    cache: str, regressors: tuple[str, ...], out: str, blocks: tuple[str, ...], level: str, target: str | None,
    folds: int, repeats: int, seeds: tuple[int, ...], split: str | None, metric: str, form: str, as_json: bool,
) -> None:  # fmt: skip
    """Measure what each part of a cache's features contributes: each block and tap alone, and the rest without it.

    A fusion head is also tried with concatenated features and with fixed weights instead of attention. Scores
    and predictions are written as by evaluate, so compare and report can read them.

    \b
    drexcache ablate scenes.h5 -r fusion -o ablation.csv
    """
    from drexcache.cache import open_cache
    from drexcache.cli.output import record, show_results
    from drexcache.studies import ledger
    from drexcache.studies.comparison import ablate
    from drexcache.studies.evaluation import predictions_beside, write_pair

    for written in (out, predictions_beside(out)):
        make_room_for(written, [cache])
    matrix = open_cache(cache).matrix(blocks or None, target)
    with step_bar("ablate", "training") as progress:
        found = ablate(
            matrix, regressors, folds=folds, repeats=repeats, seeds=seeds, split=split, level=level, progress=progress
        )
    beside = write_pair(out, found.scores, found.predictions)
    show_results(found.scores, found.tables(metric), found.scores.notes, form=form, as_json=as_json)
    record(
        f"scores in {out}, per-image predictions in {beside}", out, "ablate", {cache: matrix},
        regressors=list(regressors), scores=ledger.scores_of(found.scores), files=[out, str(beside)],
    )  # fmt: skip
