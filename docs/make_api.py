"""Write docs/api.md, the reference of the public Python names, from their docstrings.

python docs/make_api.py
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).parent / "api.md"
PACKAGES = ("drexcache", "drexcache.features", "drexcache.studies")
HEAD = """# The public Python names

Made from the docstrings by `docs/make_api.py`; the estimators follow scikit-learn's API. Every example runs in the
tests.
"""
SECTIONS = ("Parameters", "Returns", "Attributes", "Raises", "Examples")


def page() -> str:
    """The whole reference."""
    parts = [HEAD]
    for package in PACKAGES:
        module = importlib.import_module(package)
        parts.append(f"## {package}\n\n{first_paragraph(module)}\n")
        parts += [entry(f"{package}.{name}", getattr(module, name)) for name in sorted(module.__all__)]
    return "\n".join(parts)


def entry(path: str, thing: Any) -> str:
    """A name with its signature, its docstring and, for a class or module, its public members."""
    lines = [f"### {path}\n", described(path.rpartition(".")[2], thing)]
    if isinstance(thing, ModuleType) or inspect.isclass(thing):
        lines += [f"#### {path}.{name}\n\n{described(name, member)}" for name, member in inside(thing)]
    return "\n".join(lines)


def inside(thing: Any) -> Iterator[tuple[str, Any]]:
    """The public, documented members that a class or module of ours defines."""
    for name, member in members(thing).items():
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        function = plain.fget if isinstance(plain, property) else plain
        own = inspect.isfunction(function) and function.__doc__ and _is_at_home(function, thing)
        if own and not name.startswith("_"):
            yield name, plain


def members(thing: Any) -> dict[str, Any]:
    """What stands in a module or a class, with what a class has from others of ours."""
    if isinstance(thing, ModuleType):
        return vars(thing)
    ours = [kind for kind in reversed(thing.__mro__) if kind.__module__.startswith("drexcache")]
    return {name: member for kind in ours for name, member in vars(kind).items()}


def _is_at_home(function: Any, thing: Any) -> bool:
    if isinstance(thing, ModuleType):
        return bool(function.__module__ == thing.__name__)
    homes = tuple(f"{kind.__qualname__}." for kind in thing.__mro__ if kind.__module__.startswith("drexcache"))
    return bool(function.__qualname__.startswith(homes))


def described(name: str, thing: Any) -> str:
    """Signature and docstring as markdown."""
    docstring = markdown(inspect.getdoc(thing) or "")
    if isinstance(thing, ModuleType | property):
        return docstring
    return f"```text\n{name}{signature(thing)}\n```\n\n{docstring}"


def signature(thing: Any) -> str:
    """The call, with a parameter per line if it is too long for one."""
    try:
        call = inspect.signature(thing)
    except (TypeError, ValueError):  # such as an exception's
        return ""
    words: list[str] = []
    for parameter in call.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        if parameter.name not in ("self", "cls"):
            words.append(parameter_text(parameter))
    back = f" -> {call.return_annotation}" if isinstance(call.return_annotation, str) else ""
    text = f"({', '.join(words)}){back}"
    return text if len(text) < 100 else "(\n    " + ",\n    ".join(words) + f",\n){back}"


def parameter_text(parameter: inspect.Parameter) -> str:
    """A parameter as written in the code."""
    text = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "") + parameter.name
    if isinstance(parameter.annotation, str):
        text += f": {parameter.annotation}"
    if parameter.default is parameter.empty:
        return text
    return f"{text} = {getattr(parameter.default, '__name__', repr(parameter.default))}"


def markdown(docstring: str) -> str:
    """A numpydoc docstring: headed sections become bold words, ``x`` becomes `x`, examples become fences."""
    text = docstring.replace("``", "`")
    for section in SECTIONS:
        text = re.sub(rf"^{section}\n-+$", f"**{section}**\n", text, flags=re.MULTILINE)
    out: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        if ">>>" in block:
            before, mark, example = block.partition(">>>")
            out += [before.strip()] if before.strip() else []
            out.append(f"```pycon\n{mark}{example.rstrip()}\n```")
        else:
            out.append(terms(block))
    return "\n\n".join(out) + "\n"


def terms(block: str) -> str:
    """Lines such as "name : meaning", possibly with indented continuation lines, as a list."""
    if not re.match(r"\**[\w, .*`]+\** : ", block):
        return block
    block = re.sub(r"([.;]) ((?:\w+, )*\w+) : ", r"\1\n\2 : ", block)  # two terms in one line
    return re.sub(
        r"^(\w+(?:, \w+)*) : ", lambda names: f"- `{names[1].replace(', ', '`, `')}`: ", block, flags=re.MULTILINE
    )


def first_paragraph(module: ModuleType) -> str:
    """The first paragraph of a package's docstring."""
    return (inspect.getdoc(module) or "").split("\n\n")[0]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
