"""The options by which tables of scores are chosen, shared by the commands that print them."""

from __future__ import annotations

import click

METRICS = ("pearson", "spearman", "kendall", "rmse", "mae", "rmae")  # of drexcache.metrics, slow to import

metric_option = click.option(
    "--metric", type=click.Choice(METRICS), default="pearson", show_default=True, help="Metric of the table"
)
format_option = click.option(
    "--format", "form", type=click.Choice(["markdown", "latex"]), default="markdown", show_default=True,
    help="Form of the printed tables",
)  # fmt: skip
