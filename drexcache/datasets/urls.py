"""A folder of images at a URL, s3://bucket/folder and the like, listed and read through fsspec."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drexcache.errors import DrexcacheError, nearest

# What stores say of a file that changes when it does: a time, a tag or a checksum; each store has its own words.
_SIGNS = ("mtime", "LastModified", "last_modified", "updated", "created", "ETag", "etag", "md5Hash", "CRC")


def is_url(text: object) -> bool:
    """Whether this names a place for fsspec rather than a path of this machine.

    >>> is_url("s3://bucket/photos"), is_url("photos/"), is_url(r"C:\\photos")
    (True, False, False)
    """
    return isinstance(text, str) and "://" in text


@dataclass(frozen=True, slots=True)
class Url:
    """A folder at a URL. It is no more than its text: each process and thread finds its own way to the store.

    >>> from fsspec.implementations.memory import MemoryFileSystem
    >>> MemoryFileSystem().pipe("/photos/new/a.jpg", b"abc")
    >>> url = Url("memory://photos")
    >>> url.name, list(url.files()), url.read("new/a.jpg")
    ('photos', ['new/a.jpg'], b'abc')
    """

    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def name(self) -> str:
        """The last part, as a folder's name."""
        return self.text.rstrip("/").rpartition("/")[2]

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file below: its path relative to the folder -> its size in bytes and a number for its state.

        Raises
        ------
        DrexcacheError : an unknown protocol or one whose package is missing, no such folder, no access, no network.
        """
        store, root = self._opened()
        try:
            store.invalidate_cache()  # s3fs and its like would go on with what they listed before
            found = store.find(root, detail=True)
        except Exception as error:  # each store's client has exceptions of its own
            raise DrexcacheError(f"{self}: cannot be listed ({_reason(error)})") from error
        if not found:  # most stores have no empty folders, and cannot tell one from none
            raise DrexcacheError(f"{self}: no such folder, or nothing in it")
        if root in found:
            raise DrexcacheError(f"{self}: a file; name a folder, or copy the file (also a zip) to this machine")
        return {
            path[len(root) :].lstrip("/"): (info.get("size") or 0, _state(info))
            for path, info in found.items()
            if info.get("type") != "directory"  # some stores keep a folder as an entry of its own
        }

    def read(self, name: str) -> bytes:
        """The bytes of a file below. Safe to call from several threads.

        Raises
        ------
        OSError : it is gone, may not be read, or the network failed. DrexcacheError : as `files`.
        """
        store, root = self._opened()
        try:
            data: bytes = store.cat_file(f"{root.rstrip('/')}/{name}")
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self}/{name}") from error
        except Exception as error:  # each store's client has exceptions of its own
            raise OSError(_reason(error)) from error
        return data

    def _opened(self) -> tuple[Any, str]:
        """fsspec's file system, which fsspec keeps for each process and thread, and the folder's path in it."""
        import fsspec

        protocol = self.text.partition("://")[0].rpartition("::")[2]
        try:
            store, root = fsspec.url_to_fs(self.text)
        except ImportError as error:
            raise DrexcacheError(f"{self}: {protocol}:// needs a package that is not installed ({error})") from error
        except Exception as error:  # each store's client has exceptions of its own
            known = fsspec.available_protocols()
            if protocol in known:
                raise DrexcacheError(f"{self}: cannot be opened ({_reason(error)})") from error
            raise DrexcacheError(f"{self}: no protocol {protocol}; {nearest(protocol, sorted(known))}") from error
        return store, root


def _state(info: Mapping[str, Any]) -> int:
    """A number that is another one once the file has changed.

    A size alone does not tell that. Where no more is known, as with many web servers and with links, whose times are
    not their targets', it is the time now, which no earlier listing gave: the file is read again.
    """
    signs = [f"{key}={info[key]}" for key in _SIGNS if info.get(key) and not info.get("islink")]
    if not signs:
        return time.time_ns()
    return int.from_bytes(hashlib.sha256("; ".join(signs).encode()).digest()[:8], "big") >> 1  # fits an int64


def _reason(error: Exception) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
