"""Storages of trials on a server: a database, or Optuna's gRPC proxy in front of one; none is waited for for ever."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import GrpcStorageProxy, RDBStorage
from sqlalchemy import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError

CONNECT = 10  # seconds in which a server has to answer at first
CALL = 30.0  # seconds in which a proxy has to answer a call
ATTEMPTS = 10  # to make the tables beside other processes that do so at the same moment
NO_RIGHTS = "42501"  # PostgreSQL's code of "permission denied"


def open_database(url: str) -> RDBStorage:
    """The storage in a database; PostgreSQL is spoken to by psycopg, and has to answer within `CONNECT` seconds."""
    place = make_url(url)
    if place.drivername == "postgresql":
        place = place.set(drivername="postgresql+psycopg")
    if place.drivername == "postgresql+psycopg":
        place = place.update_query_dict({"connect_timeout": str(CONNECT), **place.query})
    for attempt in range(ATTEMPTS):
        try:
            return RDBStorage(place.render_as_string(hide_password=False))
        except (IntegrityError, ProgrammingError) as error:
            if attempt == ATTEMPTS - 1 or getattr(error.orig, "sqlstate", None) == NO_RIGHTS:
                raise
            time.sleep(random.uniform(0, 0.5))  # others are making the tables; then they are there
        except ImportError as error:
            needs = "pip install 'drexcache[postgres]'" if "psycopg" in place.drivername else "install its driver"
            raise ImportError(f"the Python package for {place.drivername} is missing: {needs}") from error
    raise AssertionError("unreachable")


def open_proxy(url: str) -> GrpcStorageProxy:
    """The storage behind a proxy, grpc://HOST:PORT, that `optuna.storages.run_grpc_proxy_server` serves."""
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
    """Optuna's own client waits for ever and raises gRPC's errors; this one has a deadline and raises Optuna's."""

    def _setup(self) -> None:
        from grpc import RpcError

        super()._setup()
        stub: Any = _Deadline(self._stub, RpcError)
        self._stub = self._cache.grpc_client = stub


class _Deadline:
    """The proxy's procedures, each with a deadline."""

    EXPECTED = ("NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "INVALID_ARGUMENT")  # by Optuna's client

    def __init__(self, stub: Any, error: type[Any]) -> None:
        self._stub, self._error = stub, error

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        def call(request: Any) -> Any:
            try:
                return getattr(self._stub, name)(request, timeout=CALL)
            except self._error as error:
                if error.code().name in self.EXPECTED:
                    raise
                raise StorageInternalError(f"the proxy: {error.details()}") from error

        return call


def reason(error: BaseException) -> str:
    """What a database or a proxy says is wrong, in one line, and what to do about missing rights."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None and hasattr(error.__cause__, "orig"):
        error = error.__cause__
    said = getattr(error, "orig", None) or error  # SQLAlchemy adds the statement and a link
    text = next((line.strip() for line in str(said).splitlines() if line.strip()), type(said).__name__)
    if getattr(said, "sqlstate", None) == NO_RIGHTS:
        text += "; give the role a database of its own (CREATE DATABASE ... OWNER ...), or the rights on this one"
    return text
