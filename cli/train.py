"""drexcache train"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from drexcache.cli import make_room_for, say
from drexcache.cli.options import Output, block_option, command_line, tracker_option
from drexcache.errors import several

if TYPE_CHECKING:
    from drexcache.cache import FeatureCache
    from drexcache.regressors import ChosenSettings, Model


@click.command("train")
@click.argument("caches", nargs=-1, required=True, type=click.Path())
@click.option("-r", "--regressor", help="Name of a regressor (see drexcache regressors)")
@click.option(
    "--from", "chosen", metavar="FILE", type=click.Path(), help="File with regressor and settings, such as best.json"
)
@click.option("--trust", is_flag=True, help="Import the code that --from names: only for a file that you trust")
@click.option("-o", "--out", required=True, type=Output(dir_okay=False), help="The model file to write")
@click.option("--log", type=Output(dir_okay=False), help="A CSV of a fusion head's epochs: loss, lr, validation")
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
    from drexcache.regressors import ChosenSettings, read_settings
    from drexcache.studies import tracking

    if (regressor is None) == (chosen is None):
        raise click.UsageError("give either --regressor NAME or --from FILE")
    if tracker:
        tracking.require(tracker)
    start = ChosenSettings(regressor) if regressor else read_settings(chosen or "", trust=trust)
    _check_together(caches, others, targets, stream=stream, intervals=intervals, log=bool(log))
    make_room_for(out, [*caches, *others, chosen], "model")
    if log:
        make_room_for(log, [*caches, *others, chosen])
    opened = [open_cache(path) for path in (*caches, *others)]
    columns = blocks or start.blocks or tuple(opened[0].blocks)
    first = seed if seed is not None else 42 if start.seed is None else start.seed
    label, _, value = (split or "").partition("=")
    in_memory = partial(_train, opened, own=bool(others), intervals=intervals)
    train: Any = partial(_stream, opened[0]) if stream else in_memory
    models = [
        train(start, columns, first, ratings=name, split=(label, value) if split else None, log=bool(log))
        for name in dict.fromkeys(targets or (start.target,))
    ]
    model = replace(models[0], also=tuple(models[1:]))
    model.save(out, log)
    say(_said(out, start.regressor, models, opened, log))
    if tracker:
        run = {"command": command_line(), "settings": model.trained, "files": [out, *([log] if log else [])]}
        say(tracking.track(tracker, "train", run, getattr(model.estimator, "log_", ())))


def _check_together(
    caches: Sequence[str], others: Sequence[str], targets: Sequence[str], *, stream: bool, intervals: bool, log: bool
) -> None:
    """Refuse options that do not go together."""
    if len(caches) > 1 and others:
        raise click.UsageError("give either several caches, or one and --with others")
    if stream and (others or len(caches) > 1):
        raise click.UsageError("--stream reads one cache alone")
    if stream and intervals:
        raise click.UsageError("--intervals needs the features in memory; leave out --stream")
    if log and len(targets) > 1:
        raise click.UsageError("--log is of one training; give one --target")


def _stream(
    cache: FeatureCache, start: ChosenSettings, columns: Sequence[str], seed: int, *, ratings: str | None,
    split: tuple[str, str] | None, log: bool,
) -> Model:  # fmt: skip
    """Train without holding the features in memory."""
    from drexcache.regressors import train_streamed

    return train_streamed(
        start.regressor, cache, columns, seed, target=ratings, split=split, settings=start.settings, log=log
    )


def _train(
    caches: Sequence[FeatureCache], start: ChosenSettings, columns: Sequence[str], seed: int, *, ratings: str | None,
    split: tuple[str, str] | None, log: bool, own: bool, intervals: bool,
) -> Model:  # fmt: skip
    """Train on matrices of all caches."""
    from drexcache.regressors import train_model

    matrices = [cache.matrix(columns, ratings) for cache in caches]
    matrices = [matrix.where(*split) if split else matrix for matrix in matrices]
    return train_model(
        start.regressor, matrices[0], caches[0], tuple(columns), seed, others=matrices[1:], own=own,
        settings=start.settings, log=log, intervals=intervals,
    )  # fmt: skip


def _said(out: str, regressor: str, models: Sequence[Model], caches: Sequence[FeatureCache], log: str | None) -> str:
    """What was trained, on how many images, and what was left out."""
    trained = models[0].trained
    names = ", ".join([caches[0].dataset, *trained.get("others", ())])
    left = sum(map(len, caches)) - trained["images"]
    where = "caches" if len(caches) > 1 else "cache"
    named = f" for {', '.join(one.target for one in models)}" if len(models) > 1 else ""
    said = f"{out}: {regressor} trained on {several(trained['images'], 'rated image')} of {names}{named}"
    if left:
        said += f"; {several(left, 'image')} of the {where} left out (other split, or without rating or features)"
    return said + (f"; its epochs stand in {log}" if log else "")
