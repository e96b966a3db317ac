"""Reads altered model files in a process of its own: ``python mutate_models.py MODEL... --mutations N --seed S``.

Each model is altered N times: bytes anywhere, arrays inside (values, types, shapes, lengths), numbers and words of the
schema or of the metadata, parts that are left out or exchanged. Prints what came of it as JSON: how many were refused
in a sentence, how many still predict finite numbers, and everything else, which must not happen.
"""

from __future__ import annotations

import argparse
import collections
import copy
import io
import json
import resource
import signal
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from drexcache import DrexcacheError, load_model, open_cache

CACHE = Path(__file__).parent / "data" / "release-0.1-cache.h5"
NUMBERS = (0, 1, -1, 2, 7, 255, 2**16, 2**31 - 1, 2**31, -(2**31), 2**40, 2**63, 1e-300, 1e300, 0.5)
WORDS = ("", "rbf", "precomputed", "predict", "fit", "cosine", "tree_", "n_features_in_", "../x", "\x00", "é" * 40)
VALUES = (None, True, False, [], {}, [1, [2]], {"a": 1}, "NaN", *NUMBERS, *WORDS)
TYPES = ("f4", "f8", "i4", "i8", "u1", "?", "f2", "c8", "U3")


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A model file with one to three things altered."""
    kind = rng.integers(6)
    if kind == 0:
        return flipped(data, rng)
    with tempfile.NamedTemporaryFile(suffix=".drex") as file:
        file.write(data)
        file.flush()
        with safetensors.safe_open(file.name, framework="numpy") as opened:
            meta = json.loads(opened.metadata()["drexcache"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    if kind == 1:
        meta = altered(meta, rng)
    elif "skops" in tensors:
        tensors["skops"] = np.frombuffer(changed_archive(tensors["skops"].tobytes(), rng), "u1")
    else:
        name = pick(sorted(tensors), rng)
        changed = changed_array(tensors[name], rng)
        tensors[name] = changed.view("u1") if changed.dtype.kind == "U" else changed
    arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    return safetensors.numpy.save(arrays, {"drexcache": json.dumps(meta)})


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    found = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        found[rng.integers(len(found))] = rng.integers(256)
    return bytes(found[: rng.integers(len(found))] if rng.random() < 0.1 else found)


def changed_archive(data: bytes, rng: np.random.Generator) -> bytes:
    """A skops archive with an array, or a few places of its schema, altered, and checksums that fit."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        before = {name: archive.read(name) for name in archive.namelist()}
    members = dict(before)
    arrays = sorted(set(members) - {"schema.json"})
    for _ in range(rng.integers(1, 4)):
        if arrays and rng.random() < 0.6:
            name = pick(arrays, rng)
            if rng.random() < 0.1:
                members[name] = members[pick(arrays, rng)]
            else:
                array = np.load(io.BytesIO(before[name]))
                members[name] = as_npy(changed_array(array, rng), rng)
        else:
            schema = altered(json.loads(members["schema.json"]), rng)
            members["schema.json"] = json.dumps(schema).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return out.getvalue()


def as_npy(array: np.ndarray, rng: np.random.Generator) -> bytes:
    """In NumPy's format, now and then with another shape than it has."""
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    data = out.getvalue()
    if rng.random() < 0.1:
        shape = str(array.shape).encode()
        return data.replace(shape, pick([b"(9999999999,)", b"(-1,)", b"(1,)", b"()", b"(3, 3)"], rng).ljust(len(shape)))
    return data


def changed_array(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other values, another type or another shape."""
    found = array.copy()
    kind = rng.integers(5)
    if kind <= 1 and found.size:
        values = found[pick(list(found.dtype.names), rng)] if found.dtype.names else found
        choices = [-1, 0, 1, 5, 200, 10**6, 2**31 - 1] + [np.nan, np.inf, 1e38] * (values.dtype.kind == "f")
        values.flat[rng.integers(values.size)] = np.array(pick(choices, rng)).astype(values.dtype)
    elif kind == 2 and not found.dtype.names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = found.astype(pick(TYPES, rng))
    elif kind == 3:
        flat = np.atleast_1d(found)
        found = pick([flat[:0], flat[:-1], found[None], found.reshape(-1), np.concatenate([flat, flat])], rng)
    else:
        found = pick([found.T, found[..., None], np.zeros(3), np.zeros((2, 2)), np.float64(3.0) * np.ones(())], rng)
    return found


def altered(tree: Any, rng: np.random.Generator) -> Any:
    """Nested lists and mappings with one to three places changed, left out, doubled or exchanged."""
    for _ in range(rng.integers(1, 4)):
        places = list(leaves(tree))
        if not places:
            return tree
        inside, key = places[rng.integers(len(places))]
        kind = rng.integers(10)
        if kind == 0:
            del inside[key]
        elif kind == 1:
            other, place = places[rng.integers(len(places))]
            if place in other if isinstance(other, dict) else place < len(other):
                inside[key] = copy.deepcopy(other[place])
        elif kind <= 6 and isinstance(inside, dict) and inside.get("__loader__") == "JsonNode":
            inside["content"] = json.dumps(pick(VALUES, rng))
        else:
            inside[key] = pick(VALUES, rng)
    return tree


def leaves(tree: Any) -> Any:
    """(container, key) of everything inside."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in inner:
            yield node, key
            if isinstance(value, dict | list):
                nodes.append(value)


def pick(choices: Any, rng: np.random.Generator) -> Any:
    return choices[rng.integers(len(choices))]


def outcome(path: Path) -> str:
    """What comes of reading a model file and predicting with it."""
    try:
        signal.alarm(20)
        value = load_model(path).predict(CACHED).value
        return "predicts" if np.isfinite(value).all() else "NaN"
    except DrexcacheError as error:
        return "refused" if "\n" not in str(error).strip() else f"more than a line: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--mutations", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", type=int, default=1024, help="MiB that may be taken beyond what reading needs")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, lambda *_: sys.exit("too slow"))
    for model in arguments.models:
        assert outcome(model) == "predicts", model
    before = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = before + arguments.memory * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.drex"
        for model in arguments.models:
            data = model.read_bytes()
            for number in range(arguments.mutations):
                print(model.name, number, file=sys.stderr, flush=True)  # the last line names what ended the process
                path.write_bytes(mutated(data, np.random.default_rng([arguments.seed, number])))
                found = outcome(path)
                counts[found if found in ("refused", "predicts") else f"{model.name} {number}: {found}"] += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    print(json.dumps({"counts": counts, "grown_mib": round(grown)}))


CACHED = open_cache(CACHE)

if __name__ == "__main__":
    main()
