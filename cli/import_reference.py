"""drexcache import-reference"""

from __future__ import annotations

import click

from drexcache.cli import make_room_for, say
from drexcache.cli.options import Output


@click.command("import-reference")
@click.argument("checkpoint", type=click.Path())
@click.option("-o", "--out", required=True, type=Output(dir_okay=False), help="The model file to write")
def command(checkpoint: str, out: str) -> None:
    """Import the fusion head from the DReX authors' CHECKPOINT (DReX.pth), unchanged, as a model file.

    The backbones stay in the checkpoint: predict with --weights CHECKPOINT.

    \b
    drexcache import-reference DReX.pth -o drex.model
    drexcache predict drex.model photos/ --weights DReX.pth -o predictions.csv
    """
    from drexcache.features import import_reference

    make_room_for(out, [checkpoint], "model")
    model = import_reference(checkpoint)
    model.save(out)
    size = sum(values.size for values in model.estimator.parameters_.values())
    say(f"{out}: {size:,} parameters, predicts {model.target} on {model.low:g} to {model.high:g}")
    say(f"predict with it: drexcache predict {out} IMAGES --weights {checkpoint} -o predictions.csv")
