"""The summary: what was run, in a sentence that judges nothing and a list of facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from robustreg.report import formatting as fmt
from robustreg.report.aggregate import Group, attack_keys
from robustreg.report.charts import COLOURS
from robustreg.report.reading import Run

_STATUS = {
    "finished": "a finished training run",
    "running": "a training run that had not ended when this page was written",
    "interrupted": "a training run that was interrupted",
    "failed": "a training run that failed",
    "unknown": "a training run of unknown status",
}
_LENGTHS = {"epochs": "epochs", "steps": "steps", "batch_size": "samples in a batch"}
_SPLITS = {"train": "training", "validation": "validation", "test": "test"}


def summary(runs: Sequence[Run], groups: Sequence[Group], compared: bool) -> dict[str, Any]:
    """One sentence, the key figures of a single run, the facts, and the list of a comparison's runs."""
    if compared:
        return {
            "sentence": _comparison_sentence(runs, groups),
            "status": None,
            "figures": [],
            "facts": _facts(runs),
            "runs": [
                _run_row(run, index % COLOURS) for index, group in enumerate(groups) for run in group.runs
            ],
        }
    run = runs[0]
    own = [("Recipe", run.name), ("Seed", "" if run.seed is None else str(run.seed))]
    figures = _figures(run)
    shown = {figure["label"] for figure in figures}
    facts = [*own, *_facts(runs), *_times(run)]
    return {
        "sentence": _run_sentence(run),
        "status": _status(run),
        "figures": figures,
        "facts": [(name, value) for name, value in facts if value and name not in shown],
        "runs": [],
    }


def problems(runs: Sequence[Run], others: Sequence[str], compared: bool) -> list[str]:
    """The sentences about what could not be read and what went wrong in training."""
    found = list(others)
    for run in runs:
        own = f"{run.label}: " if compared else ""
        found += [own + text for text in run.problems]
        if run.info.get("error"):
            found.append(f"{own}training stopped with: {run.info['error']}")
    return found


def _run_sentence(run: Run) -> str:
    what = "a network that was trained elsewhere" if run.elsewhere else _STATUS[run.status]
    words = f"{run.name} is {what}"
    if model := _name_of(run.info.get("model")):
        words += f", the model {model}" if run.elsewhere else f" of the model {model}"
    if data := _name_of(run.info.get("data")):
        words += f", looked at on {data}" if run.elsewhere else f" on {data}"
    return f"{words}, {_evaluated([run])}."


def _comparison_sentence(runs: Sequence[Run], groups: Sequence[Group]) -> str:
    if not runs:
        return "This comparison lists no run that could be read."
    what = f"{len(runs)} training {'run' if len(runs) == 1 else 'runs'}"
    if len(groups) < len(runs):
        what = f"{len(groups)} {'recipe' if len(groups) == 1 else 'recipes'} in {what}"
    data = list(dict.fromkeys(filter(None, (_name_of(run.info.get("data")) for run in runs))))
    return f"This page compares {what}{' on ' + ' and '.join(data) if data else ''}, {_evaluated(runs)}."


def _evaluated(runs: Sequence[Run]) -> str:
    found = [run.evaluation for run in runs if run.evaluation is not None]
    if not found:
        return "not evaluated yet" if len(runs) == 1 else "none of them evaluated yet"
    words = "evaluated" if len(found) == len(runs) else f"{len(found)} of them evaluated"
    sizes = sorted({e.n for e in found if e.n is not None})
    if sizes:
        words += f" on {' or '.join(fmt.count(n) for n in sizes)} samples"
    attacks = len(attack_keys(runs))
    if not attacks:
        return f"{words} without an attack"
    return f"{words}, clean and under {attacks} {'attack' if attacks == 1 else 'attacks'}"


def _figures(run: Run) -> list[dict[str, str]]:
    figures = []
    if (evaluation := run.evaluation) is not None:
        threat = fmt.threat_name(evaluation.threat)
        for label, score, extra in (
            ("Clean accuracy", evaluation.clean, ""),
            ("Worst case over the attacks", evaluation.worst, threat),
        ):
            if score is not None:
                ends = fmt.interval(score.low, score.high)
                figures.append(
                    {"label": label, "value": fmt.percent(score.accuracy), "note": ends, "extra": extra}
                )
    if run.step_seconds is not None:
        time = fmt.seconds(run.step_seconds)
        figures.append({"label": "Training step", "value": time, "note": "", "extra": "median, measured"})
    if (parameters := _count(run.info.get("parameters"))) and len(figures) < 4:
        figures.append({"label": "Parameters", "value": parameters, "note": "", "extra": ""})
    return figures


def _facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What the runs share, or every different value of it; a fact nobody knows is left out."""
    readers: dict[str, Callable[[Run], str]] = {
        "Objective": lambda run: _text(run.info.get("objective")) if len(runs) == 1 else "",
        "Model": lambda run: fmt.describe(run.info.get("model") or ""),
        "Weights": _weights,
        "Parameters": lambda run: _count(run.info.get("parameters")),
        "Data": lambda run: _data(run.info.get("data")),
        "Threat": _threats,
        "Optimizer": lambda run: _then(run.info.get("optimizer"), run.info.get("schedule"), "schedule"),
        "Length": _length,
        "Device": lambda run: _then(run.info.get("device"), run.info.get("precision"), "precision"),
        "Versions": lambda run: fmt.describe(run.info.get("versions") or ""),
    }
    facts = [
        (name, "; ".join(dict.fromkeys(filter(None, map(read, runs))))) for name, read in readers.items()
    ]
    return [(name, value) for name, value in facts if value]


def _times(run: Run) -> list[tuple[str, str]]:
    started = fmt.moment(run.info.get("started"))
    taken = fmt.duration(run.info.get("started"), run.info.get("finished"))
    return [
        ("Started", started.strftime("%Y-%m-%d %H:%M") if started else ""),
        ("Took", "" if taken == fmt.UNKNOWN else taken),
    ]


def _run_row(run: Run, colour: int) -> dict[str, Any]:
    return {
        "name": run.name,
        "colour": colour,
        "seed": fmt.UNKNOWN if run.seed is None else str(run.seed),
        "status": _status(run),
        "took": fmt.duration(run.info.get("started"), run.info.get("finished")),
        "objective": _text(run.info.get("objective")) or fmt.UNKNOWN,
        "folder": run.folder.name,
    }


def _status(run: Run) -> str:
    return "trained elsewhere" if run.elsewhere else run.status


def _weights(run: Run) -> str:
    """The file that a network of elsewhere was taken from."""
    file = run.info.get("weights")
    if not run.elsewhere:
        return ""
    if not isinstance(file, dict):
        return "those that the model's function brings"
    return f"{file.get('file')} (sha256 {str(file.get('sha256'))[:12]}), trained elsewhere"


def _threats(run: Run) -> str:
    """The threat of the recipe; that of the evaluation, too, where it is another one."""
    own = fmt.threat_name(run.info.get("threat"))
    tested = fmt.threat_name(run.evaluation.threat) if run.evaluation else ""
    if not own or not tested or own == tested:
        return own or tested
    return f"{own}, evaluated under {tested}"


def _then(first: Any, second: Any, word: str) -> str:
    parts = [fmt.describe(first) if first else "", f"{word} {fmt.describe(second)}" if second else ""]
    return ", ".join(filter(None, parts))


def _length(run: Run) -> str:
    parts = [
        f"{_count(run.info.get(key))} {word}" for key, word in _LENGTHS.items() if _count(run.info.get(key))
    ]
    return ", ".join(parts)


def _text(value: Any) -> str:
    return str(value) if value else ""


def _data(data: Any) -> str:
    if not isinstance(data, Mapping):
        return fmt.describe(data) if data else ""
    name = str(data.get("description") or data.get("name") or "").rstrip(".")
    parts = [f"{fmt.count(data[key])} {word}" for key, word in _SPLITS.items() if fmt.integer(data.get(key))]
    labelled, trained = fmt.integer(data.get("labelled")), fmt.integer(data.get("train"))
    if labelled is not None and trained is not None and labelled < trained:
        parts[:1] = [f"{fmt.count(trained)} training ({fmt.count(labelled)} with a label)"]
    digest = data.get("sha256")
    if isinstance(digest, str) and digest:
        parts.append(f"SHA-256 {digest[:12]}…")
    return ", ".join(filter(None, [name, *parts]))


def _name_of(value: Any) -> str:
    name = value.get("name") if isinstance(value, Mapping) else value
    return name if isinstance(name, str) else ""


def _count(value: Any) -> str:
    return fmt.count(value) if fmt.integer(value) is not None else ""
