"""Push a cache, a model or scores to a repository on the Hugging Face Hub, with a card written from their metadata.

Images are never uploaded: a cache does not contain them. All files go in one commit, so that nobody sees a part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drexcache.cache import FeatureCache, StoredBlock, export, open_cache
from drexcache.errors import DrexcacheError, several
from drexcache.files import require_file
from drexcache.hub import LOGIN
from drexcache.regressors import Model, load_model
from drexcache.scores import ScoreTable
from drexcache.studies.evaluation import predictions_beside

SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}  # as the Hub names them


@dataclass(frozen=True)
class Parcel:
    """An upload: the kind of repository, its files (name -> path or text), and a line on what others will see."""

    kind: str
    files: dict[str, Path | str]
    visible: str

    @property
    def card(self) -> str:
        """The repository's README."""
        return str(self.files["README.md"])


def pack(
    file: str | Path, repository: str, scores: str | Path | None = None, *, allow_failures: bool = False,
    folder: str | Path,
) -> Parcel:  # fmt: skip
    """Collect the files of a push and write its card; files made for the push are written to ``folder``.

    Raises
    ------
    DrexcacheError : the file is not a cache, a model or scores, or is a cache with failed rows.
    """
    path = Path(file)
    table = ScoreTable.read_csv(scores) if scores else None
    extra = _with_predictions(Path(scores)) if scores else {}
    require_file(path)
    with path.open("rb") as opened:
        head = opened.read(64)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _cache_parcel(open_cache(path), repository, table, extra, allow_failures, Path(folder))
    if b'"__metadata__"' in head:
        return _model_parcel(path, load_model(path), repository, table, extra)
    table = ScoreTable.read_csv(path)
    files: dict[str, Path | str] = {"README.md": _scores_card(table, repository, path.name), **_with_predictions(path)}
    return Parcel("dataset", files, f"{several(len(table.rows), 'score')}, and predictions with the names of images")


def push(parcel: Parcel, repository: str, *, private: bool = False, replace: bool = False) -> str:
    """Create the repository, upload the parcel as one commit, and return the repository's address.

    Raises
    ------
    DrexcacheError : there is no token or no network, the name is malformed or taken (without ``replace``), or the Hub
        refuses the upload; in each case nothing has been uploaded.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if not get_token():
        raise DrexcacheError(f"{repository}: the Hub wants to know who pushes; {LOGIN}")
    api, kind, made = HfApi(), parcel.kind, False
    try:
        if not api.repo_exists(repository, repo_type=kind):
            api.create_repo(repository, repo_type=kind, private=private)
            made = True
        elif not replace:
            raise DrexcacheError(f"{repository}: exists already; give --replace to add a commit, or another name")
        operations = [
            CommitOperationAdd(name, content.encode() if isinstance(content, str) else content)
            for name, content in parcel.files.items()
        ]
        return str(api.create_commit(repository, operations, commit_message="drexcache push", repo_type=kind).repo_url)
    except HFValidationError as error:
        raise DrexcacheError(
            f"{repository}: a repository is named USER/NAME, of letters, digits, '-', '_', '.'"
        ) from error
    except DrexcacheError:
        raise
    except Exception as error:  # from the Hub, or whichever HTTP library its client uses
        if made:
            api.delete_repo(repository, repo_type=kind, missing_ok=True)
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        way = f"; the token may not write there: {LOGIN}" if status in (401, 403) else ""
        raise DrexcacheError(f"{repository}: nothing has gone up: {reason}{way}") from error


def _cache_parcel(
    cache: FeatureCache, repository: str, table: ScoreTable | None, extra: Mapping[str, Path | str],
    allow_failures: bool, folder: Path,
) -> Parcel:  # fmt: skip
    failures = cache.failures()
    if failures and not allow_failures:
        raise DrexcacheError(
            f"{cache.path}: {len(failures)} of its images failed; extract again, or push as it is with --allow-failures"
        )
    name = cache.path.name
    parquet = folder / f"{cache.path.stem}.parquet"
    export(cache, parquet)
    card = _cache_card(cache, repository, name, parquet.name, table)
    visible = f"the names, hashes and ratings of {several(len(cache), 'image')}, with features; no image"
    return Parcel("dataset", {"README.md": card, name: cache.path, parquet.name: parquet, **extra}, visible)


def _model_parcel(
    path: Path, model: Model, repository: str, table: ScoreTable | None, extra: Mapping[str, Path | str]
) -> Parcel:
    card = _model_card(model, repository, path.name, table)
    count = several(model.trained["images"], "image")
    visible = f"the model, trained on {count} of {model.trained['dataset']}; no image"
    return Parcel("model", {"README.md": card, path.name: path, **extra}, visible)


def _with_predictions(scores: Path) -> dict[str, Path | str]:
    beside = predictions_beside(scores)
    return {path.name: path for path in (scores, Path(beside)) if path.is_file()}


def _cache_card(cache: FeatureCache, repository: str, name: str, parquet: str, table: ScoreTable | None) -> str:
    from huggingface_hub import DatasetCardData

    size = next((label for limit, label in SIZES.items() if len(cache) < limit), "n>1M")
    data = DatasetCardData(
        license="other", pretty_name=f"{cache.dataset}: image features", size_categories=[size],
        tags=["drexcache", "image-features"], task_categories=["image-feature-extraction"],
        configs=[{"config_name": "default", "data_files": parquet}],
    )  # fmt: skip
    known = cache.info()
    targets = [
        f"- `{target}`: {several(one['rated'], 'image')} rated from {one['low']:g} to {one['high']:g}, a higher rating "
        f"means {one['higher_is']}"
        + (f", reliability {one['reliability']:.3f}" if one["reliability"] is not None else "")
        for target, one in known["targets"].items()
    ]
    count = several(len(known["failures"]), "image has", "images have")
    failed = [f"{count} no features, for the file could not be read."] if known["failures"] else []
    return _page(
        data, f"# {cache.dataset}: features of {several(len(cache), 'image')}",
        "Made with drexcache. The images themselves are not here; ids are their file names, and the cache "
        "has the SHA-256 of each file.", *failed,
        "## Ratings", "\n".join(targets) or "None.", "## Features", _blocks(cache.blocks.values()),
        *_scores(table), "## How to load",
        f'```python\nimport drexcache\n\nmatrix = drexcache.open_cache("hf://datasets/{repository}/{name}").matrix()\n```',
        f"`{parquet}` holds the same with a column per feature.",
    )  # fmt: skip


def _model_card(model: Model, repository: str, name: str, table: ScoreTable | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    dataset = model.trained["dataset"]
    results = [
        EvalResult(
            task_type="image-regression", dataset_type=row.test, dataset_name=row.test, metric_type=row.metric,
            metric_value=row.value, metric_name=f"{row.metric} ({row.kind}, trained on {row.train})",
        )
        for row in (table.rows if table else ())
        if row.value is not None and row.regressor == model.regressor and not row.group and not row.calibrated
    ]  # fmt: skip
    data = ModelCardData(
        license="other", library_name="drexcache", tags=["drexcache", "image-regression"],
        model_name=repository.rpartition("/")[2], eval_results=results or None,
    )  # fmt: skip
    trained = "\n".join(f"- {key}: {value}" for key, value in model.trained.items())
    return _page(
        data, f"# {model.regressor} for {model.target} of images like {dataset}",
        f"Predicts `{model.target}` from {model.low:g} to {model.high:g} (a higher number means {model.higher_is}) of "
        "an image, from features of frozen backbones. Made with drexcache.",
        "## Intended use",
        f"Images like those of {dataset}, rated as those were. Check it against ratings of your own before you use "
        "it on other images; it is no measure of a person.",
        "## Training", trained, "## Features", _blocks(model.blocks.values()), *_scores(table), "## How to use",
        f"```sh\ndrexcache predict hf://{repository}/{name} photos/ -o predictions.csv\n```",
    )  # fmt: skip


def _scores_card(table: ScoreTable, repository: str, name: str) -> str:
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(license="other", tags=["drexcache", "benchmark-scores"], configs=[
        {"config_name": "default", "data_files": name},
    ])  # fmt: skip
    return _page(data, f"# Scores: {repository.rpartition('/')[2]}", "Made with drexcache.", *_scores(table))


def _page(data: Any, *parts: str) -> str:
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def _scores(table: ScoreTable | None) -> Sequence[str]:
    return ["## Scores, with 95% intervals", table.markdown()] if table else []


def _blocks(blocks: Iterable[StoredBlock]) -> str:
    """Return one line per block: its backbone, input size, taps, weights and their licence."""
    lines = []
    for block in blocks:
        one = block.definition
        licence = one.licence or "not stated"
        tag = f".{one.tag}" if one.tag else ""
        taps = ", ".join(tap.name for tap in one.taps)
        lines.append(
            f"- `{block.name}`, {block.dim} columns: {one.backbone}{tag} at {one.size[0]}x{one.size[1]} ({taps}); "
            f"weights from {block.weights_source}, licence: {licence}; fingerprint `{block.fingerprint[:16]}`"
        )
        if "dinov3" in (one.backbone + licence).lower():
            lines.append(
                "  - These weights are gated: their DINOv3 License by Meta also binds what is made with them, "
                "https://ai.meta.com/resources/models-and-libraries/dinov3-license/"
            )
    return "\n".join(lines)
