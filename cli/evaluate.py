"""drexcache evaluate"""

from __future__ import annotations

import click

from drexcache.cli import make_room_for, say
from drexcache.cli.progress import step_bar
from drexcache.cli.provenance import command_line
from drexcache.cli.tables import format_option, metric_option


@click.command("evaluate")
@click.argument("caches", nargs=-1, type=click.Path())
@click.option("--train", multiple=True, type=click.Path(), help="Train on this cache (can be repeated)")
@click.option("--test", multiple=True, type=click.Path(), help="Test on this cache (can be repeated)")
@click.option(
    "-r", "--regressor", "regressors", multiple=True, required=True, help="Name of a regressor (can be repeated)"
)
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False), help="The CSV of scores to write")
@click.option("--block", "blocks", multiple=True, help="Only this block, or block/tap (can be repeated) [default: all]")
@click.option("--target", help="Name of the ratings [default: the only ones]")
@click.option("--folds", default=5, show_default=True, type=click.IntRange(2))
@click.option(
    "--repeats", default=1, show_default=True, type=click.IntRange(1), help="Repeat the k-fold with other folds"
)
@click.option(
    "--seed", "seeds", multiple=True, type=int, default=(42,), show_default=True,
    help="Seed of the regressors (can be repeated)",
)  # fmt: skip
@click.option("--split", metavar="LABEL", help="In-domain scores by this split's train and test instead of folds")
@click.option("--groups", metavar="LABEL", help="Also a score for every value of this label")
@click.option("--leave-one-out", is_flag=True, help="Also train on all caches but one and test on that one")
@metric_option
@format_option
def command(
    caches: tuple[str, ...], train: tuple[str, ...], test: tuple[str, ...], regressors: tuple[str, ...], out: str,
    blocks: tuple[str, ...], target: str | None, folds: int, repeats: int, seeds: tuple[int, ...], split: str | None,
    groups: str | None, leave_one_out: bool, metric: str, form: str,
) -> None:  # fmt: skip
    """Score regressors by k-fold inside each cache and by every train -> test pair of caches.

    The scores go to a CSV, the per-image predictions with attention weights beside it, a table to the terminal,
    and a line that says what was run to drexcache-runs.jsonl.

    \b
    drexcache evaluate ad.h5 objects.h5 scenes.h5 -r ridge -r fusion -o scores.csv
    """
    from drexcache.cache import open_cache
    from drexcache.errors import DrexcacheError
    from drexcache.scores import render, score_tables
    from drexcache.studies import evaluate, ledger
    from drexcache.studies.evaluation import attention_table, predictions_beside

    make_room_for(out)
    paths = list(dict.fromkeys((*caches, *train, *test)))
    if not paths:
        raise DrexcacheError("no cache given; name one or more .h5 files")
    matrices = {path: open_cache(path).matrix(blocks or None, target) for path in paths}
    with step_bar("evaluate", "training") as progress:
        table, predictions = evaluate(
            list(matrices.values()), regressors, train=[matrices[p].dataset for p in train] or None,
            test=[matrices[p].dataset for p in test] or None, folds=folds, repeats=repeats, seeds=seeds, split=split,
            groups=groups, leave_one_out=leave_one_out, progress=progress,
        )  # fmt: skip
    table.to_csv(out)
    beside = predictions_beside(out)
    predictions.to_csv(beside)
    click.echo(render([*score_tables(table, metric), *attention_table(predictions)], table.notes, form))
    record = ledger.append(
        out, "evaluate", command=command_line(), caches=ledger.caches_of(matrices), regressors=list(regressors),
        scores=ledger.scores_of(table), files=[out, str(beside)],
    )  # fmt: skip
    say(f"scores in {out}, per-image predictions in {beside}, recorded in {record}")
