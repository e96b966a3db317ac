"""The pictures of a report: finding the image files, and making thumbnails of them."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageOps

from drexcache.datasets import Decode, ImageFile, UnreadableImage, decode_rgb, read_images
from drexcache.errors import DrexcacheError, some, warnings_about

Key = tuple[str, str]  # dataset, image id
BYTES_IN_ALL = 6_000_000  # of WebP: 8 MB in base64, which with the figures keeps the page below 10 MB
LARGEST, SMALLEST = 240, 48  # pixels of the longer side


def find_images(sources: Sequence[str], images: Mapping[str, Sequence[str]]) -> tuple[dict[Key, ImageFile], list[str]]:
    """Find the image files; also returns a note for each dataset with missing images.

    sources : each a folder or zip named like its dataset, "NAME=PATH", or a folder of folders named like the
    datasets. images : dataset -> ids of the images in the report.

    Raises
    ------
    DrexcacheError : a source that does not exist, fits no dataset, or holds none of its images.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.png").write_bytes(b"")
    >>> files, notes = find_images([f"art={folder}"], {"art": ["a.png", "b.png"]})
    >>> list(files), notes
    ([('art', 'a.png')], ['art: no picture of 1 of 2 images (b.png): not found where --images says'])
    """
    if not sources:
        return {}, ["no pictures; give the folder or zip of each dataset: --images FOLDER, or --images NAME=FOLDER"]
    folders: dict[str, Path] = {}
    for source in sources:
        folders |= _folders(source, list(images))
    files: dict[Key, ImageFile] = {}
    notes = []
    for dataset, ids in images.items():
        if dataset not in folders:
            notes.append(f"{dataset}: no pictures; give its folder or zip: --images {dataset}=FOLDER")
            continue
        table = read_images(folders[dataset], False)
        here = dict(zip(table.ids, table.files, strict=True))
        files |= {(dataset, image): here[image] for image in ids if image in here}
        missing = [image for image in ids if image not in here]
        if len(missing) == len(ids):
            raise DrexcacheError(
                f"{folders[dataset]}: none of the {len(ids)} images of {dataset} is there; expected such as "
                f"{ids[0]}, found such as {table.ids[0]}"
            )
        if missing:
            where = "not found where --images says"
            notes.append(f"{dataset}: no picture of {len(missing)} of {len(ids)} images ({some(missing)}): {where}")
    return files, notes


def thumbnails(files: Mapping[Key, ImageFile], hashes: Mapping[Key, str]) -> tuple[dict[Key, str], list[str]]:
    """Each image as a small WebP in a data URI, and notes on those left out.

    The more images, the smaller: up to 10,000 images take at most about 6 MB together. An image whose bytes are
    not those that the features were computed from (hashes: SHA-256, if known) is left out.
    """
    if not files:
        return {}, []
    limit = BYTES_IN_ALL // len(files)
    side = int(min(LARGEST, max(SMALLEST, (limit / 0.22) ** 0.5)))  # 0.22 bytes per pixel: photographs at quality 75

    def one(item: tuple[Key, ImageFile]) -> tuple[Key, str, str]:
        key, file = item
        try:
            data = file.read()
            if key in hashes and hashlib.sha256(data).hexdigest() != hashes[key]:
                return key, "", "not the file that the features were computed from"
            with warnings_about(key[1]):
                return key, _thumbnail(data, side, limit), ""
        except (OSError, ValueError, SyntaxError, UnreadableImage, Image.DecompressionBombError) as error:
            return key, "", f"cannot be read ({error})"

    with ThreadPoolExecutor() as pool:
        done = list(pool.map(one, files.items()))
    return {key: uri for key, uri, _ in done if uri}, _left_out((key, why) for key, uri, why in done if not uri)


def _left_out(failures: Iterable[tuple[Key, str]]) -> list[str]:
    """A note per dataset and reason, naming a few of the images."""
    images: dict[tuple[str, str], list[str]] = {}
    first: dict[tuple[str, str], str] = {}
    for (dataset, image), why in failures:
        kind = (dataset, why.split(" (")[0])
        images.setdefault(kind, []).append(image)
        first.setdefault(kind, why)
    return [
        f"{dataset}: no picture of {len(ids)} image{'s' if len(ids) > 1 else ''} ({some(ids)}): {first[dataset, why]}"
        for (dataset, why), ids in images.items()
    ]


def _folders(source: str, datasets: Sequence[str]) -> dict[str, Path]:
    """Dataset -> folder or zip, from one value of --images."""
    name, _, after = source.partition("=")
    if after and not Path(source).exists():
        if name not in datasets:
            raise DrexcacheError(f"--images {source}: no dataset named {name}; the scores have: {', '.join(datasets)}")
        return {name: Path(after)}
    path = Path(source)
    if not path.exists():
        raise DrexcacheError(f"--images {source}: no such file or folder")
    own = path.resolve().name if path.is_dir() else path.stem
    if own in datasets:
        return {own: path}
    below = {dataset: path / dataset for dataset in datasets if (path / dataset).is_dir()}
    if below:
        return below
    if len(datasets) == 1:
        return {datasets[0]: path}
    raise DrexcacheError(
        f"--images {source}: which dataset is that? Say --images NAME={source}, NAME one of {', '.join(datasets)}"
    )


def _thumbnail(data: bytes, side: int, limit: int) -> str:
    """A thumbnail as a data URI, rotated according to EXIF, in at most about ``limit`` bytes."""
    if data.startswith(b"\xff\xd8"):
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (2 * side, 2 * side))  # decodes a JPEG at reduced size
            picture = ImageOps.exif_transpose(image).convert("RGB")
    else:
        picture = decode_rgb(data, Decode(exif="apply"))
    picture.thumbnail((side, side))
    for quality in (75, 50, 25, 5):
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=quality, method=2)
        if buffer.tell() <= limit:
            break
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
