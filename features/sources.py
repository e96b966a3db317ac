"""Where a backbone's weights come from: timm's hub, a package, a file, or (for tests) random numbers.

Nothing here loads torch or timm unless it has to: a model converted before needs neither.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from drexcache.errors import DrexcacheError
from drexcache.features.models import known_backbone
from drexcache.features.packaged import check_packaged

RANDOM = "random seed 0"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def check_weights(backbone: str, tag: str, source: str) -> None:
    """Raise DrexcacheError, with the ways out, if ``load_weights`` would not find its source.

    Cheap enough to run before the first image is read: no file of weights is opened, and a hub that does not
    answer is given up after 8 seconds.
    """
    if source == "hub":
        from drexcache.features.hub_weights import check_hub

        check_hub(backbone, tag)
    elif source == "packaged":
        check_packaged(backbone, tag)
    elif source != "random":
        try:
            find_file(backbone, tag, source)
        except DrexcacheError:
            known_backbone(backbone)  # a misspelt backbone explains more than a missing file
            raise


def hash_of_file(backbone: str, tag: str, source: str) -> str:
    """SHA-256 (hex) of the file that `load_weights` would read, or a phrase for random weights."""
    if source == "random":
        return RANDOM
    if source == "packaged":
        path, _ = check_packaged(backbone, tag)
    elif source == "hub":
        from drexcache.features.hub_weights import cached, fetch

        path = cached(f"timm/{backbone}.{tag}") or fetch(backbone, tag)
    else:
        path = find_file(backbone, tag, source)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def licence_notice(backbone: str, tag: str = "") -> str | None:
    """The licence notice to show a user before these weights are first used, or None.

    >>> licence_notice("resnet50") is None
    True
    """
    if "dinov3" not in backbone or tag.startswith("eupe"):  # EUPE: other weights in the same architecture
        return None
    return (
        f"{backbone}: the weights are under the DINOv3 License by Meta; by using them you accept its terms:"
        " https://ai.meta.com/resources/models-and-libraries/dinov3-license/"
    )


def find_file(backbone: str, tag: str, source: str) -> Path:
    """The file that a path stands for; never one whose name states another tag."""
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise DrexcacheError(
            f"weights {source!r}: no such file or folder; expected hub, packaged, or the path of a file"
        )
    names = [f"{stem}{suffix}" for stem in (f"{backbone}.{tag}", backbone) for suffix in SUFFIXES]
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        others = ", ".join(sorted(other.name for other in path.glob(f"{backbone}*"))) or "nothing of that backbone"
        raise DrexcacheError(
            f"{path} holds no {backbone}.{tag} as {', '.join(SUFFIXES)}; it holds {others}; rename the file"
            " you mean or give its own path"
        )
    return found
