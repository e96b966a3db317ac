"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

import drexcache

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules(package: str = "drexcache") -> list[str]:
    found = []
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."):
        if info.ispkg:
            found += modules(info.name)
        elif not info.name.endswith(("__main__", "_cpu")):
            found.append(info.name)
    return sorted(found)


@pytest.mark.parametrize("name", modules())
def test_docstring_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name), optionflags=OPTIONS).failed == 0


@pytest.mark.parametrize("name", ["AttentionFusionRegressor", "GramRidge", "TorchHeadRegressor"])
def test_examples_of_classes_that_name_another_home(name: str) -> None:
    thing = getattr(drexcache, name)
    globs = dict(vars(importlib.import_module(thing.fit.__module__)))
    for test in doctest.DocTestFinder().find(thing, name, module=False, globs=globs):
        assert doctest.DocTestRunner(optionflags=OPTIONS).run(test).failed == 0
