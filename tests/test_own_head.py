"""A head of the user's own: a torch module is trained, scored, searched, saved and loaded as any other regressor."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from click.testing import CliRunner
from conftest import draw
from sklearn.base import clone
from torch import Tensor, nn
from torch.nn import functional

from drexcache import DrexcacheError, FeatureMatrix, TorchHeadRegressor, load_model, open_cache
from drexcache.cli import main
from drexcache.fusion.own_estimator import import_path_of
from drexcache.regressors import make_regressor, train_model
from drexcache.studies import evaluate
from drexcache.studies.evaluation import predictions_beside

HEADS = """
import torch
from pathlib import Path
from torch import nn
from drexcache import TorchHeadRegressor

Path("trace").touch()


class Gated(nn.Module):
    def __init__(self, widths, hidden=8):
        super().__init__()
        self.values = nn.ModuleDict({arm: nn.Linear(width, hidden) for arm, width in widths.items()})
        self.score = nn.Linear(hidden, 1)

    def forward(self, arms):
        return self.score(sum(torch.tanh(self.values[arm](x)) for arm, x in arms.items()))


class Attentive(Gated):
    def forward(self, arms):
        values = torch.stack([torch.tanh(self.values[arm](x)) for arm, x in arms.items()], 1)  # (batch, n_arms, hidden)
        weights = torch.softmax(self.score(values).squeeze(-1), 1)
        return self.score((weights[..., None] * values).sum(1)), weights


class Greedy(Gated):
    def forward(self, arms):
        return self.score(self.values["cues"](arms["dino"]))


Short = TorchHeadRegressor(Gated, min_steps=20, seeds=2, module__hidden=4)
"""


class Mixed(nn.Module):
    """Two arms, with dropout; what `plain` trains, too."""

    def __init__(self, widths: dict[str, int], hidden: int = 16, rate: float = 0.0) -> None:
        super().__init__()
        self.arms = nn.ModuleDict({arm: nn.Linear(width, hidden) for arm, width in widths.items()})
        self.score = nn.Sequential(nn.GELU(), nn.Dropout(rate), nn.Linear(hidden, 1))

    def forward(self, arms: dict[str, Tensor]) -> Any:
        return self.score(sum(self.arms[arm](x) for arm, x in arms.items()))


class Branching(Mixed):
    """What it computes depends on the numbers: torch.func cannot vectorise it."""

    def forward(self, arms: dict[str, Tensor]) -> Any:
        scores = super().forward(arms)
        return scores if bool(scores.mean() > -1e9) else -scores


class Normed(Mixed):
    """With buffers that training changes."""

    def __init__(self, widths: dict[str, int]) -> None:
        super().__init__(widths)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, arms: dict[str, Tensor]) -> Any:
        return self.score(self.norm(sum(self.arms[arm](x) for arm, x in arms.items())))


def problem(n: int = 96, d: int = 12) -> FeatureMatrix:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)).astype(np.float32)
    y = 1 / (1 + np.exp(-X[:, 0] - X[:, d // 2]))
    arms = {"a": slice(0, d // 2), "b": slice(d // 2, d)}
    return FeatureMatrix(X, y, [f"{i}.png" for i in range(n)], arms, dataset="toy")


def head(module: Any, **settings: Any) -> TorchHeadRegressor:
    return TorchHeadRegressor(
        module, problem().blocks, **{"min_steps": 60, "batch_size": 16, "seeds": 2, "device": "cpu"} | settings
    )


def plain(X: np.ndarray, y: np.ndarray, epochs: int, seed: int, order: Tensor) -> np.ndarray:
    """The recipe as its reader would write it, for one seed of `Mixed` on raw arms; predictions of X."""
    torch.manual_seed(seed)
    model, mean, std = Mixed({"a": 6, "b": 6}), y.mean(), y.std()
    rated = torch.from_numpy((y - mean) / std).float()
    arms = lambda rows: {"a": torch.from_numpy(X[rows, :6]), "b": torch.from_numpy(X[rows, 6:])}  # noqa: E731
    steps = epochs * len(order[0]) // 16
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    average = {name: value.detach().clone() for name, value in model.named_parameters()}
    for batch in order.flatten().split(16):
        loss = functional.huber_loss(model(arms(batch.numpy())).squeeze(1), rated[batch])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        for name, value in model.named_parameters():
            average[name].lerp_(value.detach(), 1 / (0.1 * steps))
    model.load_state_dict(average)
    with torch.no_grad():
        found = mean + std * model.eval()(arms(np.arange(len(X)))).squeeze(1).double().numpy()
    return np.asarray(found)


def test_it_is_trained_as_a_plain_loop_would() -> None:
    matrix = problem()
    fitted = head(Mixed, components=None, linear=0, arm_dropout=0, epochs=10, seeds=3).fit(matrix.X, matrix.y)
    expected = []
    for seed in fitted.seeds_:  # the order of the rows is the recipe's own
        from drexcache.fusion.plan import Design, HeadSettings, make_plan

        plan = make_plan(96, [HeadSettings(seed=seed)], Design(((0, 6), (6, 12)), 1))
        expected.append(plain(matrix.X, matrix.y, 10, seed, plan.index[:, 0].view(10, -1)))
    assert fitted.seeds_ == [42, 10042, 20042] and len(fitted.log_) == 10
    np.testing.assert_allclose(fitted.each_seed(matrix.X)[0], expected, atol=2e-5)
    np.testing.assert_allclose(fitted.predict(matrix.X), np.mean(expected, axis=0), atol=2e-5)


@pytest.mark.parametrize("module", [Mixed, Normed])
def test_stacked_seeds_are_the_seeds_by_themselves(module: Any) -> None:
    matrix = problem()
    together = head(module, seeds=2).fit(matrix.X, matrix.y).each_seed(matrix.X)[0]
    alone = [head(module, seeds=1, random_state=seed).fit(matrix.X, matrix.y).predict(matrix.X) for seed in (42, 10042)]
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_what_cannot_be_vectorised_is_trained_all_the_same_and_said() -> None:
    matrix = problem()
    with pytest.warns(RuntimeWarning, match="Branching cannot be vectorised, so that its seeds are called one after"):
        slow = head(Branching).fit(matrix.X, matrix.y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick = head(Mixed).fit(matrix.X, matrix.y)
    np.testing.assert_allclose(slow.predict(matrix.X), quick.predict(matrix.X), atol=1e-4)


def test_it_learns_repeats_and_leaves_the_random_numbers_alone() -> None:
    matrix = problem()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = head(Mixed, min_steps=300, module__rate=0.2).fit(matrix.X, matrix.y)
    assert torch.equal(torch.get_rng_state(), before)
    again = clone(first).fit(matrix.X, matrix.y)
    np.testing.assert_array_equal(first.predict(matrix.X), again.predict(matrix.X))
    assert first.score(matrix.X, matrix.y) > 0.8
    assert not hasattr(first, "attention")


def test_the_modules_own_settings_are_parameters() -> None:
    model = head(Mixed, module__hidden=4)
    assert {k: v for k, v in model.get_params().items() if "__" in k} == {"module__hidden": 4, "module__rate": 0.0}
    model.set_params(module__rate=0.5, lr=0.01)
    assert clone(model).get_params()["module__rate"] == 0.5 and clone(model).lr == 0.01
    fitted = model.fit(problem().X, problem().y)
    assert fitted.parameters_["score.2.weight"].shape == (2, 1, 4)
    with pytest.raises(ValueError, match="no parameter module__depth of a TorchHeadRegressor"):
        model.set_params(module__depth=3)


def returning(value: Any) -> type[Mixed]:
    """A module that returns what ``value`` makes of its scores and the batch."""
    return type("Odd", (Mixed,), {"forward": lambda self, arms: value(Mixed.forward(self, arms), arms)})


class Wanting(Mixed):
    def forward(self, arms: dict[str, Tensor]) -> Any:
        return super().forward({"a": arms["a"], "b": arms["dino"]})


class Wide(nn.Module):
    def __init__(self, widths: dict[str, int]) -> None:
        super().__init__()
        self.score = nn.Linear(384, 1)

    def forward(self, arms: dict[str, Tensor]) -> Any:
        return self.score(arms["a"])


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Wanting, "Wanting wants the arm 'dino', but the features have: a, b"),
        (Wide, "Wide cannot be called with the arms {'a': 6, 'b': 6}: "),
        (returning(lambda scores, _: scores.squeeze()), "Odd returns scores () for 1 image and 2 arms; expected (1,)"),
        (returning(lambda scores, arms: arms["a"]), "Odd returns scores (1, 6) for 1 image and 2 arms; expected (1,)"),
        (returning(lambda scores, _: (scores, scores)), "Odd returns attention (1, 1) for 1 image and 2 arms"),
        (returning(lambda scores, _: {"score": scores}), "Odd returns scores dict for 1 image and 2 arms"),
        (returning(lambda scores, _: scores / 0), "Odd returns NaN or infinity before it has learnt anything"),
        (returning(lambda scores, _: 1 // 0), "Odd cannot be called with the arms {'a': 6, 'b': 6}: integer division"),
        (lambda widths: nn.Identity(), "<lambda> returns scores dict for 1 image and 2 arms"),
        (lambda widths: 3, "<lambda> makes a int; expected a torch.nn.Module"),
        (Mixed({"a": 6, "b": 6}), "module must be the class of a torch.nn.Module, or make one; found Mixed("),
        ("heads:Gated", "module must be the class of a torch.nn.Module, or make one; found 'heads:Gated'"),
    ],
)  # fmt: skip
def test_a_module_that_does_not_fit_is_refused_in_one_sentence(module: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        head(module).fit(problem().X, problem().y)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_training_that_diverges_is_refused() -> None:
    diverging = returning(lambda scores, _: torch.exp(scores * 1e4).log() * 1e30)
    with pytest.raises(ValueError, match=r"the training of Odd diverged|Odd returns NaN"):
        head(diverging, lr=10.0).fit(problem().X, problem().y)


def test_evaluate_says_which_training_it_was() -> None:
    with pytest.raises(DrexcacheError, match=r"own \(seed 42\), toy → toy: the training failed: Wanting wants the arm"):
        evaluate([problem()], ["own"], make=lambda name, matrix, seed: head(Wanting))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    arguments = ["extract", str(draw(folder / "pictures", 30)), "--recipe", "classic", "-o", str(folder / "c.h5")]
    assert CliRunner().invoke(main, [*arguments, "--range", "0", "100"]).exit_code == 0
    return folder / "c.h5"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is on the path, with a module of heads."""
    name = f"heads_{tmp_path.name[-12:].replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(HEADS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output


def test_every_command_takes_it_by_its_path(cache: Path, folder: Path) -> None:
    heads = next(folder.glob("heads_*.py")).stem
    run("evaluate", cache, "-r", f"{heads}:Attentive", "-r", "ridge", "--folds", "2", "-o", "scores.csv")
    assert f"{heads}:Attentive" in Path("scores.csv").read_text()
    assert "attention_cues" in predictions_beside("scores.csv").read_text().splitlines()[0]
    run("compare", "scores.csv")
    run("report", "scores.csv", "-o", "report.html")
    Path("space.toml").write_text(f'["{heads}:Short"]\nmodule__hidden = [4, 8]\nmin_steps = 20\n')
    search = ("search", cache, "-r", f"{heads}:Short", "-o", "found", "--split", "none", "--space", "space.toml")
    run(*search, "--trust", "--total-trials", "2", "--folds", "2")
    assert json.loads(Path("found/best.json").read_text())["settings"]["module__hidden"] in (4, 8)
    run("train", cache, "--from", "found/best.json", "--trust", "-o", "best.drex", "--log", "log.csv")
    assert len(Path("log.csv").read_text().splitlines()) > 5
    said = run("evaluate", cache, "-r", f"{heads}:Greedy", "-o", "none.csv", code=1)
    assert said.endswith("the training failed: Greedy wants the arm 'dino', but the features have: cues\n")
    said = run("train", cache, "-r", f"{heads}:Greedy", "-o", "none.drex", code=1)
    assert "cannot be trained: Greedy wants the arm 'dino', but the features have: cues" in said


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_file_keeps_it_and_its_code_runs_only_when_trusted(cache: Path, folder: Path, stream: bool) -> None:
    heads = next(folder.glob("heads_*.py")).stem
    run("train", cache, "-r", f"{heads}:Short", "-o", "m.drex", *(["--stream"] if stream else []))
    matrix = open_cache(cache).matrix()
    expected = make_regressor(f"{heads}:Short", matrix).fit(matrix.X, matrix.y).predict(matrix.X)
    Path("trace").unlink()
    said = run("predict", "m.drex", cache, "-o", "p.csv", code=1)
    assert said == (
        f"Error: m.drex: its head is the module {heads}:Gated, and importing it would run its code; if you trust this "
        "file, add --trust (in Python: load_model(path, trust=True))\n"
    )
    run("predict", "m.drex", cache, "-o", "p.csv", "--trust")
    model = load_model("m.drex", trust=True)
    np.testing.assert_allclose(model.estimator.predict(matrix.X), expected, atol=1e-6)
    np.testing.assert_allclose(model.predict(open_cache(cache)).value, 100 * expected, atol=1e-4)


def altered(**fields: Any) -> None:
    """m.drex with other values in its head's state."""
    with safetensors.safe_open("m.drex", framework="numpy") as file:
        meta, tensors = json.loads(file.metadata()["drexcache"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, value in fields.items():
        if name in tensors:
            tensors[name] = value
        else:
            meta["state"][name] = value
    Path("other.drex").write_bytes(safetensors.numpy.save(tensors, {"drexcache": json.dumps(meta)}))


def test_a_model_file_that_was_altered_is_refused(cache: Path, folder: Path) -> None:
    heads = next(folder.glob("heads_*.py")).stem
    run("train", cache, "-r", f"{heads}:Short", "-o", "m.drex")
    weight = "parameter.score.weight"
    for fields, message in [
        ({"module": "os:abort"}, "os:abort is a value of type builtin_function_or_method, where the class of a torch"),
        ({"module": "no_such:Head"}, "module 'no_such' cannot be imported"),
        ({weight: np.zeros((2, 1, 5), "f4")}, "expected ((2, 1, 4), 'float32'), found"),
        ({weight: np.full((2, 1, 4), math.nan, "f4")}, "holds NaN or infinite numbers"),
        ({"basis.0.matrix": np.zeros((3, 2))}, "the basis of columns slice(0, 16, None) has the wrong shape or type"),
    ]:
        altered(**fields)
        with pytest.raises(DrexcacheError) as caught:
            load_model("other.drex", trust=True)
        assert message in str(caught.value)


def test_a_class_without_a_file_predicts_but_is_not_saved(cache: Path, tmp_path: Path) -> None:
    class Local(Mixed):
        pass

    opened = open_cache(cache)
    matrix = opened.matrix()
    trained = train_model("ridge", matrix, opened, ("cues",), 42)
    own = TorchHeadRegressor(Local, matrix.blocks, min_steps=20, seeds=1).fit(matrix.X, matrix.y)
    model = replace(trained, estimator=own)
    assert len(model.predict(opened).value) == 30
    with pytest.raises(
        DrexcacheError, match="keeps a head of your own by the import path of its class, and this one has"
    ):
        model.save(tmp_path / "m.drex")
    assert not (tmp_path / "m.drex").exists()
    assert import_path_of(Mixed) == "test_own_head:Mixed" and import_path_of(lambda widths: Mixed(widths, 4)) == ""
