"""Which figures a report has of each regressor."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from drexcache.studies.reporting import figures
from drexcache.studies.reporting.figures import Figure
from drexcache.studies.reporting.results import Evidence, Result


@dataclass
class Panels:
    """The figures of one regressor. home : results trained on the tested dataset; where there are none, all."""

    regressor: str
    home: list[Result]
    matrix: list[Figure] = field(default_factory=list)
    scatter: list[Figure] = field(default_factory=list)
    across: list[Figure] = field(default_factory=list)
    residuals: list[Figure] = field(default_factory=list)
    attention: list[Figure] = field(default_factory=list)
    attention_across: list[Figure] = field(default_factory=list)

    @property
    def figures(self) -> list[Figure]:
        """All of them."""
        return [*self.matrix, *self.scatter, *self.across, *self.residuals, *self.attention, *self.attention_across]


def draw_panels(evidence: Evidence) -> list[Panels]:
    """Every figure of every regressor, those of the cells across datasets apart.

    Figures are named for files and for ids in the page, whatever regressors and datasets are called.
    """
    known = [result.value for result in evidence.results if result.value is not None]
    limits = (min(known, default=0.0), max(known, default=1.0))
    names = _Names()
    return [_draw(evidence, regressor, names, limits) for regressor in evidence.regressors]


class _Names:
    """Gives every figure a name of its own of plain letters, digits and dashes."""

    def __init__(self) -> None:
        self.given: set[str] = set()

    def of(self, kind: str, regressor: str, result: Result | None = None) -> str:
        where = [] if result is None else [result.test] if result.inside else [result.train, "to", result.test]
        parts = [re.sub("[^A-Za-z0-9]+", "-", part).strip("-")[:30] for part in (kind, regressor, *where)]
        name = stem = "-".join(part for part in parts if part)
        number = 1
        while name.lower() in self.given:  # also on disks that do not tell upper from lower case
            number += 1
            name = f"{stem}-{number}"
        self.given.add(name.lower())
        return name


def _draw(evidence: Evidence, regressor: str, names: _Names, limits: tuple[float, float]) -> Panels:
    own = [result for result in evidence.results if result.regressor == regressor]
    panels = Panels(regressor, [result for result in own if result.inside] or own)
    if any(result.kind == "cross" for result in own):
        panels.matrix.append(figures.heat_map(regressor, own, limits, names.of("matrix", regressor)))
    for result in own:
        home = any(result is one for one in panels.home)
        (panels.scatter if home else panels.across).append(
            figures.scatter(result, names.of("scatter", regressor, result))
        )
        if len(set(result.group)) > 1:
            panels.residuals.append(figures.residuals(result, names.of("residuals", regressor, result)))
        if result.attention:
            chosen = panels.attention if home else panels.attention_across
            chosen.append(figures.attention(result, names.of("attention", regressor, result)))
    return panels
