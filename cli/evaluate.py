"""drexcache evaluate"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drexcache.cli import make_room_for, say
from drexcache.cli.options import (
    Output,
    block_option,
    folds_option,
    format_option,
    json_option,
    metric_option,
    repeats_option,
    seeds_option,
    tracker_option,
)
from drexcache.progress import step_bar

if TYPE_CHECKING:
    from drexcache.cache import FeatureMatrix
    from drexcache.datasets import ImageFile
    from drexcache.scores import ScoreTable, Table
    from drexcache.studies.evaluation import Predictions


@click.command("evaluate")
@click.argument("caches", nargs=-1, type=click.Path())
@click.option("--train", multiple=True, type=click.Path(), help="Train on this cache (can be repeated)")
@click.option("--test", multiple=True, type=click.Path(), help="Test on this cache (can be repeated)")
@click.option("-r", "--regressor", "regressors", multiple=True, help="Name of a regressor (can be repeated)")
@click.option(
    "--from",
    "settings",
    metavar="FILE",
    multiple=True,
    type=click.Path(),
    help="Regressor, settings and blocks that a search chose, as best.json (can be repeated)",
)
@click.option("--trust", is_flag=True, help="Import the code that --from names: only for files that you trust")
@click.option("-o", "--out", required=True, type=Output(dir_okay=False), help="The CSV of scores to write")
@block_option
@click.option(
    "--target", "targets", multiple=True,
    help="Name of the ratings (can be repeated); CACHE:NAME for one cache [default: the only ones]",
)  # fmt: skip
@folds_option
@repeats_option
@seeds_option
@click.option("--split", metavar="LABEL", help="In-domain scores by this split's train and test instead of folds")
@click.option("--groups", metavar="LABEL", help="Also a score for every value of this label")
@click.option("--group-folds", metavar="LABEL", help="Keep all images of one value of this label in one fold")
@click.option("--weights", metavar="LABEL", help="Weight images in training by this label's numbers")
@click.option("--images", multiple=True, metavar="[NAME=]PATH", help="Pictures, to find near-copies by their pixels")
@click.option(
    "--with", "others", multiple=True, type=click.Path(),
    help="Train on this cache, too, where training and test images come from one cache (can be repeated)",
)  # fmt: skip
@click.option("--contributions", is_flag=True, help="Also say what each block adds to the predictions of any regressor")
@click.option("--leave-one-out", is_flag=True, help="Also train on all caches but one and test on that one")
@tracker_option
@metric_option
@format_option
@json_option
def command(
    caches: tuple[str, ...], train: tuple[str, ...], test: tuple[str, ...], regressors: tuple[str, ...],
    settings: tuple[str, ...], trust: bool, out: str, blocks: tuple[str, ...], targets: tuple[str, ...], folds: int,
    repeats: int, seeds: tuple[int, ...], split: str | None, groups: str | None, group_folds: str | None,
    weights: str | None, images: tuple[str, ...], others: tuple[str, ...], contributions: bool, leave_one_out: bool,
    tracker: str | None, metric: str, form: str, as_json: bool,
) -> None:  # fmt: skip
    """Score regressors by k-fold within each cache and for every train -> test pair of caches.

    The scores go to a CSV, the per-image predictions with attention weights beside it, a table to the terminal,
    and a record of the run to drexcache-runs.jsonl.

    \b
    drexcache evaluate ad.h5 objects.h5 scenes.h5 -r ridge -r fusion -o scores.csv
    drexcache evaluate scenes.h5 -r ridge --from found/best.json -o scores.csv
    drexcache evaluate scenes.h5 --target complexity --target beauty -r ridge -o scores.csv
    drexcache evaluate patterns.h5:complexity art.h5:beauty -r ridge --group-folds generator -o scores.csv
    """
    from drexcache.cli.output import record, show_results
    from drexcache.regressors import read_settings
    from drexcache.studies import ledger, tracking
    from drexcache.studies.evaluation import predictions_beside, write_pair

    if tracker:
        tracking.require(tracker)
    paths = list(dict.fromkeys((*caches, *train, *test)))
    for written in (out, predictions_beside(out)):
        make_room_for(written, [*(_file_and_target(path)[0] for path in (*paths, *others)), *settings])
    chosen = {f"{(one := read_settings(path, trust=trust)).regressor} ({path})": one for path in settings}
    if len(chosen) == 1 and not regressors:
        targets = targets or (next(iter(chosen.values())).target or "",)
    targets = tuple(dict.fromkeys(targets)) or ("",)
    _check_together(paths, [*regressors, *chosen], targets, others)
    rated = {target: {path: _matrix(path, blocks, target or None) for path in paths} for target in targets}
    matrices = rated[targets[0]]
    mixed = matrices | {path: _matrix(path, blocks, targets[0] or None) for path in others if path not in matrices}
    every = {target: list(own.values()) for target, own in rated.items()}
    table, predictions = _scored(
        every, [*regressors, *chosen], train=[matrices[path].dataset for path in train] or None,
        test=[matrices[path].dataset for path in test] or None, folds=folds, repeats=repeats, seeds=seeds, split=split,
        groups=groups, group_folds=group_folds, weights=weights, pictures=_pictures(images, matrices),
        leave_one_out=leave_one_out, others=[mixed[path] for path in others], contributions=contributions,
        chosen=chosen,
    )  # fmt: skip
    beside = write_pair(out, table, predictions)
    show_results(table, _tables(table, predictions, every, metric), table.notes, form=form, as_json=as_json)
    record(
        f"scores in {out}, per-image predictions in {beside}", out, "evaluate",
        {_file_and_target(path)[0]: matrix for path, matrix in mixed.items()}, tracker=tracker,
        regressors=[*regressors, *chosen], scores=ledger.scores_of(table), files=[out, str(beside)],
    )  # fmt: skip


def _check_together(
    paths: Sequence[str], regressors: Sequence[str], targets: Sequence[str], others: Sequence[str]
) -> None:
    """Refuse what is missing, and options that do not go together."""
    from drexcache.errors import DrexcacheError

    if not paths:
        raise DrexcacheError("no cache given; name one or more .h5 files")
    if not regressors:
        raise click.UsageError("give --regressor NAME or --from FILE")
    if len(targets) > 1 and (others or any(_file_and_target(path)[1] for path in paths)):
        raise click.UsageError("several --target names go neither with CACHE:NAME nor with --with")


def _scored(
    every: dict[str, list[FeatureMatrix]], regressors: Sequence[str], **options: Any
) -> tuple[ScoreTable, Predictions]:
    """Evaluate the matrices of each target, with a bar."""
    from drexcache.studies import evaluate
    from drexcache.studies.evaluation import evaluate_targets

    score: Any = evaluate_targets if len(every) > 1 else evaluate
    with step_bar("evaluate", "training") as progress:
        return score(every if len(every) > 1 else next(iter(every.values())), regressors, progress=progress, **options)


def _tables(
    table: ScoreTable, predictions: Predictions, every: dict[str, list[FeatureMatrix]], metric: str
) -> list[Table]:
    """The tables to print: scores, attention, contributions and, of several targets, their correlations."""
    from drexcache.scores import score_tables
    from drexcache.studies.evaluation import attention_table, contributions_table, correlation_table

    tables = [*score_tables(table, metric), *attention_table(predictions), *contributions_table(predictions)]
    return [*tables, correlation_table(every)] if len(every) > 1 else tables


def _matrix(path: str, blocks: tuple[str, ...], target: str | None) -> FeatureMatrix:
    """The features of a cache, with the ratings named by CACHE:NAME or else by --target."""
    from drexcache.cache import open_cache

    file, own = _file_and_target(path)
    return open_cache(file).matrix(blocks or None, own or target)


def _file_and_target(path: str) -> tuple[str, str]:
    """Split "a.h5:beauty" into ("a.h5", "beauty"); an existing path names no target."""
    file, _, own = path.rpartition(":")
    is_cache = Path(file).is_file() or file.startswith("hf://")
    return (file, own) if is_cache and not Path(path).exists() else (path, "")


def _pictures(images: tuple[str, ...], matrices: dict[str, FeatureMatrix]) -> dict[tuple[str, str], ImageFile] | None:
    """Find the picture files, with a message about those that are missing."""
    if not images:
        return None
    from drexcache.studies.reporting import find_images

    files, notes = find_images(images, {matrix.dataset: matrix.ids for matrix in matrices.values()})
    for note in notes:
        say(note)
    return files
