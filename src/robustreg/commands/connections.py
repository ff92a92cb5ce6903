"""`robustreg connections`: the theory of the regularisers, checked on a trained run, or measured on a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .terminal import UsageError, console, print_table

if TYPE_CHECKING:
    from robustreg.connections import Case, Claim

    from .workflow import Setting

FILE, PAGE = "connections.json", "connections.html"
SAMPLES, RADIUS = 16, 1e-3
LARGEST = 4 << 30  # bytes of a Hessian for every sample, in float64


def connections(
    folder: Annotated[
        Path,
        typer.Argument(metavar="RUN_OR_COMPARISON", help="A run or comparison folder.", show_default=False),
    ],
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            min=1,
            help="Test samples, the first ones: 16 of a run, of which each has a Hessian; all for a comparison.",
            show_default=False,
        ),
    ] = None,
    claims: Annotated[
        str | None,
        typer.Option("--claims", metavar="I1,B4", help="These claims only.", show_default=False),
    ] = None,
    radius: Annotated[
        float | None,
        typer.Option(
            "--radius",
            help="l2 length of the displacement that claims speak of; by default the largest of some lengths, 1e-2 "
            "to 1e-5, at which half of the samples stay in their linear region.",
            show_default=False,
        ),
    ] = None,
    distances: Annotated[
        int,
        typer.Option(
            "--distances", min=0, help="Bound so many samples' distance to the decision boundary; 0 for none."
        ),
    ] = 8,
    baseline: Annotated[
        str,
        typer.Option(
            "--baseline", metavar="NAME", help="Of a comparison: the runs that others are set against."
        ),
    ] = "plain",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write into; FOLDER by default.", show_default=False),
    ] = None,
    data_dir: options.DataDir = None,
    imports: options.Imports = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Check identities and bounds between regularisers on a run's network, with conditions that are measured.

    Of a comparison, measure what every regulariser penalises on every run's network, and how that ranks their
    robust accuracy.

    Writes connections.json and, where the report's packages are installed, connections.html. The exit code is 1
    if a claim is violated on samples that meet its conditions.
    """
    from robustreg.report.reading import is_comparison

    from . import matrix, workflow

    setting = workflow.Setting(data_dir, device, threads)
    if is_comparison(folder):
        if claims is not None:
            raise UsageError(f"--claims are checked on one run, but {folder} is a comparison")
        matrix.measure_comparison(folder, folder if out is None else out, setting, samples, baseline, imports)
        return
    _check_run(folder, samples or SAMPLES, claims, radius, distances, out, setting, imports)


def _check_run(
    run: Path,
    samples: int,
    claims: str | None,
    radius: float | None,
    distances: int,
    out: Path | None,
    setting: Setting,
    imports: list[str] | None,
) -> None:
    from robustreg.connections import CLAIMS, Claim, fitting_radius, outcome, telling_residual
    from robustreg.files import write_json_atomic

    if radius is not None and not radius > 0:
        raise UsageError(f"--radius is a length above 0, got {radius}")
    chosen = _chosen(CLAIMS, claims)
    case = _case(run, samples, radius or RADIUS, setting, imports)
    if radius is None:
        case = case.at_radius(fitting_radius(case))
    judge = Claim.residual if radius is not None else telling_residual
    outcomes = [outcome.outcome(claim, judge(claim, case)) for claim in chosen]
    result: dict[str, Any] = {
        "format": 1,
        "name": run.resolve().name,
        "case": outcome.describe_case(case),
        "tally": outcome.tally(outcomes),
        "claims": outcomes,
        "distances": _distances(case, distances),
    }
    _print(result)
    folder = run if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder / FILE, result)
    console().print(f"results: {folder / FILE}")
    _write_page(result, folder / PAGE)
    if result["tally"]["violated"] or any((result["distances"] or {}).get("refuted", [])):
        raise typer.Exit(1)


def _chosen(known: tuple[Claim, ...], wanted: str | None) -> list[Claim]:
    from robustreg.registry import closest

    if wanted is None:
        return list(known)
    by_key = {claim.key: claim for claim in known}
    keys = [word.strip() for word in wanted.split(",") if word.strip()]
    for key in keys:
        if key not in by_key:
            near = closest(key, list(by_key))
            hint = f"; did you mean {near!r}?" if near else ""
            raise UsageError(f"there is no claim {key!r}{hint} (there are {', '.join(by_key)})")
    return [by_key[key] for key in dict.fromkeys(keys)]


def _case(run: Path, samples: int, radius: float, setting: Setting, imports: list[str] | None) -> Case:
    """The run's network in float64 on its first test samples, under its own threat."""
    from robustreg.config import build
    from robustreg.connections import Case
    from robustreg.evaluation.predict import logits_of
    from robustreg.evaluation.steadiness import unsteady

    from . import workflow

    recipe = workflow.recipe_of(run, imports=imports)
    workflow.set_threads(setting)
    built = build(recipe, data_dir=setting.data_dir, other_runs=False)
    if not built.threat.eps > 0:
        raise UsageError(f"the claims are about a ball around a sample, but the threat of {run} has eps 0")
    net = workflow.load_net(built, run, setting)
    test = workflow.test_samples(built)
    test = test.take(min(samples, len(test))).to(workflow.torch_device(setting.device))
    inputs = test.x[0].numel()
    if len(test) * inputs**2 * 8 > LARGEST:
        fit = max(1, LARGEST // (8 * inputs**2))
        raise UsageError(
            f"{len(test)} samples of {inputs} inputs have Hessians of {len(test) * inputs**2 * 8 / 2**30:.0f} GiB; "
            f"take --samples {fit} or fewer"
        )
    if why := unsteady(net, test.x, logits_of(net, test.x)):
        raise UsageError(f"{why}: the claims are about functions of one sample, and say nothing of it")
    return Case(net, test.x, test.y, threat=built.threat, radius=radius)


def _distances(case: Case, count: int) -> dict[str, Any] | None:
    from robustreg.connections import Case, certificates, outcome

    if not count:
        return None
    norm = case.threat.name if case.threat.norm in certificates.DUAL else "l2"
    few = Case(case.model, case.x[:count], case.y[:count], threat=case.threat, seed=case.seed)
    return outcome.bounds_of(certificates.distance_bounds(few, norm))


def _print(result: dict[str, Any]) -> None:
    case = result["case"]
    title = (
        f"{result['name']}: {case['samples']} samples of {case['inputs']} inputs, {case['correct']} classified "
        f"correctly, displacements of {case['radius']:g}"
    )
    rows = [
        (
            entry["key"],
            entry["verdict"],
            entry["title"],
            f"{entry['applies']}/{entry['of']}",
            _off_by(entry),
            "" if entry["tightness"] is None else f"{entry['tightness']:.0%}",
            _order(entry),
        )
        for entry in result["claims"]
    ]
    print_table(title, ("claim", "verdict", "", "applies", "off by", "tight", "order"), rows, left=3, gap=2)
    tally = result["tally"]
    console().print(
        "off by: relative, beyond rounding; 0 = 0: both sides vanish, which says little unless that is the claim. "
        "tight: the median of an inequality's left side over its right. order: observed, of the one that is claimed"
    )
    console().print(
        f"{tally['holds']} claims hold, {tally['violated']} violated, {tally['does not apply']} do not apply here"
    )
    if result["distances"]:
        console().print(_distance_sentence(result["distances"]))


def _off_by(entry: dict[str, Any]) -> str:
    if entry["worst"] is None or entry["relation"] == "~":
        return ""
    if entry["empty"] and entry["verdict"] == "holds":
        return "0 = 0"
    return "" if entry["relation"] == "<=" and not entry["worst"] else f"{entry['worst']:.1e}"


def _order(entry: dict[str, Any]) -> str:
    if entry["order"] is None or not entry["applies"]:
        return ""
    if entry["below_rounding"]:
        return "no error"
    return f"{entry['observed_order']:.2f} of {entry['order']:g}"


def _distance_sentence(distances: dict[str, Any]) -> str:
    total = len(distances["lower"])
    sentence = (
        f"distance to the decision boundary ({distances['norm']}, {total} samples): {sum(distances['certified'])} "
        f"with a lower bound, {sum(distances['exact'])} with the boundary in the sample's own linear region"
    )
    return sentence + (
        f", {sum(distances['refuted'])} REFUTED by an attack" if any(distances["refuted"]) else ""
    )


def _write_page(result: dict[str, Any], file: Path) -> None:
    from robustreg.report import write_connections

    try:
        console().print(f"page:    {write_connections(result, file)}")
    except ModuleNotFoundError as error:
        console().print(f"no page: {error}")
