"""drexcache regressors"""

from __future__ import annotations

import click


@click.command("regressors")
def command() -> None:
    """List the regressors that train and evaluate take by name.

    \b
    drexcache regressors
    """
    from tabulate import tabulate

    from drexcache.estimators import describe_regressors

    click.echo(tabulate(list(describe_regressors().items()), headers=["regressor", "what it is"]))
