"""The weights that timm publishes: their names, and their files in the hub or in its local cache."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, Queue

import timm
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError
from timm.models import get_pretrained_cfg, list_pretrained

from drexcache.errors import DrexcacheError, nearest

FILES = ("model.safetensors", "pytorch_model.bin")
PATIENCE = 8.0  # seconds until a silent hub counts as unreachable


def known_backbone(backbone: str) -> None:
    """Raise DrexcacheError unless timm has a model of that name; the message offers the nearest name.

    >>> known_backbone("resnet51")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    drexcache.errors.DrexcacheError: timm has no model 'resnet51'; did you mean ...
    """
    if timm.is_model(backbone) and "." not in backbone:
        return
    advice = nearest(backbone.partition(".")[0], timm.list_models(), shown=()) or "see timm.list_models()"
    raise DrexcacheError(f"timm has no model {backbone!r}; {advice}")


def published(backbone: str, tag: str) -> tuple[str, str]:
    """The hub repository of timm's weights ``<backbone>.<tag>``, and their licence (or "not stated").

    >>> published("resnet50", "tv2_in1k")
    ('timm/resnet50.tv2_in1k', 'bsd-3-clause')

    Raises
    ------
    DrexcacheError : unknown backbone; unknown tag (the message lists the tags there are); weights that timm
        offers in a form of their own, not as a file of tensors in the hub.
    """
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
    repo, _ = published(backbone, tag)
    if _cached(repo) is None:
        _explained(lambda: _within(PATIENCE, lambda: _offered(repo)), backbone, tag, repo)


def fetch(backbone: str, tag: str) -> Path:
    """The file of weights, from the local hub cache or else downloaded into it; errors as in check_hub."""
    repo, _ = published(backbone, tag)
    cached = _cached(repo)
    if cached is not None:
        return cached
    filename = _explained(lambda: _within(PATIENCE, lambda: _offered(repo)), backbone, tag, repo)
    return Path(_explained(lambda: hf_hub_download(repo, filename), backbone, tag, repo))


def _cached(repo: str) -> Path | None:
    for filename in FILES:
        found = try_to_load_from_cache(repo, filename)
        if isinstance(found, str):  # neither None nor the marker of a file known to be absent
            return Path(found)
    return None


def _offered(repo: str) -> str:
    """The name of the file that the hub answers for."""
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
    """The answer, or TimeoutError: looking up a name can hang for minutes and knows no timeout of its own."""
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
    """The answer, or one sentence on why the hub gave none and what to do."""
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
    except Exception as error:  # the hub's client lets through what its HTTP library raises, which changes
        licence = f" (its licence may have to be accepted first, at {page})" if "dinov3" in backbone else ""
        raise DrexcacheError(
            f"weights {backbone}.{tag} cannot be fetched from the hub (no network? {type(error).__name__});"
            " ways out: --weights packaged with the recipe offline, --weights PATH with a downloaded file"
            f"{licence}, or fill the hub cache on another machine (HF_HOME)"
        ) from error
