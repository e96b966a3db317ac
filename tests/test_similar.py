"""The nearest images, ratings to check, and copies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import StandardScaler
from small_scores import rated_scenes

from drexcache import DrexcacheError, import_features
from drexcache.cli import main
from drexcache.studies.comparison import copies, similar, suspects


def test_the_nearest_are_those_of_scikit_learn() -> None:
    made = rated_scenes()
    likeness = cosine_similarity(StandardScaler().fit_transform(made.X))[7]
    order = [at for at in np.argsort(-likeness) if at != 7][:5]
    found = similar(made, "007", 5)
    assert [name for name, _ in found] == [made.ids[at] for at in order]
    np.testing.assert_allclose([value for _, value in found], likeness[order], atol=1e-5)


def test_a_wrong_rating_is_found_and_right_ones_are_left_alone() -> None:
    made = rated_scenes()
    assert suspects(made) == [] or len(suspects(made)) < 5
    y = made.y.copy()
    y[[33, 90]] = [1.5, -0.7]
    found = suspects(replace(made, y=y))
    assert {one.image for one in found[:2]} == {"033.png", "090.png"}
    assert all(int(name[:3]) % 20 == int(found[0].image[:3]) % 20 for name in found[0].neighbours)


def test_copies_are_listed() -> None:
    made = rated_scenes(60)
    hashes = [str(at) for at in range(60)]
    hashes[5] = hashes[9]
    assert ["005.png", "009.png"] in copies(replace(made, hashes=hashes))


def test_the_command(tmp_path: Path) -> None:
    made = rated_scenes(60)
    lines = "\n".join(f"{image},{y}" for image, y in zip(made.ids, made.y, strict=True))
    (tmp_path / "r.csv").write_text(f"file,rating\n{lines}\n")
    import_features(
        made.X, tmp_path / "c.h5", "cues", ids=made.ids, ratings=tmp_path / "r.csv", value_range=(-5, 5),
        say=lambda line: None,
    )  # fmt: skip
    run = CliRunner().invoke
    done = run(main, ["similar", str(tmp_path / "c.h5"), "003.png", "--count", "2"])
    assert done.exit_code == 0 and done.output.count(".png") == 2
    (first, *_) = json.loads(run(main, ["similar", str(tmp_path / "c.h5"), "003.png", "--json"]).stdout)
    assert first["image"] == similar(made, "003.png")[0][0] and first.keys() == {"image", "similarity", "rating"}
    assert run(main, ["similar", str(tmp_path / "c.h5")]).exit_code == 0
    assert json.loads(run(main, ["similar", str(tmp_path / "c.h5"), "--json"]).stdout).keys() == {"suspects", "copies"}
    assert "no image 300.png; " in run(main, ["similar", str(tmp_path / "c.h5"), "300.png"]).output
    with pytest.raises(DrexcacheError, match="no image nowhere; there are: "):
        similar(made, "nowhere")
