"""Files on the Hugging Face Hub, by names such as hf://datasets/USER/NAME/photos.h5 or hf://USER/NAME/model.drex."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from drexcache.errors import DrexcacheError

NAME = re.compile(r"hf:/{1,2}(?:(dataset|model)s/)?([\w.-]+/[\w.-]+)(?:@([^/]+))?/(.+)")
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


def local_file(name: str | Path) -> Path:
    """Return a local path unchanged; download an hf:// name and return the path of its copy in the Hub client's cache.

    A name is hf://USER/REPOSITORY/FILE for a model and hf://datasets/USER/REPOSITORY/FILE for a cache; "@REVISION" may
    follow the repository. A download is used only if it is complete and matches the Hub's checksum.

    Raises
    ------
    DrexcacheError : the name is malformed, the repository or file is missing, private or gated, or there is no network.

    >>> local_file("photos.h5").name
    'photos.h5'
    """
    text = str(name)
    if not text.startswith(("hf:/", "hf:\\")):
        return Path(name)
    found = NAME.fullmatch(text)
    if found is None:
        raise DrexcacheError(f"{text}: expected hf://datasets/USER/NAME/FILE or hf://USER/NAME/FILE")
    kind, repository, revision, file = found.groups()
    return _downloaded(text, kind or "model", repository, revision, file)


def _downloaded(name: str, kind: str, repository: str, revision: str | None, file: str) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    known = isinstance(try_to_load_from_cache(repository, file, repo_type=kind, revision=revision), str)
    try:
        path = Path(hf_hub_download(repository, file, repo_type=kind, revision=revision))
    except GatedRepoError as error:
        raise DrexcacheError(
            f"{name}: its terms have to be accepted on the repository's page first; {LOGIN}"
        ) from error
    except RepositoryNotFoundError as error:
        raise DrexcacheError(f"{name}: no such repository, or a private one; {LOGIN}") from error
    except RevisionNotFoundError as error:
        raise DrexcacheError(f"{name}: the repository has no revision {revision}") from error
    except LocalEntryNotFoundError as error:
        raise DrexcacheError(f"{name}: cannot be fetched: no network, and no earlier download") from error
    except EntryNotFoundError as error:
        raise DrexcacheError(f"{name}: the repository has no such file") from error
    except Exception as error:  # from the disk, or whichever HTTP library the client uses
        raise DrexcacheError(f"{name}: cannot be fetched: {_reason(error)}") from error
    if not known and not _is_whole(path):
        path.resolve().unlink()
        raise DrexcacheError(f"{name}: the download does not have the Hub's checksum, and was deleted; try again")
    return path


def _is_whole(path: Path) -> bool:
    """Whether a download matches the checksum in its file name: SHA-256 for large files, Git's SHA-1 for the rest."""
    stated = path.resolve().name
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", stated):
        return True  # on file systems without links, files keep their own names
    git = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: git if len(stated) == 40 else hashlib.sha256()).hexdigest() == stated


def _reason(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
