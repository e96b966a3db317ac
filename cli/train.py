"""drexcache train"""

from __future__ import annotations

import click

from drexcache.cli import make_room_for, say
from drexcache.cli.options import block_option, command_line, target_option, tracker_option


@click.command("train")
@click.argument("cache", type=click.Path())
@click.option("-r", "--regressor", help="Name of a regressor (see drexcache regressors)")
@click.option(
    "--from", "chosen", metavar="FILE", type=click.Path(), help="File with regressor and settings, such as best.json"
)
@click.option("--trust", is_flag=True, help="Import the code that --from names: only for a file that you trust")
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False), help="The model file to write")
@click.option("--log", type=click.Path(dir_okay=False), help="A CSV of a fusion head's epochs: loss, lr, validation")
@block_option
@target_option
@click.option("--split", metavar="LABEL=VALUE", help="Only images with this label, such as split=train")
@click.option("--seed", type=int, help="[default: 42]")
@tracker_option
@click.option("--stream", is_flag=True, help="Read features while training, for caches larger than memory")
def command(
    cache: str,
    regressor: str | None,
    chosen: str | None,
    trust: bool,
    out: str,
    log: str | None,
    blocks: tuple[str, ...],
    target: str | None,
    split: str | None,
    seed: int | None,
    tracker: str | None,
    stream: bool,
) -> None:
    """Train a regressor on a cache and save it as one file, without pickle.

    \b
    drexcache train scenes.h5 -r fusion -o scenes.drex --log training.csv
    drexcache train scenes.h5 --from found/best.json -o best.drex
    drexcache train million.h5 -r fusion --stream -o million.drex
    """
    from drexcache.cache import open_cache
    from drexcache.regressors import ChosenSettings, read_settings, train_model, train_streamed
    from drexcache.studies import tracking

    if (regressor is None) == (chosen is None):
        raise click.UsageError("give either --regressor NAME or --from FILE")
    if tracker:
        tracking.require(tracker)
    start = ChosenSettings(regressor) if regressor else read_settings(chosen or "", trust=trust)
    make_room_for(out, [cache, chosen], "model")
    if log:
        make_room_for(log, [cache, chosen])
    opened = open_cache(cache)
    columns = blocks or start.blocks or tuple(opened.blocks)
    ratings = target or start.target
    label, _, value = (split or "").partition("=")
    first = seed if seed is not None else 42 if start.seed is None else start.seed
    if stream:
        model = train_streamed(
            start.regressor, opened, columns, first, target=ratings, split=(label, value) if split else None,
            settings=start.settings, log=log,
        )  # fmt: skip
    else:
        matrix = opened.matrix(columns, ratings)
        matrix = matrix.where(label, value) if split else matrix
        model = train_model(start.regressor, matrix, opened, columns, first, settings=start.settings, log=log)
    model.save(out)
    left = len(opened) - model.trained["images"]
    say(f"{out}: {start.regressor} trained on {model.trained['images']} rated images of {opened.dataset}" +
        (f"; {left} images of the cache left out (other split, or without rating or features)" if left else "") +
        (f"; its epochs stand in {log}" if log else ""))  # fmt: skip
    if tracker:
        run = {"command": command_line(), "settings": model.trained, "files": [out, *([log] if log else [])]}
        say(tracking.track(tracker, "train", run, getattr(model.estimator, "log_", ())))
