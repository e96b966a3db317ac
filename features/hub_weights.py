"""timm's weights on the Hugging Face Hub: what there is, and the file in the local hub cache."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, Queue

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

from drexcache.errors import DrexcacheError
from drexcache.features.models import known_backbone

FILES = ("model.safetensors", "pytorch_model.bin")
PATIENCE = 8.0  # seconds until a silent hub counts as unreachable


def published(backbone: str, tag: str) -> tuple[str, str]:
    """The hub repository of timm's weights ``<backbone>.<tag>``, and their licence (or "not stated").

    >>> published("resnet50", "tv2_in1k")
    ('timm/resnet50.tv2_in1k', 'bsd-3-clause')

    Raises
    ------
    DrexcacheError : unknown backbone, unknown tag (lists the known ones), or weights that timm does not offer as a
        plain file of tensors in the hub.
    """
    from timm.models import get_pretrained_cfg, list_pretrained

    known_backbone(backbone)
    tags = [name.partition(".")[2] for name in list_pretrained(f"{backbone}.*")]
    if tag not in tags:
        there = f"its tags: {', '.join(tags)}" if tags else "it has none; give a file with --weights PATH"
        raise DrexcacheError(f"timm has no weights {tag!r} for {backbone}; {there}")
    config = get_pretrained_cfg(f"{backbone}.{tag}")
    if config is None or not config.hf_hub_id or config.custom_load or config.hf_hub_filename:
        raise DrexcacheError(
            f"weights {backbone}.{tag} are not a plain file in the hub; give a downloaded file with --weights PATH"
        )
    return config.hf_hub_id, config.license or "not stated"


def check_hub(backbone: str, tag: str) -> None:
    """Raise DrexcacheError unless the file is in the local hub cache or the hub offers it within 8 s."""
    if cached(f"timm/{backbone}.{tag}") is not None:
        return
    repo, _ = published(backbone, tag)
    if cached(repo) is None:
        _explained(lambda: _within(PATIENCE, lambda: _offered(repo)), backbone, tag, repo)


def fetch(backbone: str, tag: str) -> Path:
    """The file of weights from the local hub cache, downloaded into it if needed; raises as check_hub does."""
    repo, _ = published(backbone, tag)
    if (found := cached(repo)) is not None:
        return found
    filename = _explained(lambda: _within(PATIENCE, lambda: _offered(repo)), backbone, tag, repo)
    return Path(_explained(lambda: hf_hub_download(repo, filename), backbone, tag, repo))


def cached(repo: str) -> Path | None:
    """The repository's file of weights in the local hub cache."""
    for filename in FILES:
        found = try_to_load_from_cache(repo, filename)
        if isinstance(found, str):  # neither None nor the marker for a file known not to exist
            return Path(found)
    return None


def _offered(repo: str) -> str:
    """The name of the file that the hub offers."""
    for filename in FILES:
        try:
            get_hf_file_metadata(hf_hub_url(repo, filename), timeout=PATIENCE / 2)
            return filename
        except EntryNotFoundError:
            continue
    raise DrexcacheError(
        f"the hub's {repo} holds none of {', '.join(FILES)}; give a downloaded file with --weights PATH"
    )


def _within(seconds: float, ask: Callable[[], str]) -> str:
    """The answer, or TimeoutError after so many seconds: a DNS lookup can hang for minutes and has no timeout."""
    answers: Queue[str | Exception] = Queue()

    def work() -> None:
        try:
            answers.put(ask())
        except Exception as error:
            answers.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer in {seconds:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _explained(ask: Callable[[], str], backbone: str, tag: str, repo: str) -> str:
    """The answer, or DrexcacheError with one sentence on why the hub gave none and what to do."""
    page = f"{constants.ENDPOINT}/{repo}"
    try:
        return ask()
    except DrexcacheError:
        raise
    except GatedRepoError as error:
        raise DrexcacheError(
            f"weights {backbone}.{tag} are given to those who accept their licence: accept it at {page}, log"
            " in with 'hf auth login' and run again, or give a downloaded file with --weights PATH"
        ) from error
    except RepositoryNotFoundError as error:
        raise DrexcacheError(
            f"the hub has no {repo}, or wants a login to show it ('hf auth login'); or give a downloaded file"
            " with --weights PATH"
        ) from error
    except Exception as error:  # the hub's client passes on whatever its HTTP library raises, which changes
        licence = f" (its licence may have to be accepted first, at {page})" if "dinov3" in backbone else ""
        raise DrexcacheError(
            f"weights {backbone}.{tag} cannot be fetched from the hub (no network? {type(error).__name__});"
            " ways out: --weights packaged with the recipe offline, --weights PATH with a downloaded file"
            f"{licence}, or fill the hub cache on another machine (HF_HOME)"
        ) from error
