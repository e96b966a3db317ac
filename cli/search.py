"""drexcache search"""

from __future__ import annotations

import click

from drexcache.cli import say
from drexcache.cli.options import (
    Output,
    block_option,
    command_line,
    folds_option,
    json_option,
    regressors_option,
    target_option,
    tracker_option,
)
from drexcache.errors import several
from drexcache.progress import step_bar


@click.command("search")
@click.argument("cache", type=click.Path())
@regressors_option
@click.option(
    "-o", "--out", required=True, type=Output(file_okay=False),
    help="Folder of the search; an existing one is continued",
)  # fmt: skip
@click.option(
    "--total-trials", default=50, show_default=True, type=click.IntRange(1),
    help="Total number of trials, including earlier ones",
)  # fmt: skip
@block_option
@target_option
@click.option("--split", metavar="LABEL", help="Use only the images that this column calls train ('none': all images)")
@folds_option
@click.option("--repeats", default=1, show_default=True, type=click.IntRange(1), help="Repeat with other folds")
@click.option("--holdout", is_flag=True, help="Hold out the first fold only: one training per trial")
@click.option("--metric", default="pearson", show_default=True, help="Metric to search by")
@click.option("--seed", default=42, show_default=True, help="Seed of the regressors and of the search")
@click.option("--space", type=click.Path(), help="A TOML file that narrows the search space")
@click.option(
    "--trust", is_flag=True, help="Let --space set parameters of imported code: only for a file that you trust"
)
@click.option(
    "--storage", metavar="URL", help="Database or grpc://HOST:PORT that shares a study [default: a file in the folder]"
)
@tracker_option
@click.option("--study", metavar="NAME", help="Name of the study [default: the dataset's]")
@json_option
def command(
    cache: str, regressors: tuple[str, ...], out: str, total_trials: int, blocks: tuple[str, ...], target: str | None,
    split: str | None, folds: int, repeats: int, holdout: bool, metric: str, seed: int, space: str | None,
    trust: bool, storage: str | None, tracker: str | None, study: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Search the settings and blocks of regressors by k-fold; running the same command again continues.

    Every regressor gets an equal share of the trials. The folder holds best.json, for drexcache train --from,
    a table of all regressors, and the trials, which drexcache report --study draws.

    \b
    drexcache search scenes.h5 -r fusion -r svr -o search-scenes --total-trials 60
    drexcache search ic9600.h5 -r fusion --split split -o search --block dino --block resnet/layer4
    """
    from drexcache.cache import open_cache
    from drexcache.cli.output import record, show_results
    from drexcache.studies import tracking
    from drexcache.studies.searching import read_narrowed, search, training_rows, without_password

    if tracker:
        tracking.require(tracker)
    matrix = training_rows(open_cache(cache).matrix(blocks or None, target), split, cache)
    narrowed = read_narrowed(space, regressors, trust=trust) if space else None
    with step_bar("search", "trial") as progress:
        found = search(
            matrix, regressors, out, total_trials=total_trials, folds=folds, repeats=repeats, holdout=holdout,
            metric=metric, seed=seed, storage=storage, study=study, narrowed=narrowed, progress=progress,
        )  # fmt: skip
    show_results(found, found.tables(), found.caveats(), as_json=as_json)
    if found.interrupted:
        say(f"interrupted: {found.finished} of {several(total_trials, 'trial')} done; run the same command to go on")
        raise SystemExit(128 + found.interrupted)
    if not found.new:
        say(f"all of {several(found.finished, 'trial')} had been done before; see {out}/best.json and {out}/trials.csv")
        return
    if found.finished < total_trials:
        say(f"{several(found.finished, 'trial')} instead of {total_trials}: there are no more settings to try")
    typed = command_line().replace(storage, without_password(storage)) if storage else command_line()
    record(
        f"best settings in {out}/best.json, all trials in {out}/trials.csv", out, "search", {cache: matrix},
        tracker=tracker, command=typed, regressors=list(regressors), settings=found.best, scores=found.scores(),
        files=[f"{out}/best.json", f"{out}/trials.csv"],
    )  # fmt: skip
