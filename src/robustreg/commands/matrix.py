"""`robustreg connections COMPARISON`: every functional on every run's network, and how it ranks robust accuracy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .connections import FILE, PAGE
from .terminal import UsageError, console, print_table

if TYPE_CHECKING:
    from robustreg.connections.matrix import Network
    from robustreg.report.reading import Run

    from .workflow import Setting

LOOK = "functionals.json"  # kept in each run's folder, so that the same command goes on after an interruption
GAIN = math.log10(2)  # what the table calls lowered


def measure_comparison(
    folder: Path, out: Path, setting: Setting, samples: int | None, baseline: str, imports: list[str] | None
) -> None:
    """Measure what is not measured yet, then write the table and the page."""
    from robustreg.connections.matrix import by_name, correlations, ratios
    from robustreg.connections.outcome import matrix_of
    from robustreg.files import write_json_atomic
    from robustreg.report.reading import read_comparison

    comparison = read_comparison(folder)
    evaluated = [run for run in comparison.runs if _scores(run) is not None]
    if not evaluated:
        raise UsageError(f"no run of {folder} is trained and evaluated; `robustreg compare` makes them")
    if baseline not in {run.name for run in evaluated}:
        names = ", ".join(dict.fromkeys(run.name for run in evaluated))
        raise UsageError(f"{folder} has no evaluated run named {baseline!r}; --baseline is one of {names}")
    networks, looks = [], []
    for number, run in enumerate(evaluated, 1):
        found = _look(run, setting, samples, imports)
        looks.append({"name": run.name, "seed": run.seed, **found})
        networks.append(_network(run, found))
        if setting.progress:
            console().print(f"[{number}/{len(evaluated)}] {run.label}")
    left_out = [run.label for run in comparison.runs if run not in evaluated]
    result = {
        "format": 1,
        "title": comparison.title,
        "baseline": baseline,
        "left_out": left_out,
        **matrix_of(networks, looks, baseline),
    }
    _print(by_name(networks), ratios(networks, baseline), correlations(networks))
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomic(out / FILE, result)
    console().print(f"results: {out / FILE}")
    _write_page(result, out / PAGE)


def _scores(run: Run) -> tuple[float, float] | None:
    evaluation = run.evaluation
    if evaluation is None or evaluation.clean is None or evaluation.worst is None or run.status != "finished":
        return None
    return evaluation.clean.accuracy, evaluation.worst.accuracy


def _network(run: Run, found: dict[str, Any]) -> Network:
    from robustreg.connections.matrix import Network

    clean, robust = _scores(run) or (math.nan, math.nan)
    return Network(run.name, run.seed or 0, clean, robust, found["means"])


def _look(run: Run, setting: Setting, samples: int | None, imports: list[str] | None) -> dict[str, Any]:
    """What was measured on the run; from its folder if that was after training and on as many samples."""
    from robustreg.config import build
    from robustreg.connections.functionals import FUNCTIONALS
    from robustreg.connections.matrix import look
    from robustreg.files import read_json, write_json_atomic

    from . import workflow

    recipe = workflow.recipe_of(run.folder, imports=imports)
    workflow.set_threads(setting)
    built = build(recipe, data_dir=setting.data_dir, other_runs=False)
    test = workflow.test_samples(built)
    test = test.take(min(samples or len(test), len(test)))
    file = run.folder / LOOK
    if file.is_file() and file.stat().st_mtime >= (run.folder / "run.json").stat().st_mtime:
        kept = read_json(file)
        if kept.get("samples") == len(test) and list(kept["means"]) == [f.key for f in FUNCTIONALS]:
            return dict(kept)
    net = workflow.load_net(built, run.folder, setting)
    test = test.to(workflow.torch_device(setting.device))
    found = look(net, test.x, test.y, built.threat)
    content = {"samples": len(test), "threat": repr(built.threat), **found.as_json()}
    write_json_atomic(file, content)
    return content


def _print(groups: dict[str, list[Network]], table: dict[str, Any], ranks: dict[str, Any]) -> None:
    rows = []
    for name, members in groups.items():
        lowered = [key for key, (mean, _) in table[name].items() if mean < -GAIN]
        clean, robust = (
            math.fsum(values) / len(members)
            for values in ([n.clean for n in members], [n.robust for n in members])
        )
        rows.append((name, str(len(members)), f"{100 * clean:.1f}", f"{100 * robust:.1f}", str(len(lowered))))
    total = len(next(iter(table.values())))
    heads = ("regulariser", "seeds", "clean", "worst case", f"functionals halved, of {total}")
    print_table("trained with", heads, rows, left=1)
    told = sorted(
        ((key, r) for key, r in ranks.items() if math.isfinite(r.value)), key=lambda item: item[1].value
    )
    console().print(
        "Rank correlation of each functional with worst-case accuracy over the regularisers; 95 % intervals over "
        "seeds, and over regularisers and seeds:"
    )
    told_rows = [
        (key, f"{r.value:.2f}", f"[{r.low:.2f}, {r.high:.2f}]", f"[{r.low_all:.2f}, {r.high_all:.2f}]")
        for key, r in told
    ]
    print_table("", ("functional", "rho", "seeds", "both"), told_rows, left=1)


def _write_page(result: dict[str, Any], file: Path) -> None:
    from robustreg.report import write_matrix

    try:
        console().print(f"page:    {write_matrix(result, file)}")
    except ModuleNotFoundError as error:
        console().print(f"no page: {error}")
