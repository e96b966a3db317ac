"""Hooks of mkdocs.yml: pages outside docs/ become part of the site too, and links to them work."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [
        *(ROOT / name for name in ("FORMAT.md", "CHANGELOG.md", "CONTRIBUTING.md")),
        *ROOT.glob("benchmarks/results/*"),
    ]
)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and results that are elsewhere in the repository."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at the site's own pages; a link to something else, such as code, becomes plain text."""
    here = page.file.src_uri if page.file.src_uri in OUTSIDE else f"docs/{page.file.src_uri}"

    def relinked(match: re.Match[str]) -> str:
        text, target, anchor = match[1], posixpath.normpath(posixpath.join(posixpath.dirname(here), match[2])), match[3]
        if target == "README.md":  # the repository's: the site's home says the same
            target = "docs/README.md"
        if target not in OUTSIDE and not target.startswith("docs/"):
            return str(text)
        start = posixpath.dirname(page.file.src_uri)
        return f"[{text}]({posixpath.relpath(target.removeprefix('docs/'), start or '.')}{anchor or ''})"

    return LINK.sub(relinked, markdown)
