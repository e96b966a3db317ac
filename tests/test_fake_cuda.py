"""CUDA's code without a GPU: torch's fake tensors follow every operation's device, and end at one that mixes two.

A fake tensor has no values: a step that asks for one, and so would wait for the GPU, ends as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_recipe
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)

from drexcache.features.backbone import Backbone, normalise
from drexcache.features.models import build_model
from drexcache.fusion import training
from drexcache.fusion.head import HIDDEN
from drexcache.fusion.plan import SPAN, Design, HeadSettings, Plan, make_plan
from drexcache.fusion.rows import TrainingData
from drexcache.recipes import Block

CUDA = torch.device("cuda", 0)


class Stream:
    """Stands for a CUDA stream."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.waited: list[Stream] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited.append(other)


class Fake:
    """Inside the fixture "cuda" is a device of fake tensors; what is asked of streams is written down."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.computing, self.recorded = Stream(), list[Stream]()

    def of(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model with fake parameters and buffers."""
        return changed(model, lambda one: self.mode.from_tensor(one.detach()))


def moved(
    model: torch.nn.Module, *, device: Any = None, dtype: torch.dtype | None = None, memory_format: object = None
) -> torch.nn.Module:
    """What `torch.nn.Module.to` does, which cannot do it to fake parameters."""
    return changed(model, lambda one: one.to(device or one.device, dtype if one.is_floating_point() else None))


def changed(model: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.nn.Module:
    for module in model.modules():
        for name, one in [*module.named_parameters(recurse=False)]:
            setattr(module, name, torch.nn.Parameter(change(one.data), requires_grad=False))
        for name, buffer in [*module.named_buffers(recurse=False)]:
            setattr(module, name, change(buffer))
    return model


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    found = Fake()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU that is not there")
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: found.computing)
    monkeypatch.setattr(FakeTensor, "record_stream", lambda self, stream: found.recorded.append(stream), raising=False)
    monkeypatch.setattr(torch.nn.Module, "to", moved)
    with found.mode:
        yield found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("block", tiny_recipe().blocks, ids=lambda block: block.name)
def test_an_extraction_step_stays_on_its_device(block: Block, precision: Any, fake: Fake) -> None:
    with unset_fake_temporarily():  # timm reads values while it builds
        model = build_model(block)
    block = replace(block, precision=precision, flip=True)
    backbone = Backbone(block, fake.of(model), CUDA, weights_sha256="", weights_source="", batch=4)
    assert {one.device for one in backbone.tapped.parameters()} == {CUDA}
    pixels = [np.zeros((3, *block.size), np.uint8) for _ in range(6)]
    features = backbone(pixels)
    assert (features.device, features.dtype, features.shape) == (CUDA, torch.float32, (6, sum(backbone.dims)))
    assert fake.recorded == [fake.computing], "the copied batch's memory could be used again before it was read"
    assert len(fake.computing.waited) == 1, "the batch could be read before it was copied"
    backbone.whole_batches = True  # as behind a CUDA graph
    assert backbone(pixels).shape == (6, sum(backbone.dims))
    assert (
        backbone([np.zeros((3, *block.size), np.float32) for _ in range(2)]).device == CUDA
    )  # as the tensor resize gives them


@pytest.mark.parametrize(
    "settings",
    [{}, {"clip": None, "ema_horizon": 0.1, "arm_dropout": 0.5}, {"offset": 1.0, "dropout": 0.0}],
    ids=["paper", "arm dropout", "offset"],
)
def test_a_training_step_stays_on_its_device_and_waits_for_nothing(
    settings: dict[str, float], fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    design = Design(arms=((0, 3), (3, 8)), width=16, batch_size=8, device="cuda:0")
    heads = [HeadSettings(seed=seed, epochs=2, **settings) for seed in (0, 1)]  # type: ignore[arg-type]
    data = TrainingData(torch.zeros(40, 8, device=CUDA), torch.zeros(40, device=CUDA))

    def plan(n: int, heads: list[HeadSettings], design: Design) -> Plan:
        """The plan is drawn by the CPU's generator and then moved."""
        with unset_fake_temporarily():
            drawn = make_plan(n, heads, replace(design, device="cpu"))
        moved: dict[str, Any] = {
            name: value.to(CUDA) for name, value in vars(drawn).items() if isinstance(value, torch.Tensor)
        }
        return replace(drawn, **moved)

    def masks(self: Plan) -> torch.Tensor:
        return torch.ones(SPAN, *self.index.shape[1:], sum(HIDDEN), device=CUDA)

    def gradients(outputs: torch.Tensor, leaves: list[torch.Tensor], *_: object, **__: object) -> list[torch.Tensor]:
        """Autograd's own engine asks for a real context."""
        return [torch.empty_like(leaf) for leaf in leaves]

    ends: list[torch.Tensor] = []
    monkeypatch.setattr(torch.autograd, "grad", gradients)
    monkeypatch.setattr(Plan, "draw_masks", masks)
    monkeypatch.setattr(training, "make_plan", plan)
    monkeypatch.setattr(training, "_result", lambda k, ema, *_: ends.append(ema))
    training.train_stack(data, heads, design, 1, threading.Event())
    assert [(one.device, len(one)) for one in ends] == [(CUDA, 2)] * 2


def test_a_tensor_on_the_wrong_device_and_one_that_is_waited_for_are_found(fake: Fake) -> None:
    pixels = normalise(torch.zeros(1, 3, 4, 4, device=CUDA), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(RuntimeError, match="on the same device"):
        pixels + torch.zeros(1, 3, 4, 4)
    with pytest.raises(DataDependentOutputException):
        bool(torch.isfinite(pixels).all())
