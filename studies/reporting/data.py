"""What the page's script needs to show an image on hover, and the gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from drexcache.studies.reporting.figures import Figure
from drexcache.studies.reporting.images import Key
from drexcache.studies.reporting.results import Result
from drexcache.studies.reporting.svg import inline_svg

SHOWN = 6  # images at each end of a gallery


@dataclass
class PageData:
    """Every image once, every result once; figures only hold places and numbers of rows.

    images : [id, dataset, rated, thumbnail or ""]. results : of each the images' numbers, predictions, spread
    over runs (or None), attention by arm. panels : name of a figure -> its points.
    """

    images: list[list[Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    panels: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _number_of: dict[Key, int] = field(default_factory=dict)

    @classmethod
    def of(cls, results: Sequence[Result], thumbnails: Mapping[Key, str]) -> PageData:
        """The data of these results."""
        data = cls()
        for result in results:
            for image, rated in zip(result.ids, result.rated.tolist(), strict=True):
                key = (result.test, image)
                if key not in data._number_of:
                    data._number_of[key] = len(data.images)
                    data.images.append([image, result.test, round(rated, 3), thumbnails.get(key, "")])
            data.results.append(
                {
                    "images": [data._number_of[result.test, image] for image in result.ids],
                    "predicted": np.round(result.predicted, 3).tolist(),
                    "spread": None if result.spread is None else np.round(result.spread, 3).tolist(),
                    "attention": {arm: np.round(own, 3).tolist() for arm, own in result.attention.items()},
                }
            )
        return data

    def image(self, result: Result, row: int) -> int:
        """The number of a result's image."""
        return self._number_of[result.test, result.ids[row]]

    def embed(self, figure: Figure, results: Sequence[Result]) -> str:
        """The figure's SVG; its points become known to the page."""
        svg, places = inline_svg(figure)
        numbers = {id(result): number for number, result in enumerate(results)}
        self.panels[figure.name] = [
            {"result": numbers[id(points.result)], "rows": list(points.rows), **place}
            for points, place in zip(figure.points, places, strict=True)
        ]
        return svg

    def as_json(self) -> dict[str, Any]:
        """Plain types, for the page's script."""
        return {"images": self.images, "results": self.results, "panels": self.panels}


@dataclass(frozen=True)
class Shown:
    """One image of a gallery."""

    image: int
    id: str
    rated: float
    predicted: float
    attention: dict[str, float]

    @property
    def error(self) -> float:
        """Predicted minus rated."""
        return self.predicted - self.rated


def gallery(result: Result, data: PageData) -> tuple[list[Shown], list[Shown]]:
    """The worst-predicted images, worst first, and the best-predicted, best first; none stands in both."""
    order = np.argsort(-np.abs(result.residual), kind="stable").tolist()
    shown = min(SHOWN, len(order) // 2)
    worst, best = order[:shown], order[::-1][:shown]
    return [_shown(result, row, data) for row in worst], [_shown(result, row, data) for row in best]


def _shown(result: Result, row: int, data: PageData) -> Shown:
    weights = {arm: float(own[row]) for arm, own in result.attention.items()}
    number = data.image(result, row)
    return Shown(number, result.ids[row], float(result.rated[row]), float(result.predicted[row]), weights)
