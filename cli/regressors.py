"""drexcache regressors"""

from __future__ import annotations

import click


@click.command("regressors")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: name, description and search space")
def command(as_json: bool) -> None:
    """List the regressors that train, evaluate and search take by name, with the settings that a search may change.

    Any other regressor that follows scikit-learn's interface can be given by its import path, such as
    -r xgboost.XGBRegressor or -r mypackage.models:MyRegressor.

    \b
    drexcache regressors
    drexcache regressors --json
    """
    import json
    from dataclasses import asdict

    from drexcache.regressors import describe_regressors, search_space

    described = describe_regressors()
    if as_json:
        spaces = {name: {key: asdict(space) for key, space in search_space(name).items()} for name in described}
        listed = [{"name": name, "what": line, "space": spaces[name]} for name, line in described.items()]
        click.echo(json.dumps(listed, indent=2))
        return
    for name, line in described.items():
        click.echo(f"{name:<17} {line}")
        for key, space in search_space(name).items():
            click.echo(f"{'':<17}   {key}: {space}")
