"""Saving an estimator as bytes without pickle, and loading it without executing anything or reading out of bounds.

The format is skops's: a zip of schema.json and NumPy arrays. Before skops builds anything, the schema is checked: it
may name only types that our own regressors consist of, and every array must be as large as it claims.
"""

from __future__ import annotations

import io
import json
import math
import warnings
import zipfile
from typing import Any

import numpy as np
from numpy.lib import format as npy
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.tree._tree import NODE_DTYPE

from drexcache.errors import DrexcacheError
from drexcache.regressors.fitted import PARTS, SHAPES, arrays_of, check_fitted, unlisted, without_search_trees
from drexcache.regressors.import_path import module_at

OLD_RIDGE = b'"__module__": "drexcache.ridge"'
PROTOCOL = 2  # of skops; earlier ones build objects differently
SCHEMA_BYTES = 2**24  # enough for some 2,000 trees
REFERENCES = 4  # all arrays together may take so many times the file's size: a stack refers to its members twice

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
    import skops.io  # half a second, and two where torch is loaded before: fusion models do without

    try:
        data = _with_todays_names(data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_archive(archive, len(data))
        with warnings.catch_warnings():
            warnings.simplefilter("error", InconsistentVersionWarning)  # another scikit-learn wrote it
            estimator = skops.io.loads(data, trusted=sorted({name for names in KINDS.values() for name in names}))
        check_fitted(estimator)
    except DrexcacheError:
        raise
    except InconsistentVersionWarning as warning:
        raise DrexcacheError(
            f"was written with scikit-learn {str(warning.original_sklearn_version)[:20]}, and this is "
            f"{warning.current_sklearn_version}; install that one, or train the model again"
        ) from warning
    except Exception as error:  # zipfile, JSON, NumPy and skops raise whatever the damage leads to
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
        for member in old.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise DrexcacheError("holds compressed parts, which a drexcache model never has; refused")
            new.writestr(member.filename, old.read(member).replace(OLD_RIDGE, b'"__module__": "drexcache"'))
    return fresh.getvalue()


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Check that nothing is compressed, and that the schema names only types in `KINDS` and existing arrays."""
    members = {member.filename: member for member in archive.infolist()}
    if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
        raise DrexcacheError("holds compressed parts, which a drexcache model never has; refused")
    if members["schema.json"].file_size > SCHEMA_BYTES:
        raise DrexcacheError(f"holds a schema of more than {SCHEMA_BYTES} bytes; refused")
    schema = json.loads(archive.read("schema.json"))
    if schema["protocol"] != PROTOCOL:
        raise DrexcacheError(f"was written by protocol {schema['protocol']} of skops; expected {PROTOCOL}")
    left = REFERENCES * size
    nodes = [schema]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict) and "__loader__" in node:
            left -= _check_node(node, archive, members)
            if left < 0:
                raise DrexcacheError("names the same arrays too often; refused")
        if isinstance(node, dict | list):
            nodes += node.values() if isinstance(node, dict) else node


def _check_node(node: dict[str, Any], archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> int:
    """Check one node of the schema; returns the size of its array in bytes."""
    name, kind = f"{node['__module__']}.{node['__class__']}", node["__loader__"]
    if name not in KINDS.get(kind, ()):
        raise DrexcacheError(f"holds {name}, which a drexcache model never holds; refused")
    if kind == "NdArrayNode":
        if node["type"] != "numpy":
            raise DrexcacheError("holds an array of objects, which a drexcache model never has; refused")
        return _check_array(archive, members[node["file"]])
    arguments = node.get("__reduce__", {}).get("args", {}).get("content", [])
    if kind == "LossNode" and arguments:
        raise DrexcacheError("holds a loss with arguments, which a drexcache model never has; refused")
    if kind == "TreeNode":
        _check_tree(node["content"]["content"], arguments, archive)
    return 0


def _check_tree(content: dict[str, Any], arguments: list[dict[str, Any]], archive: zipfile.ZipFile) -> None:
    """Check that a tree's constructor, which checks nothing, gets arrays of the right type and one output."""
    _, classes, outputs = arguments
    with archive.open(classes["file"]) as file:
        one = json.loads(outputs["content"]) == 1 and npy.read_array(file).tolist() == [1]
    shape, dtype, _ = _header(archive, content["nodes"]["file"])
    *values, _ = _header(archive, content["values"]["file"])
    if not one or len(shape) != 1 or dtype != NODE_DTYPE or values != [(*shape, 1, 1), np.float64]:
        raise DrexcacheError("holds a tree that gives anything but one number; refused")


def _check_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Check that an array of numbers is as large as it claims; returns its size in bytes."""
    shape, dtype, start = _header(archive, member.filename)
    left = member.file_size - start
    if min(shape, default=0) < 0 or dtype.hasobject or math.prod(shape) * dtype.itemsize != left:
        raise DrexcacheError(f"holds an array {dtype} {shape} in {member.file_size} bytes; refused")
    return member.file_size


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """The shape and type in an array's header, and the offset at which its numbers begin."""
    with archive.open(name) as file:
        read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
        return shape, dtype, file.tell()
