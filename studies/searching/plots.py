"""Pictures of a search: its history, its candidates, what mattered; matplotlib comes with the extra [demo]."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.importance import FanovaImportanceEvaluator

from drexcache.errors import DrexcacheError
from drexcache.studies.searching.outcome import SearchResult


def plot_search(found: SearchResult) -> str:
    """Write history, parallel coordinates and importances of every regressor as PNG beside the results; say where.

    Without matplotlib nothing is written, and the sentence says what to install.
    """
    try:
        plots = _plots()
    except DrexcacheError as error:
        return str(error)
    paths = []
    for regressor, study in found.studies.items():
        complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
        for kind, plot in plots.items():
            if not complete or (kind != "history" and regressor not in found.importance):
                continue
            paths.append(found.folder / f"{kind}-{regressor}.png")
            _save(plot, study, paths[-1], f"{regressor}: {found.best['metric']}")
    return f"plots in {', '.join(path.name for path in paths)}"


def _plots() -> dict[str, Callable[[Study], Any]]:
    try:
        import matplotlib
    except ImportError as error:
        raise DrexcacheError("no plots, because they need matplotlib: pip install 'drexcache[demo]'") from error
    if "matplotlib.pyplot" not in sys.modules:
        matplotlib.use("Agg")  # files only: no window, and no display needed
    from optuna.visualization import matplotlib as plots

    return {
        "history": plots.plot_optimization_history,
        "parallel": plots.plot_parallel_coordinate,
        "importance": lambda study: plots.plot_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)),
    }


def _save(plot: Callable[[Study], Any], study: Study, path: Path, title: str) -> None:
    from matplotlib import pyplot

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)  # of an axis on which all trials share one value
        axes = plot(study)
    axes.set_title(title)
    figure = axes.figure
    try:
        figure.savefig(path, dpi=130, bbox_inches="tight")
    except OSError as error:
        raise DrexcacheError(f"{path}: the plot could not be written ({error.strerror or error})") from error
    finally:
        pyplot.close(figure)
