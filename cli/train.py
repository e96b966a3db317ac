"""drexcache train"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from drexcache.cli import make_room_for, say
from drexcache.cli.options import block_option, command_line, tracker_option

if TYPE_CHECKING:
    from drexcache.regressors import Model


@click.command("train")
@click.argument("caches", nargs=-1, required=True, type=click.Path())
@click.option("-r", "--regressor", help="Name of a regressor (see drexcache regressors)")
@click.option(
    "--from", "chosen", metavar="FILE", type=click.Path(), help="File with regressor and settings, such as best.json"
)
@click.option("--trust", is_flag=True, help="Import the code that --from names: only for a file that you trust")
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False), help="The model file to write")
@click.option("--log", type=click.Path(dir_okay=False), help="A CSV of a fusion head's epochs: loss, lr, validation")
@click.option(
    "--with", "others", multiple=True, type=click.Path(), help="Train on this cache, too, for images of the first one"
)
@block_option
@click.option(
    "--target", "targets", multiple=True, help="Name of the ratings (can be repeated) [default: the only ones]"
)
@click.option("--split", metavar="LABEL=VALUE", help="Only images with this label, such as split=train")
@click.option("--seed", type=int, help="[default: 42]")
@click.option("--intervals", is_flag=True, help="Keep what predict --interval needs: takes 10 more trainings")
@tracker_option
@click.option("--stream", is_flag=True, help="Read features while training, for caches larger than memory")
def command(
    caches: tuple[str, ...],
    regressor: str | None,
    chosen: str | None,
    trust: bool,
    out: str,
    log: str | None,
    others: tuple[str, ...],
    blocks: tuple[str, ...],
    targets: tuple[str, ...],
    split: str | None,
    seed: int | None,
    intervals: bool,
    tracker: str | None,
    stream: bool,
) -> None:
    """Train a regressor on a cache and save it as one file, without pickle.

    Of several caches each dataset's ratings are put on one mean and one spread, and predictions are on their mean
    scale. With --with they are on the first cache's own, and half of each is of a training on that one alone.

    \b
    drexcache train scenes.h5 -r fusion -o scenes.drex --log training.csv
    drexcache train scenes.h5 --from found/best.json -o best.drex
    drexcache train scenes.h5 objects.h5 art.h5 -r best -o any-picture.drex
    drexcache train scenes.h5 --with objects.h5 --with art.h5 -r ridge -o scenes.drex
    drexcache train scenes.h5 -r ridge --target complexity --target beauty -o both.drex
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
    if len(caches) > 1 and others:
        raise click.UsageError("give either several caches, or one and --with others")
    more = caches[1:] or others
    if more and stream:
        raise click.UsageError("--stream reads one cache alone")
    make_room_for(out, [*caches, *others, chosen], "model")
    if log:
        make_room_for(log, [*caches, *others, chosen])
    opened = open_cache(caches[0])
    columns = blocks or start.blocks or tuple(opened.blocks)
    label, _, value = (split or "").partition("=")
    first = seed if seed is not None else 42 if start.seed is None else start.seed
    if stream and intervals:
        raise click.UsageError("--intervals needs the features in memory; leave out --stream")
    if log and len(targets) > 1:
        raise click.UsageError("--log is of one training; give one --target")

    def train(ratings: str | None) -> Model:
        if stream:
            return train_streamed(
                start.regressor, opened, columns, first, target=ratings, split=(label, value) if split else None,
                settings=start.settings, log=bool(log),
            )  # fmt: skip
        matrices = [cache.matrix(columns, ratings) for cache in (opened, *map(open_cache, more))]
        matrices = [matrix.where(label, value) if split else matrix for matrix in matrices]
        return train_model(
            start.regressor, matrices[0], opened, columns, first, others=matrices[1:], own=bool(others),
            settings=start.settings, log=bool(log), intervals=intervals,
        )  # fmt: skip

    models = [train(ratings) for ratings in dict.fromkeys(targets or (start.target,))]
    model = replace(models[0], also=tuple(models[1:]))
    model.save(out, log)
    names = ", ".join([opened.dataset, *model.trained.get("others", ())])
    left = sum(map(len, (opened, *map(open_cache, more)))) - model.trained["images"]
    where = "caches" if more else "cache"
    named = f" for {', '.join(one.target for one in models)}" if len(models) > 1 else ""
    say(f"{out}: {start.regressor} trained on {model.trained['images']} rated images of {names}{named}" +
        (f"; {left} images of the {where} left out (other split, or without rating or features)" if left else "") +
        (f"; its epochs stand in {log}" if log else ""))  # fmt: skip
    if tracker:
        run = {"command": command_line(), "settings": model.trained, "files": [out, *([log] if log else [])]}
        say(tracking.track(tracker, "train", run, getattr(model.estimator, "log_", ())))
