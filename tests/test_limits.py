"""The limits for files from strangers are those that the documentation states."""

import inspect
from pathlib import Path

from drexcache.cache import fields, parser, storage
from drexcache.datasets import decoding, files, formats, packed, ratings
from drexcache.regressors import saving


def test_the_documented_limits_are_those_in_force() -> None:
    page = (Path(__file__).parents[1] / "docs" / "cache.md").read_text(encoding="utf-8")
    table = dict(line.strip("| ").split(" | ", 1) for line in page.splitlines() if line.startswith("| "))
    largest = inspect.signature(decoding.decode_rgb).parameters["max_pixels"].default
    freely = files.BYTES_AT_ANY_RATIO >> 20
    unpacked = f"{files.MAX_BYTES >> 30} GiB unpacked; above {freely} MiB, {files.MAX_RATIO} times"
    cells = f"{formats.MAX_CELLS:,} cells; a workbook or a Parquet file, {formats.MAX_UNPACKED >> 20} MiB unpacked"
    assert table["image"] == f"{files.MAX_BYTES >> 30} GiB; {largest // 10**6} megapixels in any mode"
    assert table["member of a zip"] == f"{unpacked} its packed size"
    about = f"no compression; {packed.MAX_ABOUT >> 10} KiB of names and attributes for a member"
    assert table["tar"] == f"{about}, {files.MAX_BYTES >> 30} GiB for its content"
    assert table["array of features in an .npz"] == f"above {freely} MiB, {files.MAX_RATIO} times its packed size"
    assert table["Parquet of features or images"] == f"unpacked, above {freely} MiB, {files.MAX_RATIO} times the file"
    assert table["table of ratings"] == (
        f"{files.MAX_BYTES >> 30} GiB; {cells}; {ratings._MAX_RATINGS:,} single ratings"
    )
    assert table["cache"] == (
        f"above {storage.FREE_BYTES >> 20} MiB, {storage.MAX_SPARSENESS} times what is stored of it; "
        f"{parser.MAX_OBJECTS:,} groups and datasets, {parser.MAX_DEPTH} deep; {parser.MAX_ATTRIBUTES} attributes a "
        f"group, {parser.MAX_TEXT_BYTES >> 20} MiB each; {fields.MAX_READ >> 20} MiB of descriptions; values never "
        "beyond the file's end"
    )
    assert table["model"] == (
        f"arrays of {saving.REFERENCES} times the file; a description of {saving.SCHEMA_BYTES >> 20} MiB; "
        "nothing compressed"
    )
