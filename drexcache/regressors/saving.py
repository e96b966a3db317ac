"""Saving an estimator as bytes without pickle, and loading it without executing anything or reading out of bounds.

The format is skops's, a zip of schema.json and NumPy arrays. skops writes it, but it is read here: skops would first
import all of scikit-learn and torch, to list what it trusts. Here only the types that our own regressors consist of are
built, and every array must be as large as it claims.
"""

from __future__ import annotations

import io
import json
import math
import warnings
import zipfile
from pkgutil import resolve_name
from typing import Any

import numpy as np
from numpy.lib import format as npy
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.tree._tree import NODE_DTYPE, Tree

from drexcache.errors import DrexcacheError
from drexcache.regressors.fitted import PARTS, SHAPES, arrays_of, check_fitted, unlisted, without_search_trees
from drexcache.regressors.import_path import module_at

OLD_RIDGE = b'"__module__": "drexcache.ridge"'
PROTOCOL = 2  # of skops; earlier ones describe objects differently
SCHEMA_BYTES = 2**24  # enough for some 2,000 trees
REFERENCES = 4  # what a file says may be so many times its size, unfolded: a stack refers to its members twice
NODE_BYTES = 16  # that every object counts for in this, fewer than it takes in the schema

# What fitted estimators contain besides numbers and each other.
_INSIDE = (
    "sklearn._loss.link.IdentityLink",
    "sklearn._loss.link.Interval",
    "sklearn._loss.loss.HalfSquaredError",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.model_selection._split.KFold",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
)
_ESTIMATORS = tuple(f"{kind.__module__}.{kind.__qualname__}" for kind in (*SHAPES, *PARTS))
_NUMBERS = ("ndarray", "float32", "float64", "int32", "int64", "uint64", "bool")
KINDS: dict[str, tuple[str, ...]] = {  # skops's kind of node -> the types it may name
    "JsonNode": ("builtins.str",),
    "TypeNode": ("builtins.str",),
    "ListNode": ("builtins.list",),
    "TupleNode": ("builtins.tuple",),
    "SliceNode": ("builtins.slice",),
    "DictNode": ("builtins.dict", "sklearn.utils._bunch.Bunch"),
    "NdArrayNode": tuple(f"numpy.{name}" for name in _NUMBERS),
    "ObjectNode": (*_ESTIMATORS, *_INSIDE),
    "TreeNode": ("sklearn.tree._tree.Tree",),
    "LossNode": ("sklearn._loss._loss.CyHalfSquaredError",),
    "RandomStateNode": ("numpy.random.mtrand.RandomState",),
    "RandomGeneratorNode": ("numpy.random._generator.Generator",),
}


def refuse_unsavable(estimator: Any) -> None:
    """Raise DrexcacheError if no model file can hold an estimator of this kind, fitted or not."""
    if reason := unlisted(estimator):
        raise DrexcacheError(
            f"{type(estimator).__name__} cannot be saved: a model file never holds {reason}, for nothing here could "
            "check it when it is read back; evaluate can still use it"
        )


def dump_estimator(estimator: Any) -> bytes:
    """The fitted estimator in skops's format.

    Raises
    ------
    DrexcacheError : it contains something that could not be read back.
    """
    import skops.io

    refuse_unsavable(estimator)
    try:
        data: bytes = skops.io.dumps(without_search_trees(estimator))
    except Exception as error:  # skops raises errors of many kinds
        kind = type(estimator).__name__
        raise DrexcacheError(f"{kind} cannot be saved without pickle ({error}); evaluate can still use it") from error
    return data


def load_estimator(data: bytes) -> Any:
    """Load the estimator that `dump_estimator` wrote.

    Raises
    ------
    DrexcacheError : other bytes, types that no drexcache model has, arrays of another size than they claim, an
        estimator of another scikit-learn version, or one with values that fitting never gives.
    """
    try:
        data = _with_todays_names(data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive, warnings.catch_warnings():
            warnings.simplefilter("error", InconsistentVersionWarning)  # another scikit-learn wrote it
            estimator = _Builder(archive, len(data)).built()
        check_fitted(estimator)
    except DrexcacheError:
        raise
    except InconsistentVersionWarning as warning:
        raise DrexcacheError(
            f"was written with scikit-learn {str(warning.original_sklearn_version)[:20]}, and this is "
            f"{warning.current_sklearn_version}; install that one, or train the model again"
        ) from warning
    except Exception as error:  # zipfile, JSON and NumPy raise whatever the damage leads to
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DrexcacheError(f"the regressor inside cannot be read here ({reason})") from error
    return estimator


def estimator_arrays(estimator: Any) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """A fitted estimator's arrays and, of a fusion head, what stands beside them; errors as in `dump_estimator`."""
    if hasattr(estimator, "get_state"):
        arrays, state = estimator.get_state()
        if state.get("module") == "":
            raise DrexcacheError(
                "a model file keeps a head of your own by the import path of its class, and this one has none: write "
                "the class into a file, such as heads.py, and import it from there"
            )
        return arrays, state
    return {"skops": np.frombuffer(dump_estimator(estimator), dtype="u1")}, None


def estimator_of(arrays: dict[str, np.ndarray], state: dict[str, Any] | None, *, trust: bool = False) -> Any:
    """The estimator that `estimator_arrays` gave; errors as in `load_estimator`.

    trust : whether to import the module of a head of the user's own, which is refused otherwise.
    """
    if state is not None and "module" in state:
        path = str(state["module"])
        if not trust:
            raise DrexcacheError(
                f"its head is the module {path}, and importing it would run its code; if you trust this file, add "
                "--trust (in Python: load_model(path, trust=True))"
            )
        from drexcache.fusion import TorchHeadRegressor

        return TorchHeadRegressor.from_state(module_at(path), arrays, state)
    if state is not None:
        from drexcache.fusion import AttentionFusionRegressor  # with it comes torch, which other models do not need

        return AttentionFusionRegressor.from_state(arrays, state)
    return load_estimator(arrays["skops"].tobytes())


def numbers_per_row(estimator: Any) -> int:
    """About how many temporary numbers the prediction of one row needs, judging by the largest array."""
    if hasattr(estimator, "get_state"):
        arrays = list(estimator.get_state()[0].values())
        return max(1, sum(_per_row(array) for array in arrays))
    return max((_per_row(array) for array in arrays_of(estimator)), default=1)


def _per_row(array: np.ndarray) -> int:
    return array.size // max(1, min(array.shape[-2:])) if array.ndim > 1 else array.size


def _with_todays_names(data: bytes) -> bytes:
    """The same estimator, with the class path that release 0.1 wrote replaced by today's."""
    if OLD_RIDGE not in data:
        return data
    fresh = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(fresh, "w") as new:
        for member in _stored(old, len(data)):
            new.writestr(member.filename, old.read(member).replace(OLD_RIDGE, b'"__module__": "drexcache"'))
    return fresh.getvalue()


def _stored(archive: zipfile.ZipFile, size: int) -> list[zipfile.ZipInfo]:
    """The members of an archive of ``size`` bytes, none of which is compressed or in the place of another."""
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise DrexcacheError("holds compressed parts, which a drexcache model never has; refused")
    if sum(member.file_size for member in members) > size:
        raise DrexcacheError("holds parts that are larger than itself; refused")
    return members


class _Builder:
    """Builds the object that an archive of ``size`` bytes holds, from types in `KINDS` alone."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive, self._left = archive, REFERENCES * size
        self._members = {member.filename: member for member in _stored(archive, size)}
        self._made: dict[Any, tuple[Any, int]] = {}  # an object's number in the schema -> it, and its size unfolded

    def built(self) -> Any:
        """The object that the schema describes."""
        if self._members["schema.json"].file_size > SCHEMA_BYTES:
            raise DrexcacheError(f"holds a schema of more than {SCHEMA_BYTES} bytes; refused")
        schema = json.loads(self._archive.read("schema.json"))
        if schema["protocol"] != PROTOCOL:
            raise DrexcacheError(f"was written by protocol {schema['protocol']} of skops; expected {PROTOCOL}")
        return self._object(schema)

    def _object(self, node: dict[str, Any]) -> Any:
        number, before = node.get("__id__"), self._left
        if number in self._made:
            made, size = self._made[number]
            self._spend(size)
            return made
        self._spend(NODE_BYTES)
        name = f"{node['__module__']}.{node['__class__']}"
        if name not in KINDS.get(node["__loader__"], ()):
            raise DrexcacheError(f"holds {name}, which a drexcache model never holds; refused")
        made = self._new(node, resolve_name(name))
        if number is not None:
            self._made[number] = made, before - self._left
        return made

    def _spend(self, size: int) -> None:
        """Raise DrexcacheError if references would make a small file a long work."""
        self._left -= size
        if self._left < 0:
            raise DrexcacheError("names the same parts too often; refused")

    def _new(self, node: dict[str, Any], kind: Any) -> Any:
        """What a node describes, of a kind that is known to be harmless."""
        content: Any = node.get("content")
        made = kind
        match node["__loader__"]:
            case "JsonNode":
                made = json.loads(content)
            case "ListNode" | "TupleNode":
                made = kind(map(self._object, content))
            case "DictNode":
                self._object(node["key_types"])  # nothing but strings
                made = kind(**{key: self._object(value) for key, value in content.items()})
            case "SliceNode":
                made = slice(content["start"], content["stop"], content["step"])
            case "NdArrayNode":
                made = self._array(node) if kind is np.ndarray else kind(self._array(node))
            case "TreeNode":
                made = _tree(self._object(node["__reduce__"]["args"]), self._object(content))
            case "ObjectNode":
                made, attributes = kind.__new__(kind), self._object(content)
                if attributes is not None:
                    (made.__setstate__ if hasattr(made, "__setstate__") else made.__dict__.update)(attributes)
            case "LossNode":
                made = kind()
            case "RandomStateNode" | "RandomGeneratorNode":  # no prediction needs the state that it was in
                made = np.random.RandomState(0) if kind is np.random.RandomState else np.random.default_rng(0)
        return made

    def _array(self, node: dict[str, Any]) -> np.ndarray:
        """The array of numbers in a file, if it is as large as it claims and there is room for it."""
        if node["type"] != "numpy":
            raise DrexcacheError("holds an array of objects, which a drexcache model never has; refused")
        member = self._members[node["file"]]
        with self._archive.open(member) as file:
            read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(file)
            claimed, there = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
            if min(shape, default=0) < 0 or dtype.hasobject or claimed != there:
                raise DrexcacheError(f"holds an array {dtype} {shape} in {member.file_size} bytes; refused")
            self._spend(member.file_size)
            file.seek(0)
            return npy.read_array(file, allow_pickle=False)


def _tree(arguments: tuple[Any, ...], state: dict[str, Any]) -> Tree:
    """A tree. Its constructor checks nothing, so it gets only arrays of the right type, for one output."""
    columns, classes, outputs = arguments
    nodes, values = state["nodes"], state["values"]
    fits = (nodes.ndim, nodes.dtype, values.shape, values.dtype) == (1, NODE_DTYPE, (*nodes.shape, 1, 1), np.float64)
    if not fits or outputs != 1 or classes.tolist() != [1]:
        raise DrexcacheError("holds a tree that gives anything but one number; refused")
    tree = Tree(columns, np.ones(1, np.intp), 1)
    tree.__setstate__(state)
    return tree
