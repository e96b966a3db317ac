"""The files of a folder, a zip or a URL, and how their bytes are read."""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from drexcache.datasets.urls import Url
from drexcache.errors import DrexcacheError

_MAX_MEMBER_BYTES = 1 << 30
_open_zips = threading.local()  # in each thread: path -> (what was opened, its handle)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image's file at ``location`` or, if ``member`` is given, that member of the zip or the URL there.

    A table of a million images keeps a million of these, so that a file's ``location`` is text: a Path takes 500 bytes.
    ``listed`` is what a URL's listing told: asking a store again for each image would take a request for each.

    >>> print(ImageFile(Path("photos.zip"), "images/a.jpg"))
    photos.zip: images/a.jpg
    """

    location: str | Path | Url
    member: str | None = None
    listed: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        return f"{self.location}: {self.member}" if self.member else str(self.location)

    def read(self) -> bytes:
        """The file's bytes. Safe to call from several threads; a zip is opened once by each.

        Raises
        ------
        OSError : the file is gone, may not be read, or, in a zip, is damaged, encrypted or larger than 1 GiB; for a
            URL, whatever its store or the network refuse.
        """
        if self.member is None:
            return self._path.read_bytes()
        if isinstance(self.location, Url):
            return self.location.read(self.member)
        try:
            handle = _opened(self._path)
            info = handle.getinfo(self.member)
            if info.file_size > _MAX_MEMBER_BYTES:
                raise OSError(f"{info.file_size} bytes in the zip, more than {_MAX_MEMBER_BYTES}")
            with handle.open(info) as stream:
                data = stream.read(info.file_size)  # and no more, whatever the compressed data would grow to
        except (
            zipfile.BadZipFile,
            KeyError,
            RuntimeError,
            NotImplementedError,
            EOFError,
            zlib.error,
        ) as error:
            raise OSError(f"zip member cannot be read: {error}") from error
        if len(data) != info.file_size:
            raise OSError(f"{len(data)} bytes in the zip where {info.file_size} are declared")
        return data

    def stat(self) -> tuple[int, int]:
        """Size in bytes and time of modification in ns (for a member the zip's, at a URL a number that stands for it).

        OSError as in `read`.
        """
        if isinstance(self.location, Url):
            return self.listed
        status = self._path.stat()
        if self.member is None:
            return status.st_size, status.st_mtime_ns
        try:
            return _opened(self._path).getinfo(self.member).file_size, status.st_mtime_ns
        except (zipfile.BadZipFile, KeyError) as error:
            raise OSError(f"zip member cannot be read: {error}") from error

    @property
    def _path(self) -> Path:
        return Path(str(self.location))


def list_files(root: Path | Url) -> dict[str, ImageFile]:
    """All files of a folder, a zip or a URL: relative path (POSIX) -> file, in the order of the paths' bytes.

    Hidden files and macOS's copies of metadata are left out; linked folders are followed. Members of a zip
    are never extracted, so that a path that leads out of it is only a name.

    Raises
    ------
    DrexcacheError : neither a folder nor a zip, not readable, or a name that is not UTF-8 or not unique.
    """
    files: dict[str, ImageFile] = {}
    for name, file in _entries(root):
        if name in files:
            raise DrexcacheError(f"{root}: holds two files named {name}")
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DrexcacheError(f"{root}: the file name {name!r} is not UTF-8; rename the file") from error
        files[name] = file
    return dict(sorted(files.items()))  # the order of characters is the order of their bytes in UTF-8


def _entries(root: Path | Url) -> Iterator[tuple[str, ImageFile]]:
    if isinstance(root, Url):
        return _listed(root)
    if not root.exists():
        raise DrexcacheError(f"{root}: no such folder or zip")
    return _walk(root) if root.is_dir() else _members(root)


def _listed(root: Url) -> Iterator[tuple[str, ImageFile]]:
    for name, state in root.files().items():
        if not any(_is_hidden(part) for part in PurePosixPath(name).parts):
            yield name, ImageFile(root, name, state)


def _walk(root: Path) -> Iterator[tuple[str, ImageFile]]:
    def refuse(error: OSError) -> None:
        raise DrexcacheError(f"{error.filename}: cannot be read ({error.strerror})") from error

    for folder, subfolders, names in os.walk(root, onerror=refuse, followlinks=True):
        here = Path(folder)
        subfolders[:] = [name for name in subfolders if not _is_hidden(name) and not _leads_back(here / name)]
        prefix = "" if here == root else here.relative_to(root).as_posix() + "/"
        for name in names:
            if not _is_hidden(name):
                yield prefix + name, ImageFile(f"{folder}{os.sep}{name}")


def _leads_back(folder: Path) -> bool:
    """Whether a link leads to a folder that it stands in, and so nowhere new."""
    return folder.is_symlink() and folder.resolve() in {parent.resolve() for parent in folder.parents}


def _members(path: Path) -> Iterator[tuple[str, ImageFile]]:
    try:
        infos = _opened(path).infolist()
    except zipfile.BadZipFile as error:
        raise DrexcacheError(f"{path}: neither a folder nor a zip") from error
    except OSError as error:
        raise DrexcacheError(f"{path}: cannot be read ({error.strerror})") from error
    for info in infos:
        name = info.filename.replace("\\", "/").removeprefix("./")  # some programs write backslashes
        if not info.is_dir() and not any(_is_hidden(part) for part in PurePosixPath(name).parts):
            yield name, ImageFile(path, info.filename)


def _is_hidden(name: str) -> bool:
    return name == "__MACOSX" or (name.startswith(".") and name != "..")


def _opened(path: Path) -> zipfile.ZipFile:
    """This thread's handle of a zip, whose directory is parsed once.

    Opened anew when the file has changed, and in a forked process, which would share the place in the file.
    """
    status = path.stat()
    state = (os.getpid(), status.st_ino, status.st_size, status.st_mtime_ns)
    handles: dict[Path, tuple[tuple[int, ...], zipfile.ZipFile]] = _open_zips.__dict__.setdefault("handles", {})
    if path not in handles or handles[path][0] != state:
        handles[path] = (state, zipfile.ZipFile(path))
    return handles[path][1]
