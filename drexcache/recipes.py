"""Recipes: what is computed from an image, as data a person can read, and its fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from drexcache.errors import DrexcacheError, nearest
from drexcache.shown import ShownRecipe

# Increased whenever our own code starts to compute different numbers from the same recipe and weights.
NUMERICS = 1
IMPORTED = "imported"  # the backbone of features that another tool computed

Text = Annotated[str, msgspec.Meta(min_length=1)]
Side = Annotated[int, msgspec.Meta(ge=1, le=8192)]
Spread = Annotated[float, msgspec.Meta(gt=0)]
Resize = Literal["pil-bilinear", "pil-bicubic", "tensor-bilinear"]
Fit = Literal["squeeze", "crop", "pad"]
Pooling = Literal["cls", "patch_mean", "registers", "mean", "std", "max", "gem", "grid2", "value"]
Precision = Literal["fp32", "bf16"]
Alpha = Literal["drop", "white"]
Exif = Literal["ignore", "apply"]
CHOICES: dict[str, tuple[str, ...]] = {
    "resize": get_args(Resize), "fit": get_args(Fit), "pool": get_args(Pooling), "precision": get_args(Precision),
    "alpha": get_args(Alpha), "exif": get_args(Exif),
}  # fmt: skip


@dataclass(frozen=True)
class Tap:
    """A layer of a backbone (a module's name in timm) and how its output is pooled into a vector.

    ``dim`` is the vector's length if the recipe states it; extraction checks it.
    """

    layer: Text
    pool: Pooling
    name: Text
    dim: Annotated[int, msgspec.Meta(ge=1)] | None = None


Taps = Annotated[tuple[Tap, ...], msgspec.Meta(min_length=1)]


@dataclass(frozen=True)
class Block:
    """One backbone at one input size, with its taps; a block of the cache.

    ``size`` is (height, width) in pixels; ``mean`` and ``std`` are per RGB channel on [0, 1]. If they are None,
    extraction fills in the model's own, as timm states them. ``fit`` says how an image of another shape gets that size:
    squeezed, cropped or padded (`drexcache.features.fitting`); ``crops`` and ``flip`` average features over several
    crops and over mirror images. The backbone ``classic`` stands for the hand-made cues: its taps name the cues, and it
    has no weights and no size. ``imported`` stands for features of another tool.
    """

    name: Text
    backbone: Text
    taps: Taps
    tag: str = ""
    licence: str = ""
    size: tuple[Side, Side] = (224, 224)
    resize: Resize = "pil-bilinear"
    mean: tuple[float, float, float] | None = None
    std: tuple[Spread, Spread, Spread] | None = None
    precision: Precision = "fp32"
    flip: bool = False
    alpha: Alpha = "drop"
    exif: Exif = "ignore"
    fit: Fit = "squeeze"
    crops: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1

    @property
    def pixels(self) -> tuple[int, int]:
        """(height, width) of an image's pixels: its crops, one below the other."""
        return self.crops * self.size[0], self.size[1]

    @property
    def is_classic(self) -> bool:
        """Whether this block holds hand-made cues instead of a backbone's features."""
        return self.backbone == "classic"

    @property
    def dim(self) -> int | None:
        """The length of the block's feature vector, or None if a tap does not state its own."""
        dims = [tap.dim for tap in self.taps]
        return None if None in dims else sum(d for d in dims if d is not None)

    def fields(self) -> dict[str, Any]:
        """All fields; ``fit`` and ``crops`` only if images are not squeezed, so that older fingerprints stay valid."""
        fields = asdict(self)
        if self.fit == "squeeze":
            del fields["fit"], fields["crops"]
        return fields

    def spec(self) -> dict[str, Any]:
        """Every field that affects the features, except the weights' values, as plain JSON types."""
        spec = self.fields()
        for label in ("name", "tag", "licence"):  # mere labels; the weights' hash stands for the tag
            del spec[label]
        spec["taps"] = [{"name": tap.name, "layer": tap.layer, "pool": tap.pool} for tap in self.taps]
        if self.backbone in ("classic", IMPORTED):
            spec = {key: spec[key] for key in ("backbone", "taps", "alpha", "exif")}
        return json.loads(json.dumps(spec))

    def fingerprint(self, weights_sha256: str) -> str:
        """SHA-256 (hex) over the canonical JSON of `spec`, the weights' hash and the version of our numerics."""
        return fingerprint_of({**self.spec(), "weights_sha256": weights_sha256, "numerics": NUMERICS})


Blocks = Annotated[tuple[Block, ...], msgspec.Meta(min_length=1)]


@dataclass(frozen=True)
class Recipe(ShownRecipe):
    """Named blocks, and where their weights come from by default.

    >>> r = recipe("drex")
    >>> [(b.name, b.backbone, b.size, b.dim) for b in r.blocks]
    [('dino', 'vit_small_patch16_dinov3_qkvb', (224, 224), 384), ('resnet', 'resnet50', (512, 512), 3840)]
    """

    name: Text
    blocks: Blocks
    about: str = ""
    source: str = ""
    weights: str = "hub"

    @property
    def dim(self) -> int | None:
        """The length of an image's whole feature vector, or None if a tap does not state its own."""
        dims = [block.dim for block in self.blocks]
        return None if None in dims else sum(d for d in dims if d is not None)

    def with_options(self, **options: Any) -> Recipe:
        """The same recipe with ``precision``, ``alpha`` or ``exif`` changed in every block; None changes nothing.

        >>> {b.precision for b in recipe("drex").with_options(precision="bf16").blocks}
        {'bf16'}
        """
        given = {key: value for key, value in options.items() if value is not None}
        blocks = [{**asdict(block), **given} for block in self.blocks]
        return recipe_from_dict({**asdict(self), "blocks": blocks}, f"recipe {self.name}")

    def select(self, names: Sequence[str]) -> Recipe:
        """Only these blocks, in the recipe's own order."""
        known = [block.name for block in self.blocks]
        if unknown := [name for name in names if name not in known]:
            raise DrexcacheError(f"recipe {self.name} has no block named {unknown[0]}; it has: {', '.join(known)}")
        return replace(self, blocks=tuple(block for block in self.blocks if block.name in names))

    def renamed(self, renames: Sequence[str]) -> Recipe:
        """The same blocks under other names, each rename given as "OLD=NEW"."""
        names = dict(rename.partition("=")[::2] for rename in renames)
        self.select(list(names))
        blocks = tuple(replace(block, name=names.get(block.name, block.name)) for block in self.blocks)
        if len({block.name for block in blocks}) != len(blocks) or "" in names.values():
            raise DrexcacheError(f"renames {', '.join(renames)}: expected OLD=NEW, with every new name once")
        return replace(self, blocks=blocks)

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain JSON types; `recipe_from_dict` reads them back."""
        return json.loads(json.dumps(asdict(self)))


def fingerprint_of(fields: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the fields as UTF-8 JSON with sorted keys and no spaces."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def recipe_names() -> list[str]:
    """Names of the recipes that ship with drexcache.

    >>> recipe_names()
    ['classic', 'complexity', 'complexity-lean', 'drex', 'drex-wide', 'offline']
    """
    folder = resources.files("drexcache.recipe_files")
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def recipe(name: str | Path) -> Recipe:
    """The recipe of that name, or the one in that TOML file.

    Raises
    ------
    DrexcacheError : no such recipe or file, or a field that is wrong (names file and key).
    """
    if str(name) in recipe_names():
        file = resources.files("drexcache.recipe_files") / f"{name}.toml"
        return _parse(file.read_text(encoding="utf-8"), f"recipe {name}")
    path = Path(name)
    if not path.is_file():
        raise DrexcacheError(f"no recipe and no .toml file named {name}; {nearest(str(name), recipe_names())}")
    try:
        return _parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DrexcacheError(f"{path}: cannot be read as text ({error})") from error


def recipe_from_dict(fields: Mapping[str, Any], where: str) -> Recipe:
    """The recipe with these fields, each checked; ``where`` names their origin in errors.

    Raises
    ------
    DrexcacheError : a field is unknown, missing or wrong (names block, tap, key and what was found).
    """
    fields = _completed(fields, Recipe, where)
    try:
        built = msgspec.convert(fields, Recipe)
    except msgspec.ValidationError as error:
        raise DrexcacheError(_explained(str(error), fields, where)) from error
    _refuse_twins([block.name for block in built.blocks], f"{where}: two blocks")
    for number, block in enumerate(built.blocks, 1):
        if "/" in block.name or not block.name.isprintable():
            raise DrexcacheError(f"{where}, block {number}: name {block.name!r} must be printable and without a slash")
        if block.crops > 1 and block.fit != "crop":
            raise DrexcacheError(f"{where}, block {number} ({block.name}): crops need fit 'crop'; found {block.fit!r}")
        _refuse_twins([tap.name for tap in block.taps], f"{where}, block {number} ({block.name}): two taps")
    return built


def _parse(text: str, where: str) -> Recipe:
    try:
        fields = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DrexcacheError(f"{where}: not TOML, in which a recipe is written ({error})") from error
    return recipe_from_dict(fields, where)


def _completed(fields: Any, kind: type, where: str) -> Any:
    """The fields with the defaults of those that a file may leave out; unknown ones are refused."""
    if not isinstance(fields, Mapping):
        return fields  # msgspec will refuse its type
    names = [field.name for field in dataclasses.fields(kind)]
    if unknown := [key for key in fields if key not in names]:
        raise DrexcacheError(f"{where}: unknown field {unknown[0]!r}; known fields: {', '.join(names)}")
    found = {"name": f"{fields.get('layer')}.{fields.get('pool')}", **fields} if kind is Tap else dict(fields)
    if isinstance(found.get("size"), int):
        found["size"] = (found["size"], found["size"])
    for key, inside in (("blocks", Block), ("taps", Tap)):
        if isinstance(found.get(key), list | tuple):
            found[key] = [_completed(one, inside, f"{where}, {key[:-1]} {n}") for n, one in enumerate(found[key], 1)]
    return found


def _explained(problem: str, fields: Any, where: str) -> str:
    """Turn msgspec's "PROBLEM - at `$.blocks[0].size`" into a sentence that names block, tap, key and value."""
    problem, _, path = problem.partition(" - at `$")
    key = ""
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        fields = fields[name or int(index)]
        if key in ("blocks", "taps") and index:
            named = f" ({fields['name']})" if isinstance(fields, Mapping) and "name" in fields else ""
            where = f"{where}, {key[:-1]} {int(index) + 1}{named}"
        key = name or key
    if "missing" in problem:
        return f"{where}: {problem[0].lower()}{problem[1:]}"
    if key == "precision" and fields == "fp16":
        return f"{where}: precision fp16 is refused, DINOv3's activations overflow it; use bf16 or fp32"
    if key in CHOICES:
        return f"{where}: field {key!r} must be one of {', '.join(CHOICES[key])}; found {fields!r}"
    return f"{where}: field {key!r}: {problem[0].lower()}{problem[1:]}; found {fields!r}"


def _refuse_twins(names: Sequence[str], what: str) -> None:
    if len(set(names)) != len(names):
        raise DrexcacheError(f"{what} share a name; found: {', '.join(names)}")
