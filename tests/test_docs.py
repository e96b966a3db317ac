"""The docs say what is true: examples run, figures were printed by a benchmark, links lead somewhere, API is fresh."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner
from small_workplace import furnish, small_recipe

from drexcache import recipes
from drexcache.cli import main
from drexcache.fusion import estimator as fusion

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(page: Path) -> list[tuple[str, str, str]]:
    """(language, what stands beside it, text) of a page's sh, python and toml blocks, in order.

    Beside the language stands nothing, "not-run", or the name of a file that the block is.
    """
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [(language, info.strip(), text) for language, info, text in found if language in ("sh", "python", "toml")]


def lines(text: str) -> list[str]:
    """A shell block's commands, continued lines joined."""
    joined = text.replace("\\\n", " ").splitlines()
    return [line for line in joined if line.strip() and not line.startswith("#")]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the pages' commands find their images, small backbones and short trainings."""
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(recipes, "recipe", small_recipe)
    monkeypatch.setitem(fusion.PRESETS, "fusion", {"epochs": 1, "width": 16})
    monkeypatch.setitem(fusion.PRESETS, "fusion-paper", {"epochs": 1, "width": 16})
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda page: page.stem)
def test_examples_run_in_order(page: Path, workplace: Path) -> None:
    names: dict[str, object] = {"__name__": page.stem}
    for language, info, text in examples(page):
        if language == "sh":
            for line in lines(text):
                check_options(line) if info == "not-run" else run(line)
        elif info:
            (workplace / info).write_text(text, encoding="utf-8")
        else:
            exec(compile(text, page.name, "exec"), names)


def run(line: str) -> None:
    """A command of ours in this process, which has torch loaded already; another in a shell."""
    line = line.removeprefix("PYTHONPATH=. ")  # as the workplace has it
    if not line.startswith("drexcache "):
        subprocess.run(["bash", "-ec", line], check=True)
        return
    result = CliRunner().invoke(main, shlex.split(line)[1:], catch_exceptions=False)
    assert result.exit_code == 0, f"{line}\n{result.output}"


def check_options(line: str) -> None:
    """That a command of ours which cannot run here has no option that it does not take."""
    words = shlex.split(line.removesuffix("&"))
    if "drexcache" not in words:
        return
    words = words[words.index("drexcache") + 1 :]
    context = click.Context(main, **main.context_settings)
    command = main.get_command(context, words[0])
    while isinstance(command, click.Group):
        command, words = command.get_command(context, words[1]), words[1:]
    assert command is not None, line
    command.make_context(words[0], words[1:], parent=context)


def script(name: str) -> ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_are_the_ones_that_the_benchmarks_printed() -> None:
    renewed = script("make_figures").renewed
    stale = [page.name for page in PAGES if renewed(text := page.read_text(encoding="utf-8")) != text]
    assert stale == [], "run: python docs/make_figures.py"


def test_every_row_of_figures_was_printed_by_a_benchmark() -> None:
    printed = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks" / "results").iterdir())
    rows = [
        (page.name, row)
        for page in PAGES
        for row in re.findall(r"^\|.*\d\.\d.*\d\.\d.*\|$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]
    assert len(rows) >= 10
    assert [(name, row) for name, row in rows if row not in printed] == []


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))  # in code, a[b](c) is no link
        for target, anchor in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", text):
            found = page.parent / target if target else page
            assert found.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor[1:] in anchors(found), f"{page.name}: {target}{anchor}"


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_file_and_module_that_a_page_names_exists() -> None:
    named = re.compile(r"\b(?:drexcache|features|studies|cli|tests|benchmarks|docs)/[\w/.-]*\w")
    modules = re.compile(r"`(drexcache(?:\.\w+)+)`")
    for page in [ROOT / name for name in ("README.md", "FORMAT.md", "CONTRIBUTING.md")] + PAGES:
        text = page.read_text(encoding="utf-8")
        missing = [path for path in named.findall(text) if not (ROOT / path).exists()]
        assert missing == [], f"{page.name} names {', '.join(missing)}"
        for name in modules.findall(text):
            pkgutil.resolve_name(name)


def test_every_cue_has_its_line() -> None:
    lines = re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "cues.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert lines == [tap.layer for tap in recipes.recipe("classic").blocks[0].taps]


def test_every_page_is_on_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.name != "README.md" and f"({page.name})" not in index] == []


def test_api_reference_is_fresh() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert page == script("make_api").page(), "run: python docs/make_api.py"


def test_the_site_builds_without_a_warning_and_without_another_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    pages = list(tmp_path.rglob("*.html"))
    loaded = re.compile(
        r"<(?:script|img)[^>]* src=\"?(https?:[^\" >]+)|<link[^>]*stylesheet[^>]* href=\"?(https?:[^\" >]+)"
    )
    assert len(pages) > len(PAGES)
    assert {found for page in pages for found in loaded.findall(page.read_text(encoding="utf-8"))} == set()
