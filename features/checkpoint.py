"""Reading a file of weights and translating its tensors to timm's names for a backbone."""

from __future__ import annotations

import re
import sys
import zipfile
from collections import Counter
from collections.abc import KeysView, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from drexcache.errors import DrexcacheError
from drexcache.features.sources import SUFFIXES

CLASSIFIERS = ("fc.", "head.", "classifier.")
# A counter for training only; nothing reads it in eval mode, and older files lack it.
COUNTER = "num_batches_tracked"
RESAMPLED_BY_TIMM = ("pos_embed", "patch_embed.proj.weight")

State = dict[str, torch.Tensor]

# transformers' names (releases 4 and 5) -> the names in Meta's own DINOv2 and DINOv3 files
TRANSFORMERS_NAMES = (
    (r"^(?:model\.|encoder\.)?layer\.(?=\d)", "blocks."),
    (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.", ""),  # cls_token, mask_token, register_tokens
    (r"^layernorm\.", "norm."),
    (r"\.attention\.attention\.(q|k|v)(?:uery|ey|alue)\.", r".attn.\1."),
    (r"\.attention\.(q|k|v)_proj\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
)


def read_checkpoint(path: Path) -> State:
    """Read every tensor of a .safetensors, .pth, .pt or .bin file; nested dictionaries become dotted names.

    Only tensors and plain containers are unpickled (``weights_only=True``).

    Raises
    ------
    DrexcacheError : another kind of file, a damaged one, or one that holds more than data.
    """
    if path.suffix not in SUFFIXES:
        raise DrexcacheError(f"{path}: expected a file of weights named {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        _refuse_compressed(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except DrexcacheError:
        raise
    except Exception as error:  # on a damaged file torch's reader may raise anything
        raise DrexcacheError(
            f"{path} cannot be read as weights ({type(error).__name__}): it is damaged, or holds more than"
            " tensors, which is never unpickled; download it again, or save its state dict alone, best as"
            " .safetensors"
        ) from error
    tensors = _flatten(content, "")
    if not tensors:
        raise DrexcacheError(f"{path} holds no tensors; expected a state dict")
    return tensors


def _refuse_compressed(path: Path) -> None:
    """torch unpacks what it never packs itself, to a thousand times the file's size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise DrexcacheError(f"{path}: holds compressed parts, which a file of weights never has; refused")


def fit_to_model(tensors: State, model: torch.nn.Module, backbone: str, where: str) -> tuple[State, str]:
    """The part of a file that holds the model's weights, under timm's names, and the prefix of its names in the file.

    Known names: timm's, torchvision's (ResNet), Meta's and transformers' (DINOv2, DINOv3), and those that the
    architecture's own ``checkpoint_filter_fn`` in timm translates. The names may have any prefix, such as
    ``teacher.backbone.`` or, in the DReX paper's checkpoint, ``dino_model.`` and ``resnet_backbone.``. A classifier
    that the model lacks is left out. A ``pos_embed`` keeps its own grid (see ``resample_pos_embed``); everything
    else has exactly the model's names, shapes and dtypes.

    Raises
    ------
    DrexcacheError : tensors are missing, unexpected or of another shape (gives their number and the first three), or
        two parts fit equally well; ``where`` and ``backbone`` name the two sides.
    """
    wanted = model.state_dict()
    prefixes = _prefixes(tensors, len(wanted))
    parts = {prefix: _timm_names(_under(prefix, tensors), model) for prefix in prefixes}
    prefix = _best_prefix({prefix: len(part.keys() & wanted.keys()) for prefix, part in parts.items()}, where)
    part = parts[prefix]
    part |= {name: wanted[name] for name in wanted.keys() - part.keys() if name.endswith(COUNTER)}
    _refuse_differences(part, model, f"{where} does not fit {backbone}")
    return {name: tensor.to(wanted[name].dtype) for name, tensor in part.items()}, prefix


def resample_pos_embed(state: State, model: torch.nn.Module) -> State:
    """The state with an absolute position embedding resampled to the model's patch grid the way timm does.

    DINOv2 was trained at 518x518 pixels, 37x37 patches of 14; at 224x224 there are 16x16. timm resamples bicubically
    with antialiasing; Meta's own code for models without registers does not antialias.
    """
    from timm.layers import resample_abs_pos_embed

    if not _resamplable(state, model):
        return state
    embed = resample_abs_pos_embed(
        state["pos_embed"],  # (1, prefix + h*w, C)
        new_size=list(model.patch_embed.grid_size),  # type: ignore[union-attr, arg-type]
        num_prefix_tokens=_prefix_tokens(model),
    )
    return state | {"pos_embed": embed}


def _flatten(content: Any, prefix: str) -> State:
    if isinstance(content, torch.Tensor):
        return {prefix: content.detach()}
    if not isinstance(content, Mapping):
        return {}
    flat: State = {}
    for key, value in content.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _prefixes(tensors: State, n_wanted: int) -> list[str]:
    """The empty prefix, and every prefix of at least half as many tensors as the model has."""
    counts: Counter[str] = Counter()
    for name in tensors:
        counts.update(name[: dot.end()] for dot in re.finditer(r"\.", name))
    return ["", *(prefix for prefix, count in counts.items() if 2 * count >= n_wanted)]


def _best_prefix(fits: dict[str, int], where: str) -> str:
    """The prefix under which most of the model's names are found."""
    most = max(fits.values())
    best = [prefix for prefix, fit in fits.items() if fit == most] if most else [""]
    # a DINO training checkpoint holds a student and a teacher; the teacher is the published model
    chosen = [prefix for prefix in best if "teacher" in prefix] if len(best) > 1 else best
    if len(chosen) != 1:
        raise DrexcacheError(
            f"{where} holds several sets of weights that fit ({', '.join(best)}); save the one you mean alone"
        )
    return chosen[0]


def _under(prefix: str, tensors: State) -> State:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _timm_names(tensors: State, model: torch.nn.Module) -> State:
    wanted = model.state_dict().keys()
    if _covers(tensors, wanted):
        return _without_extras(tensors, model)
    state = _fuse_qkv({_meta_name(name): tensor for name, tensor in tensors.items()})
    if "pos_embed" in state and "register_tokens" in state:
        state = _dinov2_registers(state)
    elif "storage_tokens" in state or "register_tokens" in state:
        state = _dinov3(state, wanted)
    if not _covers(state, wanted):
        state = _timm_filtered(state, model)
    return _without_extras(state, model)


def _covers(state: State, wanted: KeysView[str]) -> bool:
    return all(name in state or name.endswith(COUNTER) for name in wanted)


def _without_extras(state: State, model: torch.nn.Module) -> State:
    """The state without a classifier that the model lacks, and without the mask token."""
    wanted = model.state_dict().keys()
    stated = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    stated = (stated,) if isinstance(stated, str) else stated  # "head.fc", or ("head", "head_dist")
    extras = (*CLASSIFIERS, *(name.partition(".")[0] + "." for name in stated), "mask_token")
    return {name: tensor for name, tensor in state.items() if name in wanted or not name.startswith(extras)}


def _meta_name(name: str) -> str:
    for pattern, replacement in TRANSFORMERS_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _fuse_qkv(state: State) -> State:
    """Join separate q, k and v, each (C, ...), into one qkv (3C, ...); DINOv3's k has no bias, so zeros are used."""
    fused = dict(state)
    for query in (name for name in state if re.search(r"\.attn\.q\.(weight|bias)$", name)):
        key, value = (query.replace(".attn.q.", f".attn.{part}.") for part in "kv")
        if value not in state or (key not in state and query.endswith(".weight")):
            continue
        q, v = fused.pop(query), fused.pop(value)
        k = fused.pop(key) if key in fused else torch.zeros_like(q)
        fused[query.replace(".attn.q.", ".attn.qkv.")] = torch.cat([q, k, v])
    return fused


def _dinov2_registers(state: State) -> State:
    """Move the position of [CLS] into its token, as timm does; pos_embed then covers the patches alone."""
    position = state["pos_embed"]
    rest = {name: tensor for name, tensor in state.items() if name != "register_tokens"}
    return rest | {
        "reg_token": state["register_tokens"],
        "cls_token": state["cls_token"] + position[:, :1],
        "pos_embed": position[:, 1:],
    }


def _dinov3(state: State, wanted: KeysView[str]) -> State:
    """Translate Meta's DINOv3 to timm's: q and v keep their biases; k's, which is masked to zero, is dropped."""
    out: State = {}
    for meta_name, tensor in state.items():
        name = meta_name.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2")
        if name.endswith((".periods", ".bias_mask")) or name.startswith("local_cls_norm."):
            continue  # RoPE's fixed frequencies, a mask, and a norm used only in training
        if name.endswith(".attn.qkv.bias"):
            q, _, v = tensor.chunk(3)
            names = name.replace("qkv.bias", "q_bias"), name.replace("qkv.bias", "v_bias")
            # timm's backbones without _qkvb lack these biases, so they may be dropped only if they are zero
            if names[0] in wanted or q.any() or v.any():
                out |= dict(zip(names, (q, v), strict=True))
            continue
        out["reg_token" if name in ("storage_tokens", "register_tokens") else name] = tensor
    return out


def _timm_filtered(state: State, model: torch.nn.Module) -> State:
    """The state translated by timm's own function for this architecture, if it has one.

    pos_embed and the patch filters bypass it, because timm would resample them to fit: pos_embed is resampled later,
    after the digest is taken (see Weights.sha256), and patch filters that do not fit belong to another backbone.
    """
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return state
    kept = {name: state[name] for name in RESAMPLED_BY_TIMM if name in state and state[name].ndim > 2}
    try:
        return dict(translate({name: t for name, t in state.items() if name not in kept}, model)) | kept
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError):
        return state  # not a file of this architecture; the strict comparison will say what does not fit


def _refuse_differences(state: State, model: torch.nn.Module, verdict: str) -> None:
    wanted = model.state_dict()
    differences = [f"{name} is missing" for name in wanted if name not in state]
    differences += [f"{name} is not the backbone's" for name in state if name not in wanted]
    differences += [
        f"{name} has shape {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
        if not (name == "pos_embed" and _resamplable(state, model))
    ]
    if not differences:
        return
    biased = any(".q_bias is not" in difference for difference in differences)
    hint = "; use the backbone whose name ends in _qkvb" if biased else ""
    raise DrexcacheError(
        f"{verdict}: {len(differences)} tensors differ from its {len(wanted)}, the first:"
        f" {', '.join(differences[:3])}{hint}"
    )


def _prefix_tokens(model: torch.nn.Module) -> int:
    """The number of tokens before the patches that pos_embed covers."""
    return 0 if getattr(model, "no_embed_class", False) else int(getattr(model, "num_prefix_tokens", 1))


def _resamplable(state: State, model: torch.nn.Module) -> bool:
    own, given = getattr(model, "pos_embed", None), state.get("pos_embed")
    if own is None or given is None or given.ndim != 3 or own.ndim != 3 or own.shape == given.shape:
        return False
    patches = given.shape[1] - _prefix_tokens(model)
    square = patches > 0 and int(patches**0.5) ** 2 == patches
    has_grid = hasattr(getattr(model, "patch_embed", None), "grid_size")
    return square and has_grid and given.shape[2] == own.shape[2]
