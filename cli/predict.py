"""drexcache predict"""

from __future__ import annotations

import click

from drexcache.cli import make_room_for, say
from drexcache.cli.options import device_option


@click.command("predict")
@click.argument("model", type=click.Path())
@click.argument("images", type=click.Path())
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False), help="The CSV to write")
@click.option("--weights", metavar="hub|packaged|PATH", help="Source of the weights [default: as in training]")
@device_option
@click.option(
    "--engine-cpu",
    type=click.Choice(["auto", "torch", "openvino"]),
    default="auto",
    show_default=True,
    help="What runs the backbones on a CPU; auto: OpenVINO where it is installed",
)
@click.option("--clip", is_flag=True, help="Clip predictions to the range of the ratings")
@click.option("--allow-failures", is_flag=True, help="Exit with 0 even if some images could not be read")
def command(
    model: str,
    images: str,
    out: str,
    weights: str | None,
    device: str,
    engine_cpu: str,
    clip: bool,
    allow_failures: bool,
) -> None:
    """Predict the ratings of IMAGES (folder or URL, zip, one image, or a cache) on the scale of the training ratings.

    Images are prepared exactly as in training, as recorded in the model file.

    \b
    drexcache predict scenes.drex holiday/ -o predictions.csv
    """
    from drexcache.regressors import load_model

    make_room_for(out, [model, images])
    loaded = load_model(model)  # before torch is there, whose modules skops would look through, for a second
    from drexcache.features import predict

    prediction, failures = predict(loaded, images, weights=weights, device=device, engine_cpu=engine_cpu, say=say)
    outside = prediction.outside(loaded.low, loaded.high)
    prediction = prediction.clipped(loaded.low, loaded.high) if clip else prediction
    prediction.to_csv(out, failures)
    say(f"{out}: {len(prediction.ids)} predictions of {loaded.target} on {loaded.low:g} to {loaded.high:g}")
    if outside:
        say(f"{outside}; {'brought to its ends' if clip else '--clip brings them to its ends'}")
    for image, reason in failures.items():
        say(f"  {image}: no prediction, {reason}")
    if failures and not allow_failures:
        raise SystemExit(1)
