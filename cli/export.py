"""drexcache export"""

from __future__ import annotations

import click

from drexcache.cli import make_room_for, say
from drexcache.cli.options import Output


@click.command("export")
@click.argument("model", type=click.Path())
@click.option("-o", "--out", required=True, type=Output(dir_okay=False), help="The ONNX file to write")
@click.option("--weights", metavar="hub|packaged|PATH", help="Source of the weights [default: as in training]")
def command(model: str, out: str, weights: str | None) -> None:
    """Write MODEL and its backbones as one ONNX file, which takes an image's pixels and returns its score.

    A fusion model also returns its attention. The file includes resizing and needs only an ONNX runtime, not drexcache.

    \b
    drexcache export scenes.drex -o scenes.onnx
    """
    from drexcache.features import export
    from drexcache.regressors import load_model

    make_room_for(out, [model])
    export(load_model(model), out, weights=weights, say=say)
    say(f"{out}: image, uint8 (height, width, 3) -> score")
