"""Where a search keeps its trials: a journal file, a database, or Optuna's gRPC proxy in front of one."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from drexcache.errors import DrexcacheError
from drexcache.files import lock

JOURNAL = "trials.journal"
STORAGE_ERRORS = (SQLAlchemyError, StorageInternalError)  # a server that is gone or refuses
CONNECT = 10  # seconds for a server to answer the first time
CALL = 30.0  # seconds for a proxy to answer a call
OPEN_ATTEMPTS = 10  # to create the tables while other processes try the same
NO_RIGHTS = "42501"  # PostgreSQL's code for "permission denied"
EXPECTED = ("NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "INVALID_ARGUMENT")  # what Optuna's client handles


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Open the storage at a URL (a database, or ``grpc://HOST:PORT``); by default a journal file in the folder.

    Raises
    ------
    DrexcacheError : the storage cannot be reached, or Optuna does not know its kind.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    place = url or folder / JOURNAL
    try:
        with usable(place):
            if url is None:
                return _open_journal(folder / JOURNAL)
            return _open_proxy(url) if url.startswith("grpc://") else _open_database(url)
    except (ImportError, ValueError, OSError, KeyError, RuntimeError) as error:
        raise _unusable(place, error) from error


@contextmanager
def usable(place: str | Path) -> Iterator[None]:
    """A context that turns the errors of a storage that is gone or refuses access into one sentence."""
    try:
        yield
    except STORAGE_ERRORS as error:
        raise _unusable(place, error) from error


def without_password(url: str) -> str:
    """The URL without the password of ``postgresql://user:secret@host/db`` or ``...?password=secret``, for display."""
    scheme, found, rest = re.sub(r"([?&]\w*password)=[^&]*", r"\1", url).partition("://")
    if not found or "@" not in rest:
        return scheme + found + rest
    user, _, place = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}@{place}"


def _open_journal(path: Path) -> JournalStorage:
    """Open the trials in a journal file, which Optuna replays line by line without checking it."""
    journal = _Journal(path)
    lines = path.read_bytes().count(b"\n")
    try:
        storage = JournalStorage(journal)
        if journal.line < lines:  # Optuna skips a last line that is not JSON until another line follows it
            raise ValueError
        return storage
    except StorageInternalError:
        raise
    except Exception as error:
        raise DrexcacheError(
            f"{path}: damaged, or not what a search writes, after line {journal.line} ({type(error).__name__}); "
            "take it from a copy, or search in another folder"
        ) from error


class _Journal(JournalFileBackend):
    """Optuna's journal, synced once per finished trial rather than once per line (some 20 per trial).

    It uses the kernel's file lock, which a killed process releases at once; Optuna's own makes others wait 30 s.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path, self.line = path, 0

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Yield the records after the first ``log_number_from``."""
        with _disk_errors():
            for self.line, log in enumerate(super().read_logs(log_number_from), log_number_from + 1):
                yield log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append one line per record; a record that finishes a trial is on the disk when this returns."""
        data = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with _disk_errors(), self.path.open("r+b", buffering=0) as file:
            if not lock(file.fileno()):  # a file system without locks: Optuna falls back to a symbolic link
                super().append_logs(logs)
                return
            _drop_half_line(file)
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if any("values" in log for log in logs):
                os.fsync(file.fileno())


@contextmanager
def _disk_errors() -> Iterator[None]:
    """A context that reports a disk that is full, read-only or gone as an error of the storage."""
    try:
        yield
    except OSError as error:
        raise StorageInternalError(error.strerror or str(error)) from error


def _drop_half_line(file: BinaryIO) -> None:
    """Cut off an incomplete last line, as a full disk leaves it, so that lines appended after it stay readable."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if file.read(1) not in (b"", b"\n"):
        file.seek(0)
        file.truncate(file.seek(file.read().rfind(b"\n") + 1))


def _open_database(url: str) -> RDBStorage:
    """Open the storage in a database; PostgreSQL goes through psycopg and must answer within `CONNECT` seconds."""
    place = make_url(url)
    if place.drivername == "postgresql":
        place = place.set(drivername="postgresql+psycopg")
    if place.drivername == "postgresql+psycopg":
        place = place.update_query_dict({"connect_timeout": str(CONNECT), **place.query})
    for attempt in range(OPEN_ATTEMPTS):
        try:
            return RDBStorage(place.render_as_string(hide_password=False))
        except (IntegrityError, ProgrammingError) as error:
            if attempt == OPEN_ATTEMPTS - 1 or getattr(error.orig, "sqlstate", None) == NO_RIGHTS:
                raise
            time.sleep(random.uniform(0, 0.5))  # another process is creating the tables
        except ImportError as error:
            needs = "pip install 'drexcache[postgres]'" if "psycopg" in place.drivername else "install its driver"
            raise ImportError(f"the Python package for {place.drivername} is missing: {needs}") from error
    raise AssertionError("unreachable")


def _open_proxy(url: str) -> GrpcStorageProxy:
    """Open the storage behind grpc://HOST:PORT, served by `optuna.storages.run_grpc_proxy_server`."""
    place = urlsplit(url)
    if not place.hostname or not place.port:
        raise ValueError("a proxy is given as grpc://HOST:PORT")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            proxy = _Proxy(host=place.hostname, port=place.port)
        proxy.wait_server_ready(timeout=CONNECT)
    except ImportError as error:
        raise ImportError("the Python package grpcio is missing: pip install 'drexcache[grpc]'") from error
    except ConnectionError as error:
        raise ConnectionError(f"no proxy has answered within {CONNECT} seconds") from error
    return proxy


class _Proxy(GrpcStorageProxy):
    """Optuna's client with a deadline, raising Optuna's errors; the original waits forever and raises gRPC's."""

    def _setup(self) -> None:
        super()._setup()
        for name, procedure in vars(self._stub).items():
            setattr(self._stub, name, _limited(procedure))


def _limited(procedure: Callable[..., Any]) -> Callable[[Any], Any]:
    """The proxy's procedure with a deadline."""
    from grpc import RpcError

    def call(request: Any) -> Any:
        try:
            return procedure(request, timeout=CALL)
        except RpcError as error:
            if error.code().name in EXPECTED:
                raise
            raise StorageInternalError(f"the proxy: {error.details()}") from error

    return call


def _unusable(place: str | Path, error: BaseException) -> DrexcacheError:
    """An error that says in one line what the storage complains about, and what to do about missing rights."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None and hasattr(error.__cause__, "orig"):
        error = error.__cause__
    said = getattr(error, "orig", None) or error  # SQLAlchemy adds the statement and a link
    text = next((line.strip() for line in str(said).splitlines() if line.strip()), type(said).__name__)
    if getattr(said, "sqlstate", None) == NO_RIGHTS:
        text += "; give the role a database of its own (CREATE DATABASE ... OWNER ...), or the rights on this one"
    return DrexcacheError(f"{without_password(str(place))}: the storage of trials cannot be used: {text}")
