"""drexcache predict"""

from __future__ import annotations

from dataclasses import replace

import click

from drexcache.cli import make_room_for, say
from drexcache.cli.options import Output, device_option
from drexcache.errors import several


@click.command("predict")
@click.argument("model", type=click.Path())
@click.argument("images", type=click.Path())
@click.option("-o", "--out", type=Output(dir_okay=False), help="The CSV to write [default: print it]")
@click.option("--weights", metavar="hub|packaged|PATH", help="Source of the weights [default: as in training]")
@device_option
@click.option(
    "--engine-cpu",
    type=click.Choice(["auto", "torch", "openvino"]),
    default="auto",
    show_default=True,
    help="What runs the backbones on a CPU; auto: OpenVINO where it is installed",
)
@click.option("--cache", type=Output(dir_okay=False), help="Keep features here, to go on after a stop")
@click.option("--interval", type=float, metavar="LEVEL", help="Add low and high, which hold this share of ratings: 0.9")
@click.option("--clip", is_flag=True, help="Clip predictions to the range of the ratings")
@click.option("--trust", is_flag=True, help="Import the code of a head of your own: only for a model that you trust")
@click.option("--allow-failures", is_flag=True, help="Exit with 0 even if some images could not be read")
def command(
    model: str,
    images: str,
    out: str | None,
    weights: str | None,
    device: str,
    engine_cpu: str,
    cache: str | None,
    interval: float | None,
    clip: bool,
    trust: bool,
    allow_failures: bool,
) -> None:
    """Predict the ratings of IMAGES on the scale of the training ratings.

    IMAGES is whatever extract reads (a folder, URL, zip, tar, ...), one image, or a cache.

    Images are prepared exactly as in training, as recorded in the model file.

    \b
    drexcache predict scenes.drex holiday/beach.jpg
    drexcache predict scenes.drex holiday/ -o predictions.csv
    drexcache predict scenes.drex archive/ --cache archive.h5 --interval 0.9 -o predictions.csv
    """
    from drexcache.features import predict
    from drexcache.regressors import load_model

    if out:
        make_room_for(out, [model, images, cache])
    loaded = load_model(model, trust=trust)
    prediction, failures = predict(
        loaded, images, weights=weights, device=device, engine_cpu=engine_cpu, interval=interval, cache=cache, say=say
    )
    every = [(loaded, prediction), *((one, prediction.others[one.target]) for one in loaded.also)]
    outside = [f"{one.target}: {told}" for one, said in every if (told := said.outside(one.low, one.high))]
    if clip:
        clipped = [said.clipped(one.low, one.high) for one, said in every]
        prediction = replace(clipped[0], others=dict(zip(prediction.others, clipped[1:], strict=True)))
    if out:
        prediction.to_csv(out, failures)
    else:
        click.echo(prediction.to_pandas(failures).to_csv(index=False, float_format="%.6g"), nl=False)
    what = ", ".join(f"{one.target} on {one.low:g} to {one.high:g}" for one, _ in every)
    say(f"{out or images}: {several(len(prediction.ids), 'prediction')} of {what}")
    for told in outside:
        say(f"{told}; {'brought to its ends' if clip else '--clip brings them to its ends'}")
    for image, reason in failures.items():
        say(f"  {image}: no prediction, {reason}")
    if failures and not allow_failures:
        raise SystemExit(1)
