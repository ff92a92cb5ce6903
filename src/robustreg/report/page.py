"""The page: all that the folder holds, put into words, tables, charts and images, written as one file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from robustreg import __version__
from robustreg.files import write_text_atomic
from robustreg.report import charts, sections
from robustreg.report.aggregate import group_by_name
from robustreg.report.reading import Run, is_comparison, is_run, read_comparison, read_run

FILE = "report.html"
_INSTALL = 'pip install "robustreg[report]"'


def write_report(run_or_comparison_dir: str | Path, out: str | Path | None = None) -> Path:
    """Write one self-contained HTML page about a run folder or a comparison folder.

    The page needs no network: Plotly, styles, images and data are inside it. What the folder does not hold
    yet (no evaluation, an interrupted run) becomes a sentence in its section.

    Args:
        run_or_comparison_dir: a folder with run.json or recipe.yaml, or one with compare.json.
        out: the file to write, or a folder to write `report.html` into; by default the folder itself.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: when the folder does not exist.
        ValueError: when the folder is neither a run nor a comparison, or its compare.json cannot be read.
        ModuleNotFoundError: when jinja2 or plotly is not installed.
    """
    folder = Path(run_or_comparison_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to report on")
    if is_comparison(folder):
        comparison = read_comparison(folder)
        context = _context(comparison.title, comparison.runs, comparison.problems, compared=True)
    elif is_run(folder):
        run = read_run(folder)
        context = _context(run.name, (run,), (), compared=False)
    else:
        raise ValueError(
            f"{folder} is neither a run folder (it has no run.json or recipe.yaml) "
            "nor a comparison folder (it has no compare.json)"
        )
    target = folder / FILE if out is None else Path(out)
    if target.is_dir():
        target = target / FILE
    return write_text_atomic(target, render("report.html.j2", context))


def _context(title: str, runs: Sequence[Run], problems: Sequence[str], compared: bool) -> dict[str, Any]:
    groups = group_by_name(runs)
    drawn = {
        "curve": charts.robustness_charts(groups),
        "distances": charts.distance_charts(groups),
        "terms": charts.training_charts(groups),
        "validation": charts.validation_charts(groups),
    }
    return {
        "title": title,
        "compared": compared,
        "single_seed": all(len(group.runs) == 1 for group in groups),
        "summary": sections.summary(runs, groups, compared),
        "problems": sections.problems(runs, problems, compared),
        "leaderboard": sections.leaderboard(groups) if compared else None,
        "accuracy": sections.accuracy(groups, compared),
        "charts": drawn,
        "legends": {key: charts.legend(figures) for key, figures in drawn.items()},
        "curve_tables": sections.curve_tables(groups),
        "curve_notes": sections.curve_notes(groups),
        "classes": sections.classes(groups, compared) if groups else None,
        "calibration": sections.calibration(groups, compared),
        "distances": sections.distances(groups),
        "examples": sections.examples(groups, compared),
        "cost": sections.cost(groups),
        "reproduce": sections.reproduce(groups, compared),
        "chart_data": [figure for figures in drawn.values() for figure in figures],
    }


def render(template: str, context: dict[str, Any]) -> str:
    """A page of this room, with styles, scripts and charts inside it."""
    try:
        import jinja2
    except ImportError as error:
        raise ModuleNotFoundError(
            f"the report needs jinja2, which is not installed: {_INSTALL}", name="jinja2"
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["script_json"] = _script_json
    environment.filters["soft"] = _soft
    # Styles and scripts are ours or Plotly's and go in as they are; all else is escaped by the template.
    assets = {"style": _template("report.css"), "script": _template("report.js"), "plotly": _plotly()}
    return environment.get_template(template).render(context, assets=assets, version=__version__)


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ModuleNotFoundError(
            f"the report needs plotly, which is not installed: {_INSTALL}", name="plotly"
        ) from error
    return str(get_plotlyjs())


def _template(name: str) -> str:
    return resources.files("robustreg.report").joinpath("templates", name).read_text(encoding="utf-8")


def _soft(text: str) -> Any:
    """The text escaped, with places where a long name without spaces may be broken in a narrow table."""
    from markupsafe import Markup, escape

    parts = re.split(r"(?<=[_./-])(?=\w)", text)
    return Markup("<wbr>").join(escape(part) for part in parts)


def _script_json(value: Any) -> str:
    """JSON that cannot end the <script> element it stands in, whatever the names in it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
