"""drexcache compare"""

from __future__ import annotations

import click


@click.command("compare")
@click.argument("scores", nargs=-1, required=True, type=click.Path())
@click.option("--metric", default="pearson", show_default=True, help="Metric to compare by")
@click.option("--match", is_flag=True, help="Compare only the images that all regressors predicted")
def command(scores: tuple[str, ...], metric: str, match: bool) -> None:
    """Say which of the evaluated regressors differ on the same images, and which only by noise.

    \b
    drexcache compare scores.csv
    """
    from drexcache.studies import compare
    from drexcache.studies.comparison import join
    from drexcache.studies.predictions import Predictions, predictions_beside

    files = {path: Predictions.read_csv(predictions_beside(path)) for path in scores}
    click.echo(compare(join(files), metric, match=match).markdown())
