"""The files of a folder, a zip or a URL, and how their bytes are read."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from drexcache.errors import DrexcacheError, nearest
from drexcache.files import open_regular, utf8_name

IMAGE_EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif",
    ".jxl",
)  # fmt: skip
MAX_BYTES = 1 << 30  # size limit of an image file or a table
MAX_RATIO, BYTES_AT_ANY_RATIO = 100, 1 << 26  # limits of a zip member: compression ratio, and size exempt from it
# What a store reports about a file that changes when the file does (a time, tag or checksum); names vary by store.
_SIGNS = ("mtime", "LastModified", "last_modified", "updated", "created", "ETag", "etag", "md5Hash", "CRC")
_open_zips = threading.local()  # in each thread: path -> (state of the file, open handle)


def is_url(text: object) -> bool:
    """Whether this is a URL for fsspec rather than a path on this machine.

    >>> is_url("s3://bucket/photos"), is_url("photos/"), is_url(r"C:\\photos")
    (True, False, False)
    """
    return isinstance(text, str) and "://" in text


@dataclass(frozen=True, slots=True)
class ImageFile:
    """The file at ``location``; with ``member``, that member of the zip, or that file in the folder at the URL.

    A table of a million images holds a million of these, so ``location`` is text: a Path takes 500 bytes.
    ``listed`` is the file's state from a URL's listing, because asking the store again would take a request per image.

    >>> print(ImageFile(Path("photos.zip"), "images/a.jpg"))
    photos.zip: images/a.jpg
    """

    location: str | Path
    member: str | None = None
    listed: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        if self.member is None:
            return str(self.location)
        return f"{self.location}{'/' if is_url(self.location) else ': '}{self.member}"

    @property
    def container(self) -> str:
        """The file or folder that the image was found in."""
        return str(self.location)

    def read(self) -> bytes:
        """The file's bytes; the only place that reads an image. Safe to call from several threads.

        Raises
        ------
        OSError : the file is gone, unreadable, not a regular file, or larger than the limits (docs/any-folder.md); in a
            zip, damaged or encrypted; at a URL, any error of the store or the network.
        """
        if self.member is None:
            with open_regular(self.location) as file:
                return _read_all(file)
        if is_url(self.location):
            _check_size(self.listed[0])
            return _read_at_url(str(self.location), self.member)
        with _errors_of_zips():
            return _read_member(_zip(Path(self.location)), self.member)

    def stat(self) -> tuple[int, int]:
        """The size in bytes, and a number that changes whenever the file does.

        The number is a digest of modification time, change time and inode, so it changes even if two files of the same
        size and modification time are swapped. For a zip member it is a digest of the checksum that the zip lists, at a
        URL of what the store reports about the file.

        Raises OSError as `read` does.
        """
        if is_url(self.location):
            return self.listed
        status = Path(self.location).stat()
        if self.member is None:
            return status.st_size, _number(status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        with _errors_of_zips():
            info = _zip(Path(self.location)).getinfo(self.member)
            return info.file_size, _number(info.CRC, *info.date_time)


def _number(*signs: int) -> int:
    """A 63-bit digest of these numbers."""
    return int.from_bytes(hashlib.sha256(repr(signs).encode()).digest()[:8]) >> 1


def read_bytes(source: str | os.PathLike[str] | ImageFile) -> bytes:
    """Read a whole file, given by its path or URL.

    Raises
    ------
    DrexcacheError : the file cannot be read (says why).
    """
    try:
        if isinstance(source, ImageFile):
            return source.read()
        if is_url(source):
            folder, _, name = str(source).rpartition("/")
            return ImageFile(folder, name).read()
        with Path(source).open("rb") as file:  # may be a pipe, such as a shell's <(command)
            return _read_all(file)
    except OSError as error:
        raise DrexcacheError(f"{source}: cannot be read ({error.strerror or error})") from error


def list_files(root: str | Path) -> dict[str, ImageFile]:
    """List all files of a folder, a zip or a URL: relative path (POSIX) -> file, sorted by the bytes of the paths.

    Hidden files and macOS's metadata copies are left out; linked folders are followed. Members of a zip are never
    extracted, so a path that leads out of it is harmless.

    Raises
    ------
    DrexcacheError : neither a folder nor a zip, not readable, or a name that is not UTF-8 or not unique.

    >>> from fsspec.implementations.memory import MemoryFileSystem
    >>> MemoryFileSystem().pipe("/photos/new/a.jpg", b"abc")
    >>> files = list_files("memory://photos")
    >>> list(files), files["new/a.jpg"].read()
    (['new/a.jpg'], b'abc')
    """
    files: dict[str, ImageFile] = {}
    for name, file in _listing(root):
        if any(is_hidden(part) for part in name.split("/")):
            continue
        if name in files:
            raise DrexcacheError(f"{root}: holds two files named {name}")
        files[utf8_name(name, root)] = file
    return dict(sorted(files.items()))  # the order of characters is the order of their bytes in UTF-8


def _listing(root: str | Path) -> Iterator[tuple[str, ImageFile]]:
    if is_url(root):
        return _files_at_url(str(root))
    if not Path(root).exists():
        raise DrexcacheError(f"{root}: no such file or folder")
    return _files_of_folder(Path(root)) if Path(root).is_dir() else _members_of_zip(Path(root))


def is_hidden(name: str) -> bool:
    """Whether a folder or file of this name is left out of listings."""
    return name == "__MACOSX" or (name.startswith(".") and name not in (".", ".."))


def _files_of_folder(root: Path) -> Iterator[tuple[str, ImageFile]]:
    def refuse(error: OSError) -> None:
        raise DrexcacheError(f"{error.filename}: cannot be read ({error.strerror})") from error

    for folder, subfolders, names in os.walk(root, onerror=refuse, followlinks=True):
        here = Path(folder)
        subfolders[:] = [name for name in subfolders if not is_hidden(name) and not _leads_back(here / name)]
        prefix = "" if here == root else here.relative_to(root).as_posix() + "/"
        for name in names:
            yield prefix + name, ImageFile(f"{folder}{os.sep}{name}")


def _leads_back(folder: Path) -> bool:
    """Whether a link leads to one of the folders that contain it."""
    return folder.is_symlink() and folder.resolve() in {parent.resolve() for parent in folder.parents}


def _members_of_zip(path: Path) -> Iterator[tuple[str, ImageFile]]:
    try:
        infos = _zip(path).infolist()
    except zipfile.BadZipFile as error:
        raise DrexcacheError(f"{path}: neither a folder nor a zip") from error
    except OSError as error:
        raise DrexcacheError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a broken central directory makes zipfile raise errors of many kinds
        raise DrexcacheError(f"{path}: a broken zip ({error})") from error
    for info in infos:
        if info.filename and not info.is_dir():  # a broken zip may hold a member without a name
            name = info.filename.replace("\\", "/").removeprefix("./")  # some programs write backslashes
            yield name, ImageFile(str(path), info.filename)


@contextmanager
def _errors_of_zips() -> Iterator[None]:
    """A context that turns whatever zipfile and zlib raise on a broken zip into an OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"zip member cannot be read: {error}") from error


def _read_member(archive: zipfile.ZipFile, member: str) -> bytes:
    info = archive.getinfo(member)
    _check_size(info.file_size)
    if info.file_size > max(BYTES_AT_ANY_RATIO, MAX_RATIO * info.compress_size):
        raise OSError(f"{info.file_size} bytes out of {info.compress_size} in the zip; unpack it to use such a file")
    with archive.open(info) as stream:
        data = stream.read(info.file_size)  # never more, however far the compressed data would expand
    if len(data) != info.file_size:
        raise OSError(f"{len(data)} bytes in the zip where {info.file_size} are declared")
    return data


def _zip(path: Path) -> zipfile.ZipFile:
    """This thread's open handle of a zip, so that its directory is parsed only once.

    Reopened if the file has changed, and in a forked process, which would otherwise share the file position.
    """
    status = path.stat()
    state = (os.getpid(), status.st_ino, status.st_size, status.st_mtime_ns)
    handles: dict[Path, tuple[tuple[int, ...], zipfile.ZipFile]] = vars(_open_zips).setdefault("handles", {})
    if path not in handles or handles[path][0] != state:
        open_regular(path).close()  # refuses a pipe
        try:  # macOS's Finder writes UTF-8 without the flag that says so; older programs write code page 437
            handles[path] = (state, zipfile.ZipFile(path, metadata_encoding="utf-8"))
        except UnicodeDecodeError:
            handles[path] = (state, zipfile.ZipFile(path))
    return handles[path][1]


def _read_all(file: BinaryIO) -> bytes:
    status = os.fstat(file.fileno())
    _check_size(status.st_size)
    if stat.S_ISREG(status.st_mode):
        return file.read()
    data = bytearray()
    while chunk := file.read(1 << 20):  # a pipe, whose size is unknown
        data += chunk
        _check_size(len(data))
    return bytes(data)


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise OSError(f"{size} bytes, more than {MAX_BYTES}")


def _files_at_url(url: str) -> Iterator[tuple[str, ImageFile]]:
    store, root = _store(url)
    try:
        store.invalidate_cache()  # s3fs and others would reuse an earlier listing
        found = store.find(root, detail=True)
    except Exception as error:  # each store has its own exceptions
        raise DrexcacheError(f"{url}: cannot be listed ({_reason(error)})") from error
    if not found:  # most stores cannot tell an empty folder from a missing one
        raise DrexcacheError(f"{url}: no such folder, or nothing in it")
    if root in found:
        raise DrexcacheError(f"{url}: a file; name a folder, or copy the file (also a zip) to this machine")
    for path, info in found.items():
        if info.get("type") != "directory":  # some stores list folders as entries
            name = path[len(root) :].lstrip("/")
            yield name, ImageFile(url.rstrip("/"), name, (info.get("size") or 0, _state(info)))


def _read_at_url(url: str, name: str) -> bytes:
    store, root = _store(url)
    if "file" in store.protocol:  # the local file system, where opening a pipe would block
        with open_regular(Path(root) / name) as file:
            return _read_all(file)
    try:
        data: bytes = store.cat_file(f"{root.rstrip('/')}/{name}")
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{url}/{name}") from error
    except Exception as error:  # each store has its own exceptions
        raise OSError(_reason(error)) from error
    return data


def _store(url: str) -> tuple[Any, str]:
    """fsspec's file system (which fsspec caches per process and thread), and the folder's path in it."""
    import fsspec

    protocol = url.partition("://")[0].rpartition("::")[2]
    try:
        store, root = fsspec.url_to_fs(url)
    except ImportError as error:
        raise DrexcacheError(f"{url}: {protocol}:// needs a package that is not installed ({error})") from error
    except Exception as error:  # each store has its own exceptions
        known = fsspec.available_protocols()
        if protocol in known:
            raise DrexcacheError(f"{url}: cannot be opened ({_reason(error)})") from error
        raise DrexcacheError(f"{url}: no protocol {protocol}; {nearest(protocol, sorted(known))}") from error
    return store, root


def _state(info: Mapping[str, Any]) -> int:
    """A number that changes whenever the file does.

    The size alone is not enough. If nothing more is known, as with many web servers and with links, whose times are not
    their targets', it is the current time, which matches no earlier listing, so that the file is read again.
    """
    signs = [f"{key}={info[key]}" for key in _SIGNS if info.get(key) and not info.get("islink")]
    if not signs:
        return time.time_ns()
    return int.from_bytes(hashlib.sha256("; ".join(signs).encode()).digest()[:8], "big") >> 1  # fits an int64


def _reason(error: Exception) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
