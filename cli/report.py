"""drexcache report"""

from __future__ import annotations

import click

from drexcache.cli import make_room_for, say
from drexcache.cli.options import Output, command_line, tracker_option
from drexcache.progress import step_bar


@click.command("report")
@click.argument("scores", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--out", required=True, type=Output(dir_okay=False), help="The HTML file to write")
@click.option("--images", multiple=True, metavar="[NAME=]PATH", help="Folder or zip of a dataset's pictures")
@click.option("--no-thumbnails", is_flag=True, help="Leave the pictures out")
@click.option(
    "--cache", "caches", multiple=True, type=click.Path(), help="A cache behind the scores [default: the ledger's]"
)
@click.option("--study", "studies", multiple=True, type=click.Path(), help="Folder that drexcache search wrote")
@click.option("--curve", "curves", multiple=True, type=click.Path(), help="File that drexcache curve wrote")
@click.option("--metric", default="pearson", show_default=True, help="Metric to compare by")
@click.option("--match", is_flag=True, help="Compare only the images that all regressors predicted")
@click.option("--export", type=Output(file_okay=False), help="Folder for figures and tables as files, for papers")
@click.option(
    "--export-figures",
    metavar="REGRESSOR|all",
    multiple=True,
    help="Regressor whose figures are exported [default: the one that the page shows first]",
)
@tracker_option
def command(
    scores: tuple[str, ...], out: str, images: tuple[str, ...], no_thumbnails: bool, caches: tuple[str, ...],
    studies: tuple[str, ...], curves: tuple[str, ...], metric: str, match: bool, export: str | None,
    export_figures: tuple[str, ...], tracker: str | None,
) -> None:  # fmt: skip
    """Make one self-contained HTML page of scores, figures and pictures.

    With --export the figures are also written as PNG and SVG, and the tables as CSV, markdown and LaTeX.

    \b
    drexcache report scores.csv -o report.html
    drexcache report scores.csv --images photos/ --images art=paintings.zip --export paper/ -o report.html
    """
    from drexcache.studies import tracking
    from drexcache.studies.evaluation import predictions_beside
    from drexcache.studies.reporting import report

    if tracker:
        tracking.require(tracker)
    make_room_for(out, [*scores, *map(predictions_beside, scores), *caches, *curves])
    with step_bar("report", "figure") as progress:
        notes = report(
            scores, out, metric=metric, match=match, images=images, caches=caches, studies=studies, curves=curves,
            with_thumbnails=not no_thumbnails, export=export, export_figures=export_figures,
            command=command_line(), progress=progress,
        )  # fmt: skip
    for note in notes:
        say(note)
    say(f"report in {out}" + (f", figures and tables in {export}" if export else ""))
    if tracker:
        say(tracking.track(tracker, "report", {"command": command_line(), "files": [out]}))
