"""timm's models: their names, their normalisation, and building one. timm is imported when it is needed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from drexcache.errors import DrexcacheError, nearest
from drexcache.recipes import Block

if TYPE_CHECKING:
    import torch


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
