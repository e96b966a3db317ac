"""Pairwise choices become scores with errors: against logistic regression, autograd and simulated truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression

from drexcache import DrexcacheError, open_cache
from drexcache.cli import main
from drexcache.datasets import Target, match_comparisons, read_comparisons
from drexcache.datasets.comparisons import Comparisons, bradley_terry


def choices(n: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """True scores (n,), and k comparisons by the model: first, second, won (k,)."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(scale=1.5, size=n)
    first = rng.integers(0, n, k)
    second = (first + rng.integers(1, n, k)) % n
    won = (rng.random(k) < 1 / (1 + np.exp(truth[second] - truth[first]))).astype(float)
    return truth, first, second, won


def variance_of(scores: np.ndarray, comparisons: tuple[np.ndarray, ...], n: int) -> float:
    """The variance that scores were found with: where the loss is flat, gradient + scores / variance = 0."""
    first, second, won, weight = comparisons
    slope = weight * (1 / (1 + np.exp(scores[second] - scores[first])) - won)
    gradient = np.bincount(first, slope, n) - np.bincount(second, slope, n)
    return float(-(scores @ scores) / (scores @ gradient))


def test_scores_are_those_of_a_penalised_logistic_regression() -> None:
    n, k = 30, 400
    _, first, second, won = choices(n, k)
    weight = np.random.default_rng(1).integers(1, 4, k).astype(float)
    scores, _ = bradley_terry(first, second, won, weight, n)
    design = np.zeros((k, n))
    design[np.arange(k), first], design[np.arange(k), second] = 1, -1
    variance = variance_of(scores, (first, second, won, weight), n)
    oracle = LogisticRegression(C=variance, fit_intercept=False, tol=1e-10, max_iter=10_000)
    oracle.fit(design, won, sample_weight=weight)
    np.testing.assert_allclose(scores, oracle.coef_[0], atol=2e-3)


def test_errors_are_the_curvature_that_autograd_finds() -> None:
    n = 12
    _, first, second, won = choices(n, 150)
    scores, errors = bradley_terry(first, second, won, np.ones(150), n)
    variance = variance_of(scores, (first, second, won, np.ones(150)), n)

    def loss(s: torch.Tensor) -> torch.Tensor:
        gap = s[torch.from_numpy(first)] - s[torch.from_numpy(second)]
        return (torch.nn.functional.softplus(gap) - torch.from_numpy(won) * gap).sum() + (s**2).sum() / (2 * variance)

    curvature = torch.autograd.functional.hessian(loss, torch.from_numpy(scores)).numpy()
    expected = np.sqrt(np.diag(np.linalg.inv(curvature)) - variance / n)
    np.testing.assert_allclose(errors, expected, rtol=1e-3)


def test_a_tie_is_half_a_win_for_each() -> None:
    _, first, second, won = choices(8, 60)
    won[:20] = 0.5
    tied = bradley_terry(first, second, won, np.ones(60), 8)
    twice = np.concatenate([np.arange(20), np.arange(60)])
    halves = np.concatenate([np.ones(20), np.zeros(20), won[20:]])
    split = bradley_terry(first[twice], second[twice], halves, np.concatenate([np.full(40, 0.5), np.ones(40)]), 8)
    np.testing.assert_allclose(tied, split, atol=1e-5)


def test_errors_and_ceiling_are_true_of_simulated_truth() -> None:
    inside, ceilings, correlations = [], [], []
    for seed in range(20):
        truth, first, second, won = choices(60, 700, seed)
        ids = [f"{at:02}.png" for at in range(60)]
        frame = pd.DataFrame({"left": [ids[a] for a in first], "right": [ids[b] for b in second],
                              "choice": np.where(won == 1, "left", "right")})  # fmt: skip
        target = match_comparisons(ids, read_comparisons(frame)).target
        scores, errors = bradley_terry(first, second, won, np.ones(700), 60)
        inside.append(np.abs(scores - (truth - truth.mean())) < 1.96 * errors)
        ceilings.append(np.sqrt(target.reliability or 0))
        correlations.append(np.corrcoef(truth, target.values)[0, 1])
    assert 0.91 < np.mean(inside) < 0.97
    assert abs(np.mean(ceilings) - np.mean(correlations)) < 0.02


def test_many_images_have_about_the_same_scores_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    _, first, second, won = choices(80, 900)
    exact = bradley_terry(first, second, won, np.ones(900), 80)
    monkeypatch.setattr("drexcache.datasets.comparisons.DENSE", 10)
    scores, errors = bradley_terry(first, second, won, np.ones(900), 80)
    assert np.corrcoef(scores, exact[0])[0, 1] > 0.999
    np.testing.assert_allclose(errors, exact[1], rtol=0.25)


FORMS = {
    "winner": "winner,loser,tie\na.jpg,b.jpg,\nb.jpg,c.jpg,yes\na.jpg,c.jpg,no\n",
    "sides": "left;right;choice\na.jpg;b.jpg;left\nb.jpg;c.jpg;tie\nc.jpg;a.jpg;right\n",
    "names": "Image A,Image B,Choice\na,b,a\nc,b,tie\nc,a,a\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_choices_in_each_form(form: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(FORMS[form])
    ids = ["a.jpg", "b.jpg", "c.jpg"]
    values = match_comparisons(ids, read_comparisons(tmp_path / "p.csv")).target.values
    expected = bradley_terry(np.array([0, 1, 0]), np.array([1, 2, 2]), np.array([1, 0.5, 1]), np.ones(3), 3)[0]
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_agreement_of_raters_is_said() -> None:
    _, first, second, won = choices(10, 300, seed=5)
    raters = np.array(["ann", "bob", "joker"])[np.arange(300) % 3]
    won = np.where(raters == "joker", 1 - won, won)
    frame = pd.DataFrame({"left": [f"{a}.png" for a in first], "right": [f"{b}.png" for b in second],
                          "choice": np.where(won == 1, "left", "right"), "worker": raters})  # fmt: skip
    notes = match_comparisons([f"{at}.png" for at in range(10)], read_comparisons(frame)).notes
    assert any("two judgements of one pair agree in" in note for note in notes)
    assert any("3 raters agree with the scores in" in note for note in notes)
    assert any("by chance, or the other way round: 1 (joker" in note for note in notes)


REFUSED = {
    "columns": ("a,z\nx,y\n", "expected columns winner and loser, or left, right and choice"),
    "itself": ("winner,loser\na.jpg,a.jpg\n", r"compared with themselves: 1 \(a.jpg in line 2\)"),
    "choice": ("left,right,choice\na.jpg,b.jpg,perhaps\n", "neither left, right, tie nor one of the two images: 1"),
    "weight": ("winner,loser,weight\na.jpg,b.jpg,-1\n", r"numbers above 0, up to 1e\+09; found 1 \('-1' in line 2\)"),
    "heavy": ("winner,loser,weight\na.jpg,b.jpg,1e300\n", r"numbers above 0, up to 1e\+09; found 1 \('1e300' in line"),
    "nowhere": ("winner,loser\nx.jpg,y.jpg\n", "compared: x.jpg, y.jpg; images: a.jpg, b.jpg, c.jpg, ..."),
    "not there": ("winner,loser\na.jpg,b.jpg\nb.jpg,c.jpg\nc.jpg,d.jpg\nd.jpg,x.jpg\n",
                  r"comparisons of images that are not there: 1 \(x.jpg\)"),
    "without": ("winner,loser\na.jpg,b.jpg\nb.jpg,c.jpg\n", r"images without a comparison: 1 \(d.jpg\)"),
    "pieces": ("winner,loser\na.jpg,b.jpg\nc.jpg,d.jpg\n",
               r"2 groups that are never compared with each other.*a.jpg, b.jpg \(2 images\) \| c.jpg, d.jpg"),
    "all ties": ("left,right,choice\na.jpg,b.jpg,tie\nb.jpg,c.jpg,tie\nc.jpg,d.jpg,tie\n", "do not tell the images"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_scored_is_refused(kind: str, tmp_path: Path) -> None:
    text, reason = REFUSED[kind]
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(DrexcacheError, match=reason):
        match_comparisons(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], read_comparisons(tmp_path / "p.csv"))


def test_the_commands(pictures: Path, tmp_path: Path) -> None:
    lines = (pictures / "ratings.csv").read_text().splitlines()[1:]
    (pictures / "ratings.csv").unlink()
    rated = [(float(line.split(",")[1]), line.split(",")[0]) for line in lines]
    pairs = [sorted((rated[a], rated[b]), reverse=True) for a in range(20) for b in range(a)]
    text = "winner,loser\n" + "\n".join(f"{winner[1]},{loser[1]}" for winner, loser in pairs)
    (tmp_path / "pairs.csv").write_text(text)
    run = CliRunner().invoke
    common = ["--recipe", "classic", "-o", str(tmp_path / "c.h5"), "--comparisons", str(tmp_path / "pairs.csv")]
    done = run(main, ["extract", str(pictures), *common])
    assert done.exit_code == 0, done.output
    assert "190 comparisons of 20 images" in done.output
    again = ["--comparisons", str(tmp_path / "pairs.csv"), "--target", "again"]
    done = run(main, ["cache", "rate", str(tmp_path / "c.h5"), *again])
    assert done.exit_code == 0, done.output
    cache = open_cache(tmp_path / "c.h5")
    target: Target = cache.targets["rating"]
    np.testing.assert_array_equal(target.values, cache.targets["again"].values)
    assert target.values.argsort().tolist() == np.argsort([value for value, _ in rated]).tolist()
    assert target.reliability is not None and target.reliability > 0.9
    assert run(main, ["cache", "rate", str(tmp_path / "c.h5"), "--target", "x"]).exit_code == 2


def test_the_sheet_with_the_columns_is_read(tmp_path: Path) -> None:
    with pd.ExcelWriter(tmp_path / "c.xlsx") as book:
        pd.DataFrame({"what": ["choices of"], "who": ["students"]}).to_excel(book, sheet_name="about", index=False)
        pd.DataFrame({"winner": ["a"], "loser": ["b"]}).to_excel(book, sheet_name="choices", index=False)
    found = read_comparisons(tmp_path / "c.xlsx")
    assert (found.left, found.right) == (("a",), ("b",))
    assert found.source.endswith("c.xlsx, sheet choices")


def test_where_no_comparison_is_of_two_images_that_are_there() -> None:
    pairs = Comparisons("p.csv", ("a.jpg", "b.jpg"), ("x.jpg", "y.jpg"), np.ones(2), np.ones(2))
    with pytest.raises(DrexcacheError, match=r"p.csv: no comparison is of two images that are there; images: a.jpg"):
        match_comparisons(["a.jpg", "b.jpg"], pairs, allow_unmatched=True)
