"""What a notebook shows of our types: a heading and the first rows of a table, every text escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

ROWS = 10  # that are shown


def html_of(heading: str, frame: pd.DataFrame, rows: int, *, index: bool = True) -> str:
    """A heading, the table, and how many of its ``rows`` are not shown.

    >>> import pandas as pd
    >>> html_of("<b>", pd.DataFrame({"a<": ["&"]}), 1, index=False).splitlines()[0]
    '<p>&lt;b&gt;</p>'
    """
    from tabulate import tabulate

    table = tabulate(frame, headers="keys", tablefmt="html", showindex=index)
    more = f"<p>… and {rows - len(frame):,} more</p>" if rows > len(frame) else ""
    return f"<p>{escape(heading)}</p>\n{table}\n{more}"


class ShownRecipe:
    """A recipe as a table."""

    name: str
    about: str
    blocks: Any
    weights: str

    def to_pandas(self) -> pd.DataFrame:
        """A line per tap: what is read from which backbone, at which size, and how long it is (None: not stated)."""
        import pandas as pd

        lines = [
            {"block": block.name, "backbone": block.backbone, "tag": block.tag, "size": "" if block.is_classic else
             "×".join(map(str, block.size)), "tap": tap.name, "layer": tap.layer, "pool": tap.pool, "dim": tap.dim}
            for block in self.blocks for tap in block.taps
        ]  # fmt: skip
        return pd.DataFrame(lines).astype({"dim": "Int64"})

    def _repr_html_(self) -> str:
        frame = self.to_pandas()
        return html_of(f"Recipe {self.name}: {self.about}", frame.astype(str), len(frame), index=False)
