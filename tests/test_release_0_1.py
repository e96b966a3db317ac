"""Files that release 0.1 wrote are read: its cache, and its models, which predict what they predicted then."""

import json
from pathlib import Path

import numpy as np
import pytest

from drexcache import load_model, open_cache

DATA = Path(__file__).parent / "data"
EXPECTED = json.loads((DATA / "release-0.1-expected.json").read_text(encoding="utf-8"))


def test_cache_is_read_value_by_value() -> None:
    cache = open_cache(DATA / "release-0.1-cache.h5")
    matrix = cache.matrix()
    assert cache.verify() == []
    assert list(matrix.ids) == EXPECTED["ids"]
    np.testing.assert_array_equal(matrix.y, EXPECTED["y"])
    np.testing.assert_array_equal(matrix.X, np.array(EXPECTED["X"], "f4"))


@pytest.mark.parametrize("regressor", EXPECTED["predictions"])
def test_model_predicts_what_it_did(regressor: str) -> None:
    prediction = load_model(DATA / f"release-0.1-{regressor}.drex").predict(open_cache(DATA / "release-0.1-cache.h5"))
    assert prediction.ids == EXPECTED["ids"]
    np.testing.assert_allclose(prediction.value, EXPECTED["predictions"][regressor], rtol=1e-6)
