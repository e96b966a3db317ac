"""The fusion head: exact beside an independent implementation, stacked as alone, a proper estimator."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn
from torch.nn import functional

from drexcache.fusion import PRESETS, AttentionFusionRegressor, fit_many
from drexcache.fusion_head import fuse, init_head, parameter_shapes, parameter_views, project
from drexcache.fusion_plan import Design, HeadSettings, make_plan, one_cycle
from drexcache.fusion_training import adamw_and_ema, train_heads

ARMS = {"dino": slice(0, 12), "resnet": slice(12, 40)}
DESIGN = Design(((0, 12), (12, 40)), width=24, batch_size=16)


def problem(n: int = 120, d: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features and ratings on [0, 1] that depend on them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(np.float32)
    y = 1 / (1 + np.exp(-X[:, 0] - np.abs(X[:, 20])))
    return X, y


class PlainHead(nn.Module):
    """The paper's head, written with plain torch modules."""

    def __init__(self, dims: list[int], width: int, dropout: float) -> None:
        super().__init__()
        self.dims = dims
        self.arms = nn.ModuleList(
            nn.Sequential(nn.Linear(d, width), nn.LayerNorm(width), nn.GELU()) for d in dims
        )
        self.attention = nn.Sequential(
            nn.Linear(width * len(dims), 128), nn.Tanh(), nn.Linear(128, len(dims))
        )
        self.temperature = nn.Parameter(torch.tensor(0.7))
        self.alpha = nn.Parameter(torch.tensor(0.1))
        layers: list[nn.Module] = []
        for a, b in ((width, 128), (128, 64), (64, 32)):
            layers += [nn.Linear(a, b), nn.GELU(), nn.Dropout(dropout)]
        self.head = nn.Sequential(*layers, nn.Linear(32, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        arms = [arm(part) for arm, part in zip(self.arms, x.split(self.dims, 1), strict=True)]
        weights = torch.softmax(self.attention(torch.cat(arms, 1)) / self.temperature, 1)
        fused = sum(weights[:, i, None] * a for i, a in enumerate(arms)) + self.alpha * sum(arms)
        return self.head(functional.layer_norm(fused, fused.shape[1:])).squeeze(1)

    def by_our_names(self) -> dict[str, torch.Tensor]:
        """Its parameters under our names and in our orientation."""
        named = {f"arm.{i}.weight": arm[0].weight.T for i, arm in enumerate(self.arms)}
        named["arm.bias"] = torch.stack([arm[0].bias for arm in self.arms])
        named["arm.norm.weight"] = torch.stack([arm[1].weight for arm in self.arms])
        named["arm.norm.bias"] = torch.stack([arm[1].bias for arm in self.arms])
        for ours, layer in {"attention.0": self.attention[0], "attention.1": self.attention[2]}.items():
            named |= {f"{ours}.weight": layer.weight.T, f"{ours}.bias": layer.bias}
        for i in range(4):
            named |= {f"head.{i}.weight": self.head[3 * i].weight.T, f"head.{i}.bias": self.head[3 * i].bias}
        return named | {"temperature": self.temperature, "alpha": self.alpha}

    def load_ours(self, parameters: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name in ("arm.bias", "arm.norm.weight", "arm.norm.bias"):
                for i, arm in enumerate(self.arms):
                    target = {"arm.bias": arm[0].bias, "arm.norm.weight": arm[1].weight}.get(
                        name, arm[1].bias
                    )
                    target.copy_(parameters[name][i])
            for name, own in self.by_our_names().items():
                if name not in ("arm.bias", "arm.norm.weight", "arm.norm.bias"):
                    own.copy_(parameters[name])


def plain_training(model: PlainHead, X: np.ndarray, y: np.ndarray, batches: list[np.ndarray]) -> dict:
    """The paper's loop with torch's own optimiser, schedule and clipping; returns the averaged parameters."""
    X_all, y_all = torch.from_numpy(X), torch.from_numpy(y.astype(np.float32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=len(batches))
    ema = {name: p.detach().clone() for name, p in model.by_our_names().items()}
    for rows in batches:
        optimizer.zero_grad()
        functional.huber_loss(model(X_all[rows]), y_all[rows]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        for name, p in model.by_our_names().items():
            ema[name] = 0.999 * ema[name] + 0.001 * p.detach()
    return ema


@pytest.mark.parametrize("stack", [1, 2])
def test_fifty_steps_agree_with_a_plain_implementation(stack: int) -> None:
    X, y = problem(n=75)  # 5 batches an epoch, the last of 11 rows
    y = 4 * y  # errors beyond Huber's delta and gradients beyond the clipping norm
    heads = [HeadSettings(dropout=0.0, seed=3), HeadSettings(dropout=0.0, seed=4)][:stack]
    plan = make_plan(len(X), heads, DESIGN)
    trained = train_heads(X, y, heads, DESIGN, stack=stack)
    for k, head in enumerate(trained):
        model = PlainHead([12, 28], 24, 0.0)
        model.load_ours({name: view[k] for name, view in parameter_views(plan.init, SHAPES).items()})
        batches = [plan.index[t, k][plan.weight[t, k] > 0].numpy() for t in range(50)]
        assert sorted(np.concatenate(batches[5:10])) == list(range(75)), "an epoch is each row once"
        ema = plain_training(model, X, y, batches)
        for name, value in ema.items():
            np.testing.assert_allclose(head.parameters[name], value.numpy(), atol=1e-5, err_msg=name)


def test_the_trained_parameters_behind_the_average_agree_too() -> None:
    """With ema=0 the result is the last step's parameters: EMA's slow weights hide no difference."""
    X, y = problem(n=75)
    head = HeadSettings(dropout=0.0, ema=0.0)
    plan = make_plan(len(X), [head], DESIGN)
    model = PlainHead([12, 28], 24, 0.0)
    model.load_ours({name: view[0] for name, view in parameter_views(plan.init.clone(), SHAPES).items()})
    plain_training(model, X, y, [plan.index[t, 0][plan.weight[t, 0] > 0].numpy() for t in range(50)])
    (trained,) = train_heads(X, y, [head], DESIGN)
    for name, value in model.by_our_names().items():
        np.testing.assert_allclose(trained.parameters[name], value.detach().numpy(), atol=1e-5, err_msg=name)


SHAPES = parameter_shapes([12, 28], 24)


def test_size_and_default_settings_are_the_papers() -> None:
    assert sum(math.prod(shape) for shape in parameter_shapes([384, 3840]).values()) == 1_782_661
    assert sum(p.numel() for p in PlainHead([384, 3840], 384, 0.1).parameters()) == 1_782_661
    assert AttentionFusionRegressor().get_params() == {
        "arms": None,
        "width": 384,
        "dropout": 0.1,
        "lr": 1e-3,
        "weight_decay": 0.01,
        "epochs": 10,
        "batch_size": 16,
        "clip": 1.0,
        "ema": 0.999,
        "ema_horizon": None,
        "standardize": False,
        "seeds": 1,
        "random_state": 42,
        "device": "auto",
        "verbose": False,
    }
    assert PRESETS["fusion-paper"] == {}


@pytest.mark.parametrize("steps", [1, 3, 50, 101])
def test_one_cycle_is_torchs(steps: int) -> None:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps)
    factor, beta1 = one_cycle(steps)
    for t in range(steps):
        group = optimizer.param_groups[0]
        assert (factor[t], beta1[t]) == pytest.approx((group["lr"], group["betas"][0]), rel=1e-9, abs=1e-12)
        optimizer.step()
        schedule.step()


def test_initial_parameters_have_the_ranges_of_torchs_layers() -> None:
    flat = init_head([12, 28], 24, torch.Generator().manual_seed(0))
    ours = {name: view[0] for name, view in parameter_views(flat[None], SHAPES).items()}
    theirs = {name: p.detach() for name, p in PlainHead([12, 28], 24, 0.0).by_our_names().items()}
    assert {name: tuple(p.shape) for name, p in ours.items()} == {
        name: tuple(p.shape) for name, p in theirs.items()
    }
    for name, value in ours.items():
        if value.numel() >= 64:  # two uniform samples of 64 differ by less in their largest value and spread
            assert float(value.abs().max()) == pytest.approx(float(theirs[name].abs().max()), rel=0.15), name
            assert float(value.std()) == pytest.approx(float(theirs[name].std()), rel=0.25, abs=1e-6), name


def test_dropout_masks_have_their_rate_and_differ_by_head() -> None:
    heads = [HeadSettings(dropout=0.1), HeadSettings(dropout=0.5), HeadSettings(dropout=0.5, seed=7)]
    masks = make_plan(64, heads, DESIGN).draw_masks()  # (SPAN, K, B, 224)
    assert [sorted(m.unique().tolist()) for m in masks.unbind(1)] == [
        [0, pytest.approx(1 / 0.9)],
        [0, 2],
        [0, 2],
    ]
    assert [float((m == 0).float().mean()) for m in masks.unbind(1)] == pytest.approx(
        [0.1, 0.5, 0.5], abs=0.01
    )
    assert not torch.equal(masks[:, 1], masks[:, 2])


def test_stacked_heads_equal_heads_trained_alone() -> None:
    """Other settings, seeds and numbers of rows in one stack; heads with fewer steps wait for the others."""
    X, y = problem()
    folds = [None, np.arange(0, 80), np.arange(30, 97), np.arange(100)]
    base = AttentionFusionRegressor(ARMS, width=24, epochs=3, ema=0.9)
    settings = [
        {"random_state": 1},
        {"lr": 3e-3, "weight_decay": 0.2, "standardize": True},
        {"dropout": 0.4, "ema": 0.97, "clip": 0.05, "epochs": 2},
        {"ema_horizon": 0.2, "clip": None, "seeds": 2},
    ]
    models = [clone(base).set_params(**changed) for changed in settings]
    together = fit_many(models, X, y, folds, stack=5)
    for model, rows, stacked in zip(models, folds, together, strict=True):
        pick = slice(None) if rows is None else rows
        alone = clone(model).fit(X[pick], y[pick])
        np.testing.assert_allclose(stacked.predict(X), alone.predict(X), atol=1e-5)
        assert [row["epoch"] for row in stacked.log_] == list(range(1, model.epochs + 1))
        assert [row["loss"] for row in stacked.log_] == pytest.approx(
            [row["loss"] for row in alone.log_], rel=1e-4
        )
    assert np.ptp([model.predict(X) for model in together], axis=0).min() > 1e-4, "the settings did differ"


def test_fused_and_stacked_updates_agree() -> None:
    """`adamw_and_ema` is torch.optim.AdamW for each head's own rates."""
    torch_rng = torch.Generator().manual_seed(0)
    start = torch.randn(2, 50, generator=torch_rng)
    grads = torch.randn(6, 2, 50, generator=torch_rng)
    lr, decay = [1e-2, 3e-3], [0.0, 0.3]
    buffers = (start.clone(), torch.empty(2, 50), torch.zeros(2, 50), torch.zeros(2, 50), start.clone())
    rows = [nn.Parameter(row.clone()) for row in start]
    groups = [{"params": [p], "lr": a, "weight_decay": b} for p, a, b in zip(rows, lr, decay, strict=True)]
    optimizer = torch.optim.AdamW(groups)
    for t, grad in enumerate(grads, start=1):
        buffers[1].copy_(grad)
        c = math.sqrt(1 - 0.999**t)
        rates = [
            [1 - a * b, a * c / (1 - 0.9**t), 0.1, 1e-8 * c, 0.5] for a, b in zip(lr, decay, strict=True)
        ]
        adamw_and_ema(buffers, torch.tensor(rates).T[..., None])
        for p, g in zip(rows, grad, strict=True):
            p.grad = g
        optimizer.step()
    torch.testing.assert_close(buffers[0], torch.stack([p.detach() for p in rows]), rtol=1e-5, atol=1e-6)


def test_same_seed_same_result_and_the_callers_generator_is_left_alone() -> None:
    X, y = problem()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (
        AttentionFusionRegressor(ARMS, width=24, epochs=2, ema=0.5, random_state=seed).fit(X, y).predict(X)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert torch.equal(before, torch.get_rng_state())


def test_it_learns_and_fusion_learns_from_few_rows() -> None:
    X, y = problem(n=600)
    for settings in ({"lr": 5e-3, "ema": 0.95}, PRESETS["fusion"] | {"lr": 5e-3}):
        model = AttentionFusionRegressor(ARMS, width=64, **settings).fit(X[:400], y[:400])
        assert np.corrcoef(model.predict(X[400:]), y[400:])[0, 1] > 0.8
        assert model.log_[-1]["loss"] < model.log_[0]["loss"] / 2


def test_seeds_predict_their_mean_and_spread() -> None:
    X, y = problem()
    model = AttentionFusionRegressor(ARMS, width=24, epochs=2, ema=0.5, seeds=3).fit(X, y)
    singles = np.stack(
        [clone(model).set_params(seeds=1, random_state=s).fit(X, y).predict(X) for s in (42, 43, 44)]
    )
    mean, std = model.predict(X, return_std=True)
    np.testing.assert_allclose(mean, singles.mean(0), atol=1e-6)
    np.testing.assert_allclose(std, singles.std(0, ddof=1), atol=1e-6)
    with pytest.raises(ValueError, match="fit with seeds=2 or more"):
        clone(model).set_params(seeds=1).fit(X, y).predict(X, return_std=True)


def test_attention_sums_to_one_and_is_what_the_forward_pass_used() -> None:
    X, y = problem()
    model = AttentionFusionRegressor(
        {"b": (30, 40), "a": slice(0, 12), "c": slice(12, 20)}, width=24, epochs=2
    )
    weights = model.fit(X, y).attention(X)
    assert (model.arms_, weights.shape) == (["b", "a", "c"], (120, 3))
    np.testing.assert_allclose(weights.sum(1), 1.0)
    p = {name: torch.from_numpy(value) for name, value in model.parameters_.items()}
    x = torch.from_numpy(X)[None]
    _, expected = fuse(p, project(p, x, [slice(30, 40), slice(0, 12), slice(12, 20)]))
    np.testing.assert_allclose(weights, expected[0].numpy(), atol=1e-6)
    assert AttentionFusionRegressor(width=8, epochs=1).fit(X, y).attention(X).tolist() == [[1.0]] * 120


def test_standardize_ignores_the_scale_of_features() -> None:
    X, y = problem()
    stretched = (X * np.linspace(0.01, 100, 40) + 3).astype(np.float32)
    stretched[:, 5] = X[:, 5] = 7.0  # a constant feature is no division by zero
    model = AttentionFusionRegressor(ARMS, width=24, epochs=2, ema=0.5, standardize=True)
    np.testing.assert_allclose(
        clone(model).fit(X, y).predict(X), clone(model).fit(stretched, y).predict(stretched), atol=1e-3
    )


def test_state_goes_through_arrays_and_json() -> None:
    X, y = problem()
    model = AttentionFusionRegressor(ARMS, width=24, epochs=2, standardize=True, seeds=2).fit(X, y)
    arrays, settings = model.get_state()
    assert {str(array.dtype) for array in arrays.values()} == {"float32"}
    settings = json.loads(json.dumps(settings))
    loaded = AttentionFusionRegressor.from_state(arrays, settings)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert (loaded.arms_, loaded.log_) == (model.arms_, model.log_)
    assert loaded.get_params()["arms"] == {"dino": [0, 12], "resnet": [12, 40]}
    arrays["alpha"] = arrays["alpha"][:1]
    with pytest.raises(
        ValueError, match=r"array 'alpha' .* expected \(\(2,\), 'float32'\), found \(\(1,\), 'float32'\)"
    ):
        AttentionFusionRegressor.from_state(arrays, settings)
    with pytest.raises(ValueError, match="unknown settings of a fusion head: depth"):
        AttentionFusionRegressor.from_state(arrays, settings | {"params": {"depth": 3}})


def test_log_is_a_table(tmp_path) -> None:
    X, y = problem()
    log = AttentionFusionRegressor(ARMS, width=8, epochs=3).fit(X, y).log_
    with (tmp_path / "log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, log[0])
        writer.writeheader()
        writer.writerows(log)
    assert (tmp_path / "log.csv").read_text().splitlines()[0] == "epoch,loss,lr"
    assert [row["epoch"] for row in log] == [1, 2, 3]
    assert log[-1]["lr"] == pytest.approx(1e-3 / 25e4)


BAD = {
    "NaN": (lambda X, y: X.__setitem__((3, 2), np.nan), {}, "X has NaN or inf in row 3; leave such rows out"),
    "many": (lambda X, y: X.__setitem__((slice(0, 9), 2), np.inf), {}, "row 0, 1, 2, 3, 4 and 4 more"),
    "rating": (lambda X, y: y.__setitem__(5, np.nan), {}, "Input y contains NaN"),
    "constant": (lambda X, y: y.fill(0.5), {}, r"y is constant \(0.5 in all 120 rows\)"),
    "outside": (None, {"arms": {"a": (0, 41)}}, "arm 'a' names columns 0 to 41, but X has columns 0 to 40"),
    "overlap": (None, {"arms": {"a": (0, 9), "b": (8, 40)}}, "arms 'a' and 'b' overlap in column 8"),
    "no arms": (None, {"arms": {}}, "arms must map names to columns"),
    "setting": (None, {"dropout": 1.5}, "dropout must be a number from 0 to 0.99, found 1.5"),
    "count": (None, {"epochs": 2.5}, "epochs must be a whole number of at least 1, found 2.5"),
    "diverges": (lambda X, y: y.__imul__(1e38), {"clip": None, "lr": 1e30}, "training diverged"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case: str) -> None:
    spoil, settings, message = BAD[case]
    X, y = problem()
    if spoil:
        spoil(X, y)
    with pytest.raises(ValueError, match=message):
        AttentionFusionRegressor(**{"width": 8, "epochs": 1} | settings).fit(X, y)


def test_bad_rows_of_fit_many() -> None:
    X, y = problem()
    small = AttentionFusionRegressor(width=8, epochs=1)
    with pytest.raises(ValueError, match="at least 2 rows to train on, found 1"):
        fit_many([small], X, y, [np.array([4])])
    with pytest.raises(ValueError, match="2 estimators but 1 sets of rows"):
        fit_many([small, small], X, y, [None])


def test_it_works_inside_scikit_learn() -> None:
    X, y = problem()
    small = AttentionFusionRegressor(ARMS, width=8, epochs=1)
    assert cross_val_score(make_pipeline(StandardScaler(), small), X, y, cv=3).shape == (3,)
    search = GridSearchCV(small, {"lr": [1e-9, 3e-2], "ema": [0.5]}, cv=2).fit(X, y)
    assert search.best_params_ == {"lr": 3e-2, "ema": 0.5}


@parametrize_with_checks([AttentionFusionRegressor(width=8, epochs=2)])
def test_scikit_learns_contract(estimator, check) -> None:
    check(estimator)
