"""drexcache compare"""

from __future__ import annotations

import click

from drexcache.cli.options import Output, format_option, json_option, metric_option

KINDS = ("in-domain", "split", "cross", "leave-one-out")


@click.command("compare")
@click.argument("scores", nargs=-1, required=True, type=click.Path())
@metric_option
@click.option("--against", metavar="REGRESSOR", help="Compare only with this one [default: every two]")
@click.option("--kind", type=click.Choice(KINDS), help="Only scores of this kind, such as those inside a dataset")
@click.option("--match", is_flag=True, help="Compare only the images that all regressors predicted")
@click.option("-o", "--out", type=Output(dir_okay=False), help="Also write the pairs to this CSV")
@format_option
@json_option
def command(
    scores: tuple[str, ...], metric: str, against: str | None, kind: str | None, match: bool, out: str | None,
    form: str, as_json: bool,
) -> None:  # fmt: skip
    """Show which of the evaluated regressors really differ on the same images, and which only by noise.

    \b
    drexcache compare scores.csv
    drexcache compare monday.csv friday.csv --against ridge
    drexcache compare scores.csv --kind in-domain
    """
    from pathlib import Path

    from drexcache.cli import make_room_for
    from drexcache.cli.output import show_results
    from drexcache.errors import DrexcacheError
    from drexcache.studies import compare
    from drexcache.studies.comparison import join
    from drexcache.studies.evaluation import predictions_beside, read_pair

    if out:
        make_room_for(out, [*scores, *map(predictions_beside, scores)])
    for path in scores:
        if not Path(path).exists():
            raise DrexcacheError(f"{path}: no such file")
    files = {path: read_pair(path)[1] for path in scores}
    comparison = compare(join(files), metric, against=against, kind=kind, match=match)
    if out:
        comparison.to_csv(out)
    show_results(comparison, comparison.tables(), comparison.caveats(), form=form, as_json=as_json)
