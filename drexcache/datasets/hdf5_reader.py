"""Reads images out of an HDF5 file, in a process of its own: a stranger's file may crash HDF5's library, or worse.

`drexcache.datasets.hdf5` runs this as a script that has the file open. Before it looks at the file, it gives up what
reading does not need: from then on it can open, write and start nothing, and its memory and time are limited. A line of
JSON on standard input asks for something; an answer is a status byte (0: what follows is a reason), a length and bytes.
"""

from __future__ import annotations

import codecs
import itertools
import json
import math
import resource
import signal
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

if __name__ == "__main__":
    sys.path[:] = sys.argv[3:]  # where the calling process finds its packages

import h5py
import numpy as np

ANSWER = struct.Struct(">BQ")
PICTURES = (  # names of datasets of images
    "images", "image", "imgs", "img", "pictures", "picture", "photos", "x", "data", "jpg", "png", "bytes",
)  # fmt: skip
NAMES = (  # names of datasets of the images' names, also with an "s"
    "file", "filename", "file_name", "image_name", "image_file", "image_path", "img_name", "path", "file_path", "name",
    "key", "image_id", "img_id", "id",
)  # fmt: skip
STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cJXL ", b"\xff\x0a")
BUILT_IN = {1, 2, 3, 4, 5, 6, 32000}  # filters: gzip, shuffle, checksum, szip, n-bit, scale-offset, and h5py's LZF
LOOKED_AT = 10  # rows, in which one has to be an image file
OF_WHOLE = 10  # times the seconds of an image for a list of all
CHUNKS = 1 << 28  # bytes of unpacked parts of a dataset that are kept


class Refused(Exception):  # noqa: N818
    """The file cannot be read, with the reason as a sentence."""


def main() -> None:
    """Answer requests until there are no more."""
    limits = json.loads(sys.argv[2])
    give_up_rights(limits["memory"])
    reader = Reader(int(sys.argv[1]), limits)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        signal.alarm(limits["seconds"] * (1 if "image" in request else OF_WHOLE))  # ends the process wherever it is
        try:
            status, answer = 1, reader.answer(request)
        except MemoryError:
            status, answer = 0, f"takes more than {limits['memory'] >> 20} MiB of memory".encode()
        except Exception as error:  # h5py raises errors of many kinds
            reason = str(error) if isinstance(error, Refused) else f"not a readable HDF5 file ({error})"
            status, answer = 0, " ".join(reason.split())[:500].encode(errors="replace")
        signal.alarm(0)
        sys.stdout.buffer.write(ANSWER.pack(status, len(answer)))
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()


def give_up_rights(memory: int) -> None:
    """Open no further file, pipe or socket, write to no file, start no process, and take no more memory than that."""
    for text in ("ascii", "latin-1", "utf-8"):
        codecs.lookup(text)  # Python opens their files when they are first used
    for what in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC):
        resource.setrlimit(what, (0, 0))
    with suppress(ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


class Reader:
    """The datasets of an open file."""

    def __init__(self, descriptor: int, limits: dict[str, int]) -> None:
        self.descriptor, self.limits = descriptor, limits
        self.file: Any = None
        self.kinds: dict[str, str] = {}

    def answer(self, request: dict[str, Any]) -> bytes:
        """What a request asks for: a list of the images, what is said of them, or an image."""
        if self.file is None:
            self.file = h5py.File(open(self.descriptor, "rb"), "r", rdcc_nbytes=CHUNKS)  # noqa: SIM115, PTH123
        if "image" in request:
            return self.image(request["image"], request["row"])
        found = self.columns(request["columns"]) if "columns" in request else self.images(tuple(request["extensions"]))
        data = json.dumps(found, allow_nan=False).encode()
        if len(data) > self.limits["table"]:
            raise Refused(f"names and columns of more than {self.limits['table'] >> 20} MiB")
        return data

    def images(self, extensions: tuple[str, ...]) -> dict[str, Any]:
        """Where the images are, and their names; of those whose name has no such extension, their first bytes."""
        if "format" in self.file.attrs and str(self.file.attrs["format"]) == "drexcache":
            raise Refused("a cache of features, which holds no images; give the folder that it was computed from")
        datasets = dict(self.walk())
        self.kinds = {path: kind for path, one in datasets.items() if (kind := self.kind(path, one))}
        many = [path for path, kind in self.kinds.items() if kind in ("pixels", "files")]
        if many:
            path = chosen(many)
            names = self.names(path, datasets)
            paths, rows = [path], list(range(len(names)))
        else:
            paths = sorted(self.kinds)
            top = folder_of_all(paths)
            names, rows = [path[top:] for path in paths], [-1] * len(paths)
        if not paths:
            raise Refused(
                "no images; expected 8-bit pixels (n, h, w, 3), (n, h, w) or (n, 3, h, w), or files as bytes; "
                f"found: {', '.join(map(described, sorted(datasets.items())[:8])) or 'no datasets'}"
            )
        where = paths * len(names) if many else paths
        starts = [
            "" if name.lower().endswith(extensions) else self.image(path, row, 2).decode("latin-1")
            for name, path, row in zip(names, where, rows, strict=True)
        ]
        left_out = [path for path in self.kinds if path not in paths]
        return {"many": bool(many), "paths": paths, "names": names, "starts": starts, "left_out": left_out}

    def walk(self) -> Iterator[tuple[str, h5py.Dataset]]:
        """Each dataset with its path. Links by name alone are not followed: what they lead to is met anyway."""
        seen, groups = set(), [("", self.file)]
        while groups:
            above, group = groups.pop()
            address = h5py.h5o.get_info(group.id).addr
            if address in seen:
                continue
            seen.add(address)
            for name in group:
                link = group.get(name, getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    raise Refused(f"{above}{name} is a link to another file ({link.filename}), which is not read")
                one = group[name] if isinstance(link, h5py.HardLink) else None
                if isinstance(one, h5py.Group):
                    groups.append((f"{above}{name}/", one))
                elif isinstance(one, h5py.Dataset):
                    yield f"{above}{name}", one

    def kind(self, path: str, one: h5py.Dataset) -> str:
        """What a dataset holds: "pixels" or "files" of many images, a "picture" or a "file" of one, or ""."""
        try:
            base, shape = one.dtype, one.shape
        except TypeError:  # a type that numpy has not
            return ""
        if shape is None or 0 in shape:
            return ""
        if base == np.uint8:
            self.check(path, one)
            return kind_of_bytes(one)
        if len(shape) > 1 or not (h5py.check_vlen_dtype(base) == np.uint8 or (base.kind in "SV" and not base.names)):
            return ""
        self.check(path, one)
        if not shape:
            return "file" if is_file(as_bytes(one[()])) else ""
        return "files" if any(is_file(as_bytes(one[row])) for row in range(min(LOOKED_AT, shape[0]))) else ""

    def check(self, path: str, one: h5py.Dataset) -> None:
        """Raise Refused if the dataset is in other files, needs a plugin, or is larger than its file can be."""
        about = one.id.get_create_plist()
        if about.get_layout() == h5py.h5d.VIRTUAL or about.get_external_count():
            raise Refused(f"{path} is kept in other files, which are not read")
        filters = [about.get_filter(at) for at in range(about.get_nfilters())]
        if plugins := [
            f"{name.decode(errors='replace')} {code}" for code, _, _, name in filters if code not in BUILT_IN
        ]:
            raise Refused(f"{path} is compressed by a plugin ({plugins[0].strip()}); save it again with gzip")
        size, part = one.size * one.dtype.itemsize, math.prod(one.chunks or ()) * one.dtype.itemsize
        if size > self.limits["most"] or one.size // max(1, math.prod(one.shape[1:])) > self.limits["rows"]:
            raise Refused(f"{path} holds {size:,} bytes, more than a file of this size may")
        if part > self.limits["image"]:
            raise Refused(f"{path} is packed in parts of {part:,} bytes, more than {self.limits['image']:,}")

    def names(self, path: str, datasets: dict[str, h5py.Dataset]) -> list[str]:
        """The images' names, "" where there are none."""
        beside = self.beside(path, datasets)
        for known in NAMES:
            for name, one in beside.items():
                if plain(name) in (known, f"{known}s") and one.dtype.kind in "OSiu":
                    return ["" if value is None else str(value) for value in self.values(name, one)]
        return [""] * len(datasets[path])

    def columns(self, path: str) -> dict[str, list[Any]]:
        """Name -> values of what is beside a dataset of images, with a number or a text for each."""
        beside = self.beside(path, dict(self.walk()))
        return {name: self.values(name, one) for name, one in beside.items() if name_of_none(name)}

    def beside(self, path: str, datasets: dict[str, h5py.Dataset]) -> dict[str, h5py.Dataset]:
        """Name -> dataset of a number or a text for each image, in the same group."""
        above, length, found = path.rpartition("/")[0], datasets[path].shape[0], {}
        for other, one in datasets.items():
            with suppress(TypeError):  # a type that numpy has not
                is_column = one.dtype.kind in "biufS" or h5py.check_string_dtype(one.dtype)
                if other != path and other.rpartition("/")[0] == above and one.shape == (length,) and is_column:
                    found[other.rpartition("/")[2]] = one
        return found

    def values(self, name: str, one: h5py.Dataset) -> list[Any]:
        """A column's numbers or texts, None for no number."""
        self.check(name, one)
        if one.size * one.dtype.itemsize > self.limits["table"]:
            raise Refused(f"{name} takes more than {self.limits['table'] >> 20} MiB")
        values = one[()].tolist()
        texts = [value.decode(errors="replace") if isinstance(value, bytes) else value for value in values]
        return [plain_number(value) if isinstance(value, float) else value for value in texts]

    def image(self, path: str, row: int, most: int | None = None) -> bytes:
        """A row's image, or that of a whole dataset (row -1), as a file; or its first bytes, none of one of pixels."""
        one = self.file[path]
        if path not in self.kinds:
            self.kinds[path] = self.kind(path, one)
        kind, size = self.kinds[path], math.prod(one.shape[1:] if row >= 0 else one.shape) * one.dtype.itemsize
        if kind in ("pixels", "picture") and most:
            return b""
        if size > self.limits["image"]:
            raise Refused(f"{path} has images of {size:,} bytes, more than {self.limits['image']:,}")
        value = one[row] if row >= 0 else one[()]
        if kind in ("pixels", "picture"):
            return png(channels_last(value))
        data = as_bytes(value)
        if len(data) > self.limits["image"]:
            raise Refused(f"{len(data):,} bytes, more than {self.limits['image']:,}")
        return data[:most]


def chosen(paths: Sequence[str]) -> str:
    """The only dataset of many images, or the only one with the first known name that occurs."""
    for known in PICTURES:
        named = [path for path in paths if plain(path.rpartition("/")[2]) == known]
        if len(paths) == 1 or len(named) == 1:
            return paths[0] if len(paths) == 1 else named[0]
        if named:
            break
    raise Refused(f"several datasets could be the images ({', '.join(paths[:8])}); save the one you mean as images")


def kind_of_bytes(one: h5py.Dataset) -> str:
    """`Reader.kind` of a dataset of bytes, by its axes: (n, h, w, 3), (n, h, w), (h, w, 3), (n, length), (length,)."""
    shape = one.shape
    if not shape:
        return ""
    if len(shape) == 4:
        return "pixels" if shape[3] in (1, 3, 4) or shape[1] in (1, 3) else ""
    if len(shape) == 3:
        return "picture" if shape[2] in (3, 4) else "pixels"
    if len(shape) == 2:
        return "files" if is_file(one[0].tobytes()) else "picture"
    return "file" if len(shape) == 1 and is_file(one[:16].tobytes()) else ""


def is_file(start: bytes) -> bool:
    """Whether an image file starts so."""
    return start.startswith(STARTS) or start[4:8] == b"ftyp"


def as_bytes(value: Any) -> bytes:
    """A cell's bytes; of a JPEG or PNG in a cell of fixed length without the zeros after its end."""
    data = value if isinstance(value, bytes) else np.asarray(value).tobytes()
    return data.rstrip(b"\0") if data.startswith((b"\xff\xd8\xff", b"\x89PNG")) else data


def channels_last(pixels: np.ndarray) -> np.ndarray:
    """(h, w), (h, w, c) or (c, h, w) -> (h, w, c)."""
    if pixels.ndim == 2:
        return pixels[..., None]
    return pixels if pixels.shape[2] in (1, 3, 4) else np.moveaxis(pixels, 0, 2)


def png(pixels: np.ndarray) -> bytes:
    """A PNG of (h, w, c) pixels that is not compressed, so that its bytes are the same with any version of zlib."""
    height, width, channels = pixels.shape
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with its filter, 0 for none
    lines[:, 1:] = pixels.reshape(height, -1)
    data = lines.reshape(-1).data
    stream: list[bytes | memoryview] = [b"\x78\x01"]
    for at in range(0, len(data), 65535):
        block = data[at : at + 65535]
        stream += [struct.pack("<BHH", at + 65535 >= len(data), len(block), len(block) ^ 65535), block]
    stream.append(struct.pack(">I", zlib.adler32(data)))
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = chunk(b"IHDR", [header]), chunk(b"IDAT", stream), chunk(b"IEND", [])
    return b"".join([b"\x89PNG\r\n\x1a\n", *itertools.chain(*chunks)])


def chunk(kind: bytes, parts: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """A chunk of a PNG: its length, its kind, its parts and their checksum."""
    checksum = zlib.crc32(kind)
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return [struct.pack(">I", sum(map(len, parts))), kind, *parts, struct.pack(">I", checksum)]


def plain(name: str) -> str:
    """A dataset's name in lower case, with "_" for spaces and hyphens."""
    return name.casefold().replace(" ", "_").replace("-", "_")


def name_of_none(name: str) -> bool:
    """Whether a column of that name holds no names of images."""
    return plain(name) not in NAMES and plain(name).removesuffix("s") not in NAMES


def plain_number(value: float) -> float | str | None:
    """The number, None for NaN, and a text for what JSON has no number for."""
    return value if math.isfinite(value) else None if math.isnan(value) else str(value)


def folder_of_all(paths: Sequence[str]) -> int:
    """The length of the groups' path that all have in common."""
    first, last = min(paths, default=""), max(paths, default="")
    same = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first.rfind("/", 0, same) + 1


def described(named: tuple[str, h5py.Dataset]) -> str:
    """A dataset's path, shape and type."""
    with suppress(TypeError):
        return f"{named[0]} {named[1].shape} {named[1].dtype}"
    return named[0]


if __name__ == "__main__":
    main()
