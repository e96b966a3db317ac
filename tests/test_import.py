"""Features of another tool become a block like any other; what does not fit is refused before a byte is written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import draw
from safetensors.numpy import save_file

from drexcache import DrexcacheError, import_features, load_model, open_cache, read_images, recipe
from drexcache.cache import diff, export
from drexcache.cli import main
from drexcache.features import extract, predict
from drexcache.regressors import train_model
from drexcache.studies import evaluate

NOTE = "ViT-B/32, 224 px"


def silent(line: str) -> None:
    """Say nothing."""


def ids_of(n: int) -> list[str]:
    return [f"{number:03}.png" for number in range(n)]


def features(n: int = 20, d: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype("f4")


def write(path: Path, X: np.ndarray, ids: list[str]) -> Path:
    """The features in the form that the ending tells."""
    if path.suffix == ".npz":
        np.savez(path, embeddings=X, filenames=np.array(ids))
    elif path.suffix == ".safetensors":
        save_file({"embeddings": X}, path, {"ids": json.dumps(ids)})
    else:
        frame = pd.DataFrame(X, columns=[f"f{at}" for at in range(X.shape[1])]).assign(file=ids)
        frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
    return path


@pytest.fixture
def classic(pictures: Path, tmp_path: Path) -> Path:
    """A cache of hand-made cues of 20 rated pictures."""
    table = read_images(pictures, value_range=(0, 100))
    extract(table, recipe("classic"), tmp_path / "c.h5", say=silent)
    return tmp_path / "c.h5"


@pytest.mark.parametrize("ending", ["npz", "csv", "parquet", "safetensors"])
def test_rows_find_their_images_whatever_the_order_and_the_form(classic: Path, tmp_path: Path, ending: str) -> None:
    X, order = features(), np.random.default_rng(1).permutation(20)
    file = write(tmp_path / f"clip.{ending}", X[order], [ids_of(20)[at].upper() for at in order])
    before = open_cache(classic).matrix(["cues"])
    cache = import_features(file, classic, "clip", note=NOTE, say=silent)
    np.testing.assert_array_equal(cache.matrix(["clip"]).X, X)
    np.testing.assert_array_equal(cache.matrix(["cues"]).X, before.X)
    assert cache.verify() == []
    assert list(cache.targets), list(cache.labels) == (["rating"], ["split"])
    block = cache.blocks["clip"]
    assert (block.definition.backbone, block.definition.tag, block.dim) == ("imported", NOTE, 6)
    assert block.provenance[0]["source"] == file.name
    assert set(cache.matrix(["clip"]).hashes) == set(before.hashes)


@pytest.mark.parametrize("ending", ["npz", "csv", "parquet"])
@pytest.mark.parametrize("name", ["cues", "theirs"])
def test_an_export_comes_back_bit_for_bit(classic: Path, tmp_path: Path, ending: str, name: str) -> None:
    cache, out = open_cache(classic), tmp_path / f"e.{ending}"
    export(cache, out)
    back = import_features(out, tmp_path / "new.h5", name, say=silent).matrix()
    np.testing.assert_array_equal(back.X, cache.matrix().X)
    assert back.X.tobytes() == cache.matrix().X.tobytes()
    assert list(back.ids) == list(cache.ids)
    if name == "cues":
        assert back.taps == cache.matrix().taps


def test_one_column_of_lists_in_parquet(tmp_path: Path) -> None:
    X = features(4)
    pd.DataFrame({"id": ids_of(4), "embedding": list(X)}).to_parquet(tmp_path / "e.parquet")
    cache = import_features(tmp_path / "e.parquet", tmp_path / "n.h5", "e", say=silent)
    np.testing.assert_array_equal(cache.matrix().X, X)


def test_a_tensor_for_each_image(tmp_path: Path) -> None:
    X = features(4)
    save_file(dict(zip(ids_of(4), X, strict=True)), tmp_path / "e.safetensors")
    cache = import_features(tmp_path / "e.safetensors", tmp_path / "n.h5", "e", say=silent)
    np.testing.assert_array_equal(cache.matrix().X, X)


def test_half_precision_stays_as_it_is(tmp_path: Path) -> None:
    X = features(4).astype("f2")
    cache = import_features(X, tmp_path / "n.h5", "e", ids=ids_of(4), say=silent)
    assert cache.features("e").tobytes() == X.tobytes()


def test_a_new_cache_of_images_or_of_ratings(pictures: Path, tmp_path: Path) -> None:
    X = features()
    file = write(tmp_path / "clip.npz", X, ids_of(20))
    of_images = import_features(
        file, tmp_path / "i.h5", "clip", note=NOTE, images=pictures, value_range=(0, 100), say=silent
    )
    of_ratings = import_features(
        file, tmp_path / "r.h5", "clip", note=NOTE, ratings=pictures / "ratings.csv", value_range=(0, 100), say=silent
    )
    for cache in (of_images, of_ratings):
        np.testing.assert_array_equal(cache.matrix().X, X)
        np.testing.assert_array_equal(cache.targets["rating"].values, of_images.targets["rating"].values)
        assert cache.verify() == []
    assert of_images.hashes().any(axis=1).all() and not of_ratings.hashes().any()
    # images of unknown files are all different images
    scores, _ = evaluate([of_ratings.matrix()], ["ridge"])
    assert scores.rows[0].n == 20


def test_rows_in_the_same_order_only_when_told(pictures: Path, classic: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "clip.npy", features())
    before = classic.read_bytes()
    with pytest.raises(DrexcacheError, match="holds no ids; give them with --ids FILE"):
        import_features(tmp_path / "clip.npy", classic, "clip", say=silent)
    assert classic.read_bytes() == before
    said: list[str] = []
    cache = import_features(tmp_path / "clip.npy", classic, "clip", same_order=True, say=said.append)
    np.testing.assert_array_equal(cache.matrix(["clip"]).X, features())
    assert "row 1 is 000.png, the last 019.png" in said[0]
    # of a file of ratings: the order of its lines
    lines = (pictures / "ratings.csv").read_text().splitlines()
    (tmp_path / "turned.csv").write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    turned = import_features(
        tmp_path / "clip.npy", tmp_path / "t.h5", "clip", ratings=tmp_path / "turned.csv", value_range=(0, 100),
        same_order=True, say=silent,
    )  # fmt: skip
    np.testing.assert_array_equal(turned.matrix().X, features()[::-1])
    (tmp_path / "names.txt").write_text("\n".join(ids_of(20)))
    named = import_features(tmp_path / "clip.npy", tmp_path / "n.h5", "clip", ids=tmp_path / "names.txt", say=silent)
    np.testing.assert_array_equal(named.matrix().X, features())


def test_the_note_is_the_identity_and_without_one_the_numbers_are(tmp_path: Path) -> None:
    prints = [
        import_features(features(seed=seed), tmp_path / f"{at}.h5", "e", ids=ids_of(20), note=note, say=silent)
        .blocks["e"]
        .fingerprint
        for at, (seed, note) in enumerate([(0, NOTE), (1, NOTE), (0, ""), (1, ""), (0, "other")])
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


def test_more_rows_are_added_and_other_numbers_refused(classic: Path) -> None:
    X = features()
    with pytest.raises(DrexcacheError, match=r"images without features: 12 \(008.png, 009.png, 010.png, ...\)"):
        import_features(X[:8], classic, "clip", ids=ids_of(8), note=NOTE, say=silent)
    import_features(X[:8], classic, "clip", ids=ids_of(8), note=NOTE, allow_unmatched=True, say=silent)
    assert len(open_cache(classic).matrix(["clip"])) == 8
    import_features(X[8:], classic, "clip", ids=ids_of(20)[8:], note=NOTE, say=silent)
    np.testing.assert_array_equal(open_cache(classic).matrix(["clip"]).X, X)
    before = classic.read_bytes()
    for other, note, reason in (
        (X + 1, NOTE, "holds other numbers of 20"),
        (X, "another", "note 'ViT-B/32, 224 px' -> 'another'"),
        (X[:, :5], NOTE, "has 6 columns, these features 5"),
    ):
        with pytest.raises(DrexcacheError, match=reason):
            import_features(other, classic, "clip", ids=ids_of(20), note=note, say=silent)
    assert classic.read_bytes() == before
    import_features(X[:, :5], classic, "clip", ids=ids_of(20), note=NOTE, replace_block=True, say=silent)
    np.testing.assert_array_equal(open_cache(classic).matrix(["clip"]).X, X[:, :5])


def test_a_block_of_another_cache_stays_what_it_is(classic: Path, tmp_path: Path) -> None:
    cache = import_features(classic, tmp_path / "n.h5", "handmade", array="cues", say=silent)
    theirs = open_cache(classic)
    assert cache.blocks["handmade"].fingerprint == theirs.blocks["cues"].fingerprint
    np.testing.assert_array_equal(cache.matrix().X, theirs.matrix().X)
    np.testing.assert_array_equal(cache.hashes(), theirs.hashes())
    table = read_images(draw(tmp_path / "others", 20, start=5), value_range=(0, 100), allow_unmatched=True)
    extract(table, recipe("classic"), tmp_path / "o.h5", say=silent)
    assert diff(theirs, open_cache(tmp_path / "o.h5"))
    (tmp_path / "others" / "005.png").write_bytes((tmp_path / "others" / "006.png").read_bytes())
    extract(read_images(tmp_path / "others", False), recipe("classic"), tmp_path / "o.h5", say=silent)
    with pytest.raises(DrexcacheError, match=r"features of other files of these names: 1 \(005.png\)"):
        import_features(tmp_path / "o.h5", classic, "more", array="cues", allow_unmatched=True, say=silent)


def test_a_cache_that_knows_no_files_hides_none_that_are_known(pictures: Path, tmp_path: Path) -> None:
    import_features(features(), tmp_path / "bare.h5", "clip", ids=ids_of(20), say=silent)
    cache = import_features(tmp_path / "bare.h5", tmp_path / "n.h5", "clip", images=pictures, ratings=False, say=silent)
    read = [hashlib.sha256((pictures / name).read_bytes()).digest() for name in cache.ids]
    assert [row.tobytes() for row in cache.hashes()] == read


def test_extract_goes_on_in_an_imported_cache_and_keeps_its_block(pictures: Path, tmp_path: Path) -> None:
    import_features(features(), tmp_path / "n.h5", "clip", ids=ids_of(20), say=silent)
    extract(read_images(pictures, value_range=(0, 100)), recipe("classic"), tmp_path / "n.h5", say=silent)
    cache = open_cache(tmp_path / "n.h5")
    np.testing.assert_array_equal(cache.matrix(["clip"]).X, features())
    assert cache.verify() == [] and cache.hashes().any(axis=1).all()


def test_a_model_predicts_from_caches_with_the_same_note_alone(pictures: Path, tmp_path: Path) -> None:
    options = {"ratings": pictures / "ratings.csv", "value_range": (0, 100), "say": silent}
    cache = import_features(features(), tmp_path / "a.h5", "clip", ids=ids_of(20), note=NOTE, **options)
    train_model("ridge", cache.matrix(), cache, ("clip",), 42).save(tmp_path / "m.drex")
    model = load_model(tmp_path / "m.drex")
    with pytest.raises(DrexcacheError, match="predicts from caches only"):
        predict(model, pictures, say=silent)
    import_features(features(seed=3), tmp_path / "b.h5", "clip", ids=ids_of(20), note=NOTE, say=silent)
    prediction, _ = predict(model, tmp_path / "b.h5", say=silent)
    expected = model.estimator.predict(features(seed=3)) * 100
    np.testing.assert_allclose(prediction.value, expected, rtol=1e-6)
    import_features(features(seed=3), tmp_path / "o.h5", "clip", ids=ids_of(20), note="another", say=silent)
    with pytest.raises(DrexcacheError, match="block clip is not what the model was trained on"):
        predict(model, tmp_path / "o.h5", say=silent)


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path / "f.npz", **arrays)
    return path / "f.npz"


def text(path: Path, content: str) -> Path:
    (path / "f.csv").write_text(content)
    return path / "f.csv"


def objects(path: Path) -> Path:
    np.save(path / "f.npy", np.array([{"a": 1}] * 20, dtype=object), allow_pickle=True)
    return path / "f.npy"


def with_nan(path: Path) -> Path:
    X = features()
    X[3, 2] = X[4, 0] = np.nan
    return write(path / "f.npz", X, ids_of(20))


def pickled(path: Path) -> Path:
    (path / "f.pt").write_bytes(b"\x80\x02}.")
    return path / "f.pt"


def cut(path: Path) -> Path:
    file = write(path / "f.npz", features(), ids_of(20))
    file.write_bytes(file.read_bytes()[:300])
    return file


BROKEN = {
    "objects": objects,
    "object ids": lambda path: npz(path, X=features(), id=np.array(ids_of(20), dtype=object)),
    "nan": with_nan,
    "huge": lambda path: npz(path, X=features().astype("f8") * 1e300, id=np.array(ids_of(20))),
    "twice": lambda path: write(path / "f.csv", features(), ["000.png", *ids_of(19)]),
    "no match": lambda path: write(path / "f.npz", features(), [f"other{number}.jpg" for number in range(20)]),
    "one extra": lambda path: write(path / "f.npz", features(21), [*ids_of(20), "extra.png"]),
    "three dimensions": lambda path: npz(path, embeddings=features().reshape(20, 3, 2), id=np.array(ids_of(20))),
    "fewer ids": lambda path: write(path / "f.npz", features(), ids_of(19)),
    "text": lambda path: text(path, "id,f0,f1\n000.png,1,2\n001.png,1,oops\n"),
    "underscore": lambda path: text(path, "id,f0,f1\n000.png,1,2\n001.png,1,3_5\n"),
    "other digits": lambda path: text(path, "id,f0,f1\n000.png,1,2\n001.png,1,\u0661\n"),
    "nan text": lambda path: text(path, "id,f0,f1\n000.png,1,2\n001.png,1,nan\n"),
    "ragged": lambda path: text(path, "id,f0,f1\n000.png,1,2\n001.png,1,2,3\n"),
    "pickle": pickled,
    "cut": cut,
    "two arrays": lambda path: npz(path, a=features(), b=features(), id=np.array(ids_of(20))),
}
REFUSED = {
    "objects": "holds pickled objects, which could run code and are refused",
    "object ids": "holds pickled objects, which could run code and are refused",
    "nan": r"NaN, infinite or too large features of 2 \(003.png, 004.png\)",
    "huge": r"NaN, infinite or too large features of 20 \(000.png, 001.png, 002.png, ...\)",
    "twice": r"ids that stand there more than once: 1 \(000.png\)",
    "no match": "no id matches an image of .*; features of: other0.jpg, other1.jpg, other2.jpg, ...; "
    "images: 000.png, 001.png, 002.png, ...",
    "one extra": r"features without an image: 1 \(extra.png\)",
    "three dimensions": r"found embeddings float32 \(20, 3, 2\), .*expected numbers with a row per image",
    "fewer ids": "20 rows of features, but 19 ids",
    "text": "column 'f1' of 001.png is 'oops', no number",
    "underscore": "column 'f1' of 001.png is '3_5', no number",
    "other digits": "column 'f1' of 001.png is '\u0661', no number",
    "nan text": r"NaN, infinite or too large features of 1 \(001.png\)",
    "ragged": "not readable as a table",
    "pickle": "no file of features; read are .npy",
    "cut": "not a readable file of arrays",
    "two arrays": "name one with --array",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_files_are_refused_in_a_sentence_and_nothing_is_written(kind: str, classic: Path, tmp_path: Path) -> None:
    file, before = BROKEN[kind](tmp_path), classic.read_bytes()
    with pytest.raises(DrexcacheError, match=REFUSED[kind]):
        import_features(file, classic, "clip", say=silent)
    assert classic.read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("*.h5*") if "lock" not in path.name) == ["c.h5"]


def test_the_command(classic: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "clip.csv", features(), ids_of(20))
    result = CliRunner().invoke(main, ["cache", "import", str(file), "-o", str(classic), "--block", "clip"])
    assert result.exit_code == 0, result.output
    assert "block clip, 20 of 20 images, 6 columns each" in result.output
    again = CliRunner().invoke(
        main, ["cache", "import", str(file), "-o", str(classic), "--block", "clip", "--ratings", "x"]
    )
    assert again.exit_code == 1
    assert "its own images and ratings count" in again.output
