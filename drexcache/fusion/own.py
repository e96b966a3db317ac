"""Heads that a user wrote: K copies of one torch module, stacked by torch.func, and their training."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from drexcache.errors import several
from drexcache.fusion.head import parameter_views
from drexcache.fusion.plan import Design, HeadSettings, Plan, make_plan, step_rates
from drexcache.fusion.rows import Inputs, Scaling, TrainingData
from drexcache.fusion.step import clip_adamw_ema
from drexcache.fusion.training import LogRow, huber
from drexcache.progress import step_bar

Arrays = dict[str, Tensor]
MakeModule = Callable[..., nn.Module]


class OwnHeads:
    """One module for each seed: parameters flat (K, P), buffers (K, *shape), all called as one.

    make : called with the arms' widths, name -> columns, and ``settings``. columns : of each arm of the features x.
    sample : (rows, d) of them; the modules are tried on it.

    Raises
    ------
    ValueError : what is made is no module or has nothing to train, or its forward cannot be called with these arms,
        or does not return finite scores (batch,) or (batch, 1) and, if it likes, attention (batch, n_arms).
    """

    def __init__(
        self, make: MakeModule, settings: Mapping[str, Any], columns: Mapping[str, slice], seeds: Sequence[int],
        sample: Tensor,
    ) -> None:  # fmt: skip
        self.name, self.columns = getattr(make, "__name__", repr(make)), columns
        modules = [self._made(make, settings, seed).to(sample.device) for seed in seeds]
        with torch.no_grad():  # the first call also tells lazy layers their width
            tried = [self._plain(module.eval(), rows) for module in modules for rows in (sample[:1], sample)]
        self.has_attention = len(tried[0]) > 1
        self.starts_finite = all(bool(torch.isfinite(scores).all()) for scores, *_ in tried)
        self.base = modules[0].train()
        parameters, buffers = stack_module_state([module.train() for module in modules])
        trained = {name: value.detach() for name, value in parameters.items() if value.requires_grad}
        if not trained:
            raise ValueError(f"{self.name} has no parameters to train")
        self.shapes = {name: tuple(value.shape[1:]) for name, value in trained.items()}
        self.flat = torch.cat([value.flatten(1) for value in trained.values()], dim=1).float()
        frozen = {name: value.detach() for name, value in parameters.items() if name not in trained}
        self.buffers: Arrays = {name: value.clone() for name, value in (buffers | frozen).items()}
        self.stacked = vmap(self._one, in_dims=(0, 0, 0), randomness="different")
        self.is_stacked = len(seeds) > 1 and self._can_be_stacked(sample)

    def __call__(self, parameters: Arrays, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores (K, B) and attention (K, B, n_arms), None where the module returns none, of x (K, B, d)."""
        if self.is_stacked:
            with sdpa_kernel(SDPBackend.MATH):  # of torch's ways to attend, the one that can be vectorised
                out = self.stacked(parameters, self.buffers, x)
        else:
            heads = [self._one(_of_head(parameters, k), _of_head(self.buffers, k), rows) for k, rows in enumerate(x)]
            out = tuple(torch.stack(parts) for parts in zip(*heads, strict=True))
        return out[0], out[1] if len(out) > 1 else None

    def _made(self, make: MakeModule, settings: Mapping[str, Any], seed: int) -> nn.Module:
        widths = {name: cols.stop - cols.start for name, cols in self.columns.items()}
        torch.manual_seed(seed)
        with self._in_one_sentence("be made"):
            module = make(widths, **settings)
        if not isinstance(module, nn.Module):
            raise ValueError(f"{self.name} makes a {type(module).__name__}; expected a torch.nn.Module")
        return module

    def _one(self, parameters: Arrays, buffers: Arrays, x: Tensor) -> tuple[Tensor, ...]:
        """Of one head's features x (B, d)."""
        return self._plain(lambda arms: functional_call(self.base, (parameters, buffers), (arms,)), x)

    def _plain(self, call: Callable[[Arrays], Any], x: Tensor) -> tuple[Tensor, ...]:
        """Scores (B,) and, if the module returns it, attention (B, n_arms) of features x (B, d)."""
        with self._in_one_sentence("be called"):
            out = call({name: x[:, cols] for name, cols in self.columns.items()})
        scores, *attention = out if isinstance(out, tuple) else (out,)
        wanted = {"scores": ((len(x),), (len(x), 1)), "attention": ((len(x), len(self.columns)),)}
        for part, (what, shapes) in zip((scores, *attention), wanted.items(), strict=False):
            found = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            if found not in shapes:
                raise ValueError(
                    f"{self.name} returns {what} {found} for {several(len(x), 'image')} and "
                    f"{several(len(self.columns), 'arm')}; expected {' or '.join(map(str, shapes))}"
                )
        return (scores.reshape(len(x)), *attention[:1])

    @contextmanager
    def _in_one_sentence(self, what: str) -> Iterator[None]:
        """Whatever the user's own code raises."""
        widths = {name: cols.stop - cols.start for name, cols in self.columns.items()}
        try:
            yield
        except KeyError as error:
            raise ValueError(
                f"{self.name} wants the arm {error}, but the features have: {', '.join(widths)}"
            ) from error
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{self.name} cannot {what} with the arms {widths}: {reason}") from error

    def _can_be_stacked(self, sample: Tensor) -> bool:
        """Whether torch.func can vectorise the module; if not, why is said."""
        before = {name: value.clone() for name, value in self.buffers.items()}
        leaves = {name: view.clone().requires_grad_() for name, view in parameter_views(self.flat, self.shapes).items()}
        x = sample.expand(len(self.flat), *sample.shape)
        try:
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                self.stacked(leaves, self.buffers, x)[0].sum().backward()
        except Exception as error:  # torch raises whatever it stumbles over
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(
                f"{self.name} cannot be vectorised, so that its seeds are called one after the other, which is slower "
                f"({reason})", RuntimeWarning, stacklevel=2,
            )  # fmt: skip
            return False
        finally:
            self.buffers = before
        return True


@dataclass(frozen=True)
class TrainedModules:
    """K heads: parameters and buffers, name -> (K, *shape); their inputs' scaling; a row per epoch, the heads' mean."""

    parameters: dict[str, np.ndarray]
    buffers: dict[str, np.ndarray]
    scaling: Scaling
    log: list[LogRow]


def train_modules(
    data: TrainingData, heads: Sequence[HeadSettings], design: Design, own: OwnHeads, *, verbose: bool = False
) -> TrainedModules:
    """Train K heads that are alike but for their seeds, by the recipe of `drexcache.fusion.training.train_stack`.

    Raises
    ------
    ValueError : the training diverges.
    """
    plan = replace(make_plan(len(data.y), heads, replace(design, width=1)), init=own.flat)
    inputs = Inputs(data, heads, plan, design.columns)
    flat, ema = own.flat, own.flat.clone()
    losses = torch.zeros(len(plan.lr), len(heads), device=flat.device)  # (T, K)
    leaves = {name: view.detach().requires_grad_() for name, view in parameter_views(flat, own.shapes).items()}
    gradient = torch.zeros_like(flat)
    buffers = (flat, gradient, torch.zeros_like(flat), torch.zeros_like(flat), ema)
    rates = torch.from_numpy(step_rates(heads, plan)).to(flat.device)
    clip = torch.tensor([[math.inf if head.clip is None else head.clip] for head in heads], device=flat.device)
    with step_bar("train", "step") if verbose else nullcontext(lambda *_: None) as show:
        for t in range(len(losses)):
            show(t, len(losses), own.name)
            scores, _ = own(leaves, inputs.batch(t))  # (K, B)
            losses[t], d_scores = huber(scores.detach(), data.y[plan.index[t]], plan.weight[t])
            parts = torch.autograd.grad(
                scores, list(leaves.values()), d_scores, allow_unused=True, materialize_grads=True
            )
            torch.cat([part.flatten(1) for part in parts], dim=1, out=gradient)
            clip_adamw_ema(buffers, rates[t], clip)
    return _result(own, ema, losses, plan, inputs.scalings[0])


def _result(own: OwnHeads, ema: Tensor, losses: Tensor, plan: Plan, scaling: Scaling) -> TrainedModules:
    curve = losses.mean(1).cpu().double().numpy()
    if not np.isfinite(curve).all() or not bool(torch.isfinite(ema).all()):
        raise ValueError(
            f"the training of {own.name} diverged, its loss is no longer finite: lower lr, or scale inside"
        )
    per_epoch = int(plan.steps[0, 1])
    log: list[LogRow] = [
        {"epoch": epoch, "loss": float(part.mean()), "lr": float(plan.lr[epoch * per_epoch - 1, 0])}
        for epoch, part in enumerate(np.split(curve, len(curve) // per_epoch), start=1)
    ]
    parts = (parameter_views(ema, own.shapes), own.buffers)
    parameters, buffers = ({name: value.cpu().numpy().copy() for name, value in part.items()} for part in parts)
    return TrainedModules(parameters, buffers, scaling, log)


def _of_head(stacked: Arrays, k: int) -> Arrays:
    """Parameters or buffers of the k-th of several heads."""
    return {name: value[k] for name, value in stacked.items()}
