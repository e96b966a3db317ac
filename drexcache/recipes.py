"""Recipes: what is computed from an image, as data a person can read, and the fingerprint of it."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from drexcache.errors import DrexcacheError, nearest

# Raised when our own code starts to compute other numbers from the same recipe and weights.
NUMERICS = 1

RESIZES = ("pil-bilinear", "pil-bicubic", "tensor-bilinear")
POOLS = ("cls", "patch_mean", "registers", "mean", "std", "max", "gem", "grid2", "value")
PRECISIONS = ("fp32", "bf16")
OPTIONS = {"precision": PRECISIONS, "alpha": ("drop", "white"), "exif": ("ignore", "apply")}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Tap:
    """One reading of a backbone: a layer (a module's name in timm) and how its output is pooled to a vector.

    ``dim`` is the vector's length, where the recipe states it; extraction checks it.
    """

    layer: str
    pool: str
    name: str
    dim: int | None = None


@dataclass(frozen=True)
class Block:
    """One backbone at one input size, with its taps; a block of the cache.

    ``size`` is (height, width) in pixels; ``mean`` and ``std`` are per RGB channel on [0, 1]. The backbone
    ``classic`` stands for the hand-made cues: its taps name the cues, and it has no weights and no size.
    """

    name: str
    backbone: str
    taps: tuple[Tap, ...]
    tag: str = ""
    licence: str = ""
    size: tuple[int, int] = (224, 224)
    resize: str = "pil-bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    precision: str = "fp32"
    flip: bool = False
    alpha: str = "drop"
    exif: str = "ignore"

    @property
    def is_classic(self) -> bool:
        """Whether this block holds hand-made cues instead of a backbone's features."""
        return self.backbone == "classic"

    @property
    def dim(self) -> int | None:
        """Length of the block's feature vector, None where a tap does not state its own."""
        dims = [tap.dim for tap in self.taps]
        return None if None in dims else sum(d for d in dims if d is not None)

    def spec(self) -> dict[str, Any]:
        """All that changes a number, apart from the weights' values, as plain JSON types."""
        spec = asdict(self)
        for label in (
            "name",
            "tag",
            "licence",
        ):  # words about the block; the weights' hash stands for the tag
            del spec[label]
        spec["taps"] = [{"name": tap.name, "layer": tap.layer, "pool": tap.pool} for tap in self.taps]
        if self.is_classic:
            spec = {key: spec[key] for key in ("backbone", "taps", "alpha", "exif")}
        return json.loads(json.dumps(spec))

    def fingerprint(self, weights_sha256: str) -> str:
        """SHA-256 (hex) over the canonical JSON of `spec`, the weights' hash and the version of our numerics."""
        return fingerprint_of({**self.spec(), "weights_sha256": weights_sha256, "numerics": NUMERICS})


@dataclass(frozen=True)
class Recipe:
    """Named blocks, and where their weights come from unless the user says otherwise.

    >>> r = recipe("drex")
    >>> [(b.name, b.backbone, b.size, b.dim) for b in r.blocks]
    [('dino', 'vit_small_patch16_dinov3_qkvb', (224, 224), 384), ('resnet', 'resnet50', (512, 512), 3840)]
    """

    name: str
    blocks: tuple[Block, ...]
    about: str = ""
    source: str = ""
    weights: str = "hub"

    @property
    def dim(self) -> int | None:
        """Length of an image's whole feature vector, where all taps state theirs."""
        dims = [block.dim for block in self.blocks]
        return None if None in dims else sum(d for d in dims if d is not None)

    def with_options(self, **options: Any) -> Recipe:
        """The same recipe with ``precision``, ``alpha`` or ``exif`` changed in every block it applies to, if not None.

        >>> {b.precision for b in recipe("drex").with_options(precision="bf16").blocks}
        {'bf16'}
        """
        given = {key: value for key, value in options.items() if value is not None}
        for key in given:
            _choice(given, key, f"recipe {self.name}", OPTIONS[key], None)
        return replace(self, blocks=tuple(replace(block, **given) for block in self.blocks))

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
        """Plain JSON types; `recipe_from_dict` reads them back."""
        return json.loads(json.dumps(asdict(self)))


def fingerprint_of(fields: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the fields as JSON with sorted keys and no blanks, in UTF-8."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def recipe_names() -> list[str]:
    """Names of the recipes that ship with drexcache.

    >>> recipe_names()
    ['classic', 'drex', 'drex-wide', 'offline']
    """
    folder = resources.files("drexcache.recipe_files")
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def recipe(name: str | Path) -> Recipe:
    """The recipe of that name, or the one in that TOML file.

    Raises
    ------
    DrexcacheError : no such recipe or file, or a field that is wrong (the message names file and key).
    """
    if str(name) in recipe_names():
        text = (resources.files("drexcache.recipe_files") / f"{name}.toml").read_text(encoding="utf-8")
        return _parse(text, f"recipe {name}")
    path = Path(name)
    if not path.is_file():
        raise DrexcacheError(f"no recipe and no .toml file named {name}; {nearest(str(name), recipe_names())}")
    try:
        return _parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DrexcacheError(f"{path}: cannot be read as text ({error})") from error


def recipe_from_dict(fields: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from plain fields, each checked; ``where`` names their origin in errors."""
    _only(fields, ("name", "blocks", "about", "source", "weights"), where)
    blocks = fields.get("blocks")
    if not isinstance(blocks, Sequence) or isinstance(blocks, str) or not blocks:
        raise DrexcacheError(f"{where}: 'blocks' must be a list of at least one block")
    built = tuple(_block(block, f"{where}, block {number + 1}") for number, block in enumerate(blocks))
    names = [block.name for block in built]
    if len(set(names)) != len(names):
        raise DrexcacheError(f"{where}: two blocks share a name; found: {', '.join(names)}")
    words = {
        key: _text(fields, key, where, default) for key, default in (("about", ""), ("source", ""), ("weights", "hub"))
    }
    return Recipe(name=_text(fields, "name", where, None), blocks=built, **words)


def _parse(text: str, where: str) -> Recipe:
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DrexcacheError(f"{where}: not valid TOML ({error})") from error
    return recipe_from_dict(fields, where)


def _block(fields: Any, where: str) -> Block:
    if not isinstance(fields, Mapping):
        raise DrexcacheError(f"{where}: expected a table of fields, found {type(fields).__name__}")
    _only(fields, tuple(Block.__dataclass_fields__), where)
    name = _text(fields, "name", where, None)
    if "/" in name or not name.isprintable():
        raise DrexcacheError(f"{where}: name {name!r} must be printable and without a slash")
    where = f"{where} ({name})"
    taps = fields.get("taps")
    if not isinstance(taps, Sequence) or isinstance(taps, str) or not taps:
        raise DrexcacheError(f"{where}: 'taps' must be a list of at least one tap")
    built = tuple(_tap(tap, f"{where}, tap {number + 1}") for number, tap in enumerate(taps))
    if len({tap.name for tap in built}) != len(built):
        raise DrexcacheError(f"{where}: two taps share a name; found: {', '.join(tap.name for tap in built)}")
    return Block(
        name=name,
        backbone=_text(fields, "backbone", where, None),
        taps=built,
        tag=_text(fields, "tag", where, ""),
        licence=_text(fields, "licence", where, ""),
        size=_size(fields.get("size", (224, 224)), where),
        resize=_choice(fields, "resize", where, RESIZES, "pil-bilinear"),
        mean=_triple(fields.get("mean", IMAGENET_MEAN), "mean", where),
        std=_triple(fields.get("std", IMAGENET_STD), "std", where),
        precision=_choice(fields, "precision", where, PRECISIONS, "fp32"),
        flip=bool(fields.get("flip", False)),
        alpha=_choice(fields, "alpha", where, ("drop", "white"), "drop"),
        exif=_choice(fields, "exif", where, ("ignore", "apply"), "ignore"),
    )


def _tap(fields: Any, where: str) -> Tap:
    if not isinstance(fields, Mapping):
        raise DrexcacheError(f"{where}: expected a table with 'layer' and 'pool', found {type(fields).__name__}")
    _only(fields, ("layer", "pool", "name", "dim"), where)
    layer = _text(fields, "layer", where, None)
    pool = _choice(fields, "pool", where, POOLS, None)
    dim = fields.get("dim")
    if dim is not None and (not isinstance(dim, int) or dim < 1):
        raise DrexcacheError(f"{where}: 'dim' must be a whole number above 0, found {dim!r}")
    return Tap(layer=layer, pool=pool, name=_text(fields, "name", where, f"{layer}.{pool}"), dim=dim)


def _only(fields: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    if unknown := [key for key in fields if key not in known]:
        raise DrexcacheError(f"{where}: unknown field {unknown[0]!r}; known fields: {', '.join(known)}")


def _text(fields: Mapping[str, Any], key: str, where: str, default: str | None) -> str:
    value = fields.get(key, default)
    if not isinstance(value, str) or (default is None and not value):
        raise DrexcacheError(f"{where}: field {key!r} must be text, found {value!r}")
    return value


def _choice(fields: Mapping[str, Any], key: str, where: str, choices: Sequence[str], default: str | None) -> str:
    value = fields.get(key, default)
    if value == "fp16" and key == "precision":
        raise DrexcacheError(f"{where}: precision fp16 is refused, DINOv3's activations overflow it; use bf16 or fp32")
    if value not in choices:
        raise DrexcacheError(f"{where}: field {key!r} must be one of {', '.join(choices)}; found {value!r}")
    return str(value)


def _size(value: Any, where: str) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else ()
    if len(pair) != 2 or not all(isinstance(side, int) and 1 <= side <= 8192 for side in pair):
        raise DrexcacheError(f"{where}: 'size' must be pixels or [height, width] from 1 to 8192, found {value!r}")
    return pair[0], pair[1]


def _triple(value: Any, key: str, where: str) -> tuple[float, float, float]:
    if not isinstance(value, Sequence) or len(value) != 3 or not all(isinstance(v, int | float) for v in value):
        raise DrexcacheError(f"{where}: {key!r} must be three numbers, one per RGB channel, found {value!r}")
    if key == "std" and min(value) <= 0:
        raise DrexcacheError(f"{where}: 'std' must be above 0, found {list(value)}")
    return float(value[0]), float(value[1]), float(value[2])
