"""The README says what is true: the commands are described by their own help, figures are printed by a benchmark."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_command_reference_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == module.renewed(readme), "run: python docs/make_reference.py"
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == module.page(), "run docs/make_reference.py"


def test_savoias_table_is_the_one_the_benchmark_printed() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    result = (ROOT / "benchmarks" / "results" / "savoias.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|.*\[.*\].*\|$", readme, flags=re.MULTILINE)
    assert len(rows) >= 6
    assert [row for row in rows if row not in result] == []


def test_links_inside_the_project_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)#:]+)\)", text):  # in code, a[b](c) is no link
            assert (page.parent / target).exists(), f"{page.name}: {target}"
