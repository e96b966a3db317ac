"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

import drexcache
import drexcache.cli
import drexcache.features
import drexcache.studies


def modules() -> list[str]:
    found = []
    for package in (drexcache, drexcache.features, drexcache.studies, drexcache.cli):
        found += [f"{package.__name__}.{info.name}" for info in pkgutil.iter_modules(package.__path__)]
    return sorted(name for name in set(found) if not name.endswith(("recipe_files", "__main__")))


@pytest.mark.parametrize("name", modules())
def test_docstring_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
