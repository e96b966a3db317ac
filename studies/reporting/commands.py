"""The commands that would recreate a cache, as far as the cache itself reveals them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from drexcache.cache import FeatureCache, StoredBlock
from drexcache.datasets import Target
from drexcache.recipes import IMPORTED, Block, Recipe, recipe, recipe_names


def extract_commands(cache: FeatureCache) -> list[str]:
    """An extract command per recipe; IMAGES, RATINGS, WEIGHTS and RECIPE.toml are placeholders for the user's paths."""
    start = ["drexcache", "extract", "IMAGES", "--dataset", cache.dataset, "-o", str(cache.path)]
    targets = [_target_options(target) for target in cache.targets.values()]
    ratings = ["--ratings", "RATINGS", *targets[0]] if targets else []
    left = [block for block in cache.blocks.values() if block.definition.backbone != IMPORTED]
    imported = [block for block in cache.blocks.values() if block.definition.backbone == IMPORTED]
    lines: list[list[str]] = []
    for name in sorted(recipe_names(), key=lambda name: not _holds_whole(left, recipe(name))):
        for options in dict.fromkeys(_options(block.definition) for block in left):
            found = {one.name: block for one in _varied(name, options) if (block := _same(one, left))}
            if found:
                lines.append([*start, *ratings, *_recipe_options(name, options, found)])
                left = [block for block in left if block not in found.values()]
    if left:
        lines.append([*start, *ratings, "--recipe", "RECIPE.toml"])
    commands = [shlex.join(line) for line in lines]
    if left:
        commands[-1] += f"  # {', '.join(block.name for block in left)}: of no recipe that ships with drexcache"
    for block in imported:
        words = ["drexcache", "cache", "import", str(block.provenance[0].get("source", "FEATURES"))]
        words += [
            "-o",
            str(cache.path),
            "--block",
            block.name,
            *(["--note", block.definition.tag] * bool(block.definition.tag)),
        ]
        commands.append(shlex.join(words))
    rate = ["drexcache", "cache", "rate", str(cache.path), "RATINGS"]
    return commands + [shlex.join([*rate, *options]) for options in targets[1:]]


def _target_options(target: Target) -> list[str]:
    options = ["--range", f"{target.low:g}", f"{target.high:g}"] if target.declared else []
    return [*options, "--higher-is", target.higher_is, "--target", target.name]


def _options(block: Block) -> tuple[tuple[str, str], ...]:
    """The settings of a block that options of extract can change."""
    names = ("alpha", "exif") if block.is_classic else ("precision", "alpha", "exif")
    return tuple((name, getattr(block, name)) for name in names)


def _varied(name: str, options: Sequence[tuple[str, str]]) -> tuple[Block, ...]:
    return recipe(name).with_options(**dict(options)).blocks


def _same(block: Block, stored: Sequence[StoredBlock]) -> StoredBlock | None:
    """The stored block with this definition, whatever its name."""
    wanted = (block.tag, block.spec())
    return next((one for one in stored if (one.definition.tag, one.definition.spec()) == wanted), None)


def _holds_whole(stored: Sequence[StoredBlock], whole: Recipe) -> bool:
    return all(_same(block, stored) for block in whole.blocks)


def _recipe_options(name: str, options: Sequence[tuple[str, str]], found: dict[str, StoredBlock]) -> list[str]:
    """--recipe and the options that differ from its defaults."""
    plain = recipe(name)
    words = ["--recipe", name]
    if len(found) < len(plain.blocks):
        words += [word for one in found for word in ("--block", one)]
    words += [word for one, block in found.items() if block.name != one for word in ("--as", f"{one}={block.name}")]
    usual = dict(_options(next(block for block in plain.blocks if block.name in found)))
    words += [word for key, value in options if usual.get(key) != value for word in (f"--{key}", value)]
    sources = {block.weights_source.split()[0] for block in found.values() if not block.definition.is_classic}
    source = next(iter(sources), plain.weights)
    if source != plain.weights:
        words += ["--weights", source if source in ("hub", "packaged") else "WEIGHTS"]
    return words + (["--store", "float16"] if any(block.dtype == "float16" for block in found.values()) else [])
