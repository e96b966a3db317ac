"""Images in an HDF5 file, which another process reads (hdf5_reader.py), so that no file can crash or stop this one."""

from __future__ import annotations

import atexit
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from drexcache.datasets.columns import RATING_COLUMNS, SPLIT_COLUMNS, Columns, plain_name
from drexcache.datasets.files import IMAGE_EXTENSIONS, MAX_BYTES, ImageFile
from drexcache.datasets.formats import MAX_UNPACKED, check_cells
from drexcache.datasets.packed import Packed, name_of, state_of
from drexcache.datasets.parquet import most_bytes
from drexcache.errors import DrexcacheError, counted, several
from drexcache.files import utf8_name

if TYPE_CHECKING:
    from pandas import DataFrame

MEMORY = 4 << 30  # bytes that the reading process may take
SECONDS = 60  # that it may take for an image; ten times as many for a list of all
MAX_ROWS = 100_000  # that any file may have; a larger one as many as it has bytes
_ANSWER = struct.Struct(">BQ")  # what hdf5_reader.py writes before an answer
_SCRIPT = Path(__file__).with_name("hdf5_reader.py")
_NO_PLUGINS = {"HDF5_PLUGIN_PRELOAD": "::"}  # of HDF5: filters are loaded from no file
_lock = threading.Lock()
_running: dict[tuple[object, ...], _Process] = {}  # at most one
Decoded = TypeVar("Decoded")


@dataclass(frozen=True, slots=True)
class ImageInHdf5(Packed):
    """An image in an HDF5 file. member : its id. listed : its row, -1 for a dataset of one image; and its number."""

    dataset: str = ""

    def read(self) -> bytes:
        """The image as a file's bytes, a PNG if it is stored as pixels; OSError as in `ImageFile.read`."""
        request = {"image": self.dataset, "row": self.listed[0]}
        data = _ask(Path(self.location), self.state, request, 2 * MAX_BYTES)
        self.check()
        if not data:
            raise OSError("the file has no image in this row")
        return data


class _Listing(msgspec.Struct):
    many: bool
    paths: list[str]
    names: list[str]
    starts: list[str]
    left_out: list[str]


def is_hdf5(root: object) -> bool:
    """Whether this is an HDF5 file.

    Raises
    ------
    DrexcacheError : a MATLAB file, which may be one, too.
    """
    start = b""
    with suppress(OSError):  # listing its files says why it cannot be read
        if isinstance(root, Path) and root.is_file():
            with root.open("rb") as file:
                start = file.read(8)
    if start.startswith(b"MATLAB"):
        raise DrexcacheError(f"{root}: a MATLAB file; write its images to a folder first, with imwrite")
    return start == b"\x89HDF\r\n\x1a\n"


def hdf5_files(root: Path) -> tuple[dict[str, ImageFile], list[str]]:
    """The images of an HDF5 file: name -> file, sorted by the bytes of the names; and what was guessed.

    A row's name is its id, or its number; a dataset that is one image is named by its path.

    Raises
    ------
    DrexcacheError : not readable, no images, or a name twice.
    """
    state = state_of(root)
    found = _told(root, state, {"extensions": IMAGE_EXTENSIONS}, _Listing)
    files: dict[str, ImageFile] = {}
    twice = []
    places = found.paths * len(found.names) if found.many else found.paths
    for number, (name, start, path) in enumerate(zip(found.names, found.starts, places, strict=True)):
        named = name_of(name, start.encode("latin-1"), number)
        twice += [named] if named in files else []
        listed = (number if found.many else -1, number)
        files[utf8_name(named, root)] = ImageInHdf5(str(root), named, listed, state, str(root), path)
    if twice:
        raise DrexcacheError(f"{root}: images under one name: {counted(twice)}")
    taken = f"dataset {found.paths[0]}" if len(found.paths) == 1 else f"{len(found.paths)} datasets"
    left_out = f", not from {counted(found.left_out)}" if found.left_out else ""
    return dict(sorted(files.items())), [f"{root}: images from {taken}{left_out}"]


def hdf5_table(images: Mapping[str, ImageFile], columns: Columns) -> DataFrame | None:
    """What an HDF5 file says of its images in datasets beside theirs, under the names that they have here; else None.

    Common names are taken in the plural, too, unless ``columns`` has them.

    Raises
    ------
    DrexcacheError : not readable, or more cells than a table may have.
    """
    from pandas import DataFrame

    rows = {file.listed[0]: name for name, file in images.items()}
    first = next(iter(images.values()))
    if not isinstance(first, ImageInHdf5) or first.listed[0] < 0:
        return None
    root = Path(first.location)
    found = _told(root, first.state, {"columns": first.dataset}, dict[str, list[float | str | None]])
    check_cells(len(found) * len(rows), str(root))
    if any(len(values) != len(rows) for values in found.values()):
        raise DrexcacheError(f"{root}: columns that are not as long as the images are many")
    known, given = (*RATING_COLUMNS, *SPLIT_COLUMNS), vars(columns).values()
    singular = {name: name.removesuffix("s") for name in found if name not in given and plain_name(name[:-1]) in known}
    frame = DataFrame({singular.get(name, name): values for name, values in found.items()})
    frame.insert(0, "image", [rows[row] for row in range(len(rows))], allow_duplicates=True)
    return frame


def _told(root: Path, state: int, request: dict[str, Any], kind: type[Decoded]) -> Decoded:
    """The answer to a request about the whole file, whose kind is checked."""
    try:
        answer = _ask(root, state, request, MAX_UNPACKED)
        if state_of(root) != state:
            raise OSError("the file changed while it was read; run the command again")
        return msgspec.json.decode(answer, type=kind)
    except OSError as error:
        raise DrexcacheError(f"{root}: {error}") from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise DrexcacheError(f"{root}: names in it are no text ({error})") from error


def _ask(path: Path, state: int, request: dict[str, Any], most: int) -> bytes:
    """The answer of the process that reads this file, which is started if need be. Safe to call from several threads.

    Raises OSError with what the process says is wrong, or with what has become of it.
    """
    with _lock:
        key = (os.getpid(), path, state)
        process = _running.pop(key, None)
        if process is None:
            _stop()
            process = _Process(path)
        try:
            status, answer = process.ask(request, most)
        except BaseException as error:  # after Ctrl-C, the next answer would be this request's
            process.stop(seconds=0)
            if isinstance(error, EOFError):
                raise OSError(str(error)) from error
            raise
        if status or "image" in request:
            _running[key] = process
        else:  # it may lack memory
            process.stop()
    if not status:
        raise OSError(answer.decode(errors="replace"))
    return answer


def _stop() -> None:
    """End the process, if it is this one's and not that of a process that this one was forked from."""
    for (pid, *_), process in _running.items():
        if pid == os.getpid():
            process.stop()
    _running.clear()


atexit.register(_stop)
if hasattr(os, "register_at_fork"):  # a process is forked between two answers, so that its lock is free and pipes empty
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class _Process:
    """A process that reads an HDF5 file and has few rights."""

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size
        limits = {
            "memory": MEMORY, "seconds": SECONDS, "most": most_bytes(path), "rows": max(MAX_ROWS, size),
            "image": MAX_BYTES, "table": MAX_UNPACKED,
        }  # fmt: skip
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        with path.open("rb") as file:
            descriptor = file.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-I", str(_SCRIPT), str(descriptor), json.dumps(limits), *filter(None, sys.path)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=[descriptor],
                start_new_session=True,  # Ctrl-C is for this process alone, which then ends the other
                env={**kept, **_NO_PLUGINS, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.pipes = self.process.stdin, self.process.stdout

    def ask(self, request: dict[str, Any], most: int) -> tuple[int, bytes]:
        """1 and the answer, or 0 and what is wrong. Raises EOFError if the process has ended, or answers too much."""
        stdin, stdout = self.pipes
        with suppress(BrokenPipeError):
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
        head = stdout.read(_ANSWER.size)
        status, length = _ANSWER.unpack(head) if len(head) == _ANSWER.size else (0, 0)
        answer = stdout.read(length) if length <= most else b""
        if len(head) < _ANSWER.size or len(answer) < length:
            raise EOFError(self.ending())
        return status, answer

    def ending(self) -> str:
        """What became of the process."""
        self.stop()
        code = self.process.returncode
        if code == -signal.SIGALRM:
            return f"HDF5's library does not come to an end with it in {several(SECONDS, 'second')} an image"
        if code >= 0:
            return f"the process that reads HDF5 ended with status {code}; is there memory for it, and is h5py sound?"
        return f"the file is damaged, or made to do harm: it ended HDF5's library ({signal.strsignal(-code)})"

    def stop(self, seconds: float = 5) -> None:
        """End it, if need be by force after so many seconds."""
        for pipe in self.pipes:
            with suppress(OSError):
                pipe.close()
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
