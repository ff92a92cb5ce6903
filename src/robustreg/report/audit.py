"""The page of `robustreg audit`: the verdict, what to do next, the reasons, then every finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustreg.files import read_json, write_text_atomic
from robustreg.report import formatting as fmt
from robustreg.report.audit_plots import gauge, picture
from robustreg.report.page import render

FILE, DATA = "audit.html", "audit.json"
IN_FULL = 3  # reasons that are shown at once; the others say the same in other ways
_TONES = {"sound": "right", "suspicious": "wrong", "masked": "wrong"}
_LEVEL = {
    "masked": "points to masking",
    "suspicious": "suspicious",
    "notice": "worth knowing",
    "none": "fine",
}
_MEANING = {
    "sound": "The attacks work on this model, so what they measured can be believed.",
    "suspicious": "Something may be hiding weaknesses from the attacks. The number is not to be trusted yet.",
    "masked": "Some attacks fail on this model only because they are misled. The robustness they measure is not real.",
}
# Checks that say what hides the weakness, those about the same thing together, the most telling first; the others
# only show that something does.
_CAUSES = (
    ("loss_scale",),
    ("straight_through", "output_levels", "clipped_outputs", "flat_steps", "zero_gradients", "true_gradient"),
    ("averaged_attack", "repeated_calls"),
    ("attacked_alone", "batch_mates"),
    ("repaired_outputs", "logits"),
    ("single_step", "label_leaking", "single_step_symptoms"),
    ("finite_outputs",),
    ("learnt",),
)
_ENSEMBLE = "robustreg evaluate RUN 'evaluation.attacks=[standard_ensemble]'"


def write_audit_page(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write one self-contained HTML page about the audit in a folder.

    Args:
        folder: where audit.json is.
        out: the file to write; by default `audit.html` beside it.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: there is no audit.json.
        ValueError: it is damaged.
        ModuleNotFoundError: the report's extra is not installed.
    """
    audit = read_json(Path(folder) / DATA)
    try:
        context = _context(audit)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{Path(folder) / DATA} is damaged: {type(error).__name__} {error}") from error
    target = Path(folder) / FILE if out is None else Path(out)
    return write_text_atomic(target, render("audit.html.j2", context))


def _context(audit: Mapping[str, Any]) -> dict[str, Any]:
    findings = [_finding(entry) for entry in audit["findings"]]
    reasons = [f for f in findings if f["check"] in audit["reasons"]]
    summary = next((f for f in findings if f["check"] == "worst_case"), None)
    return {
        "verdict": audit["verdict"],
        "tone": _TONES[audit["verdict"]],
        "meaning": _meaning(audit["verdict"], summary),
        "threat": _within(audit["threat"]),
        "causes": _causes(reasons),
        "n": audit["n"],
        "correct": audit["correct"],
        "seed": audit["seed"],
        "seconds": fmt.seconds(audit["seconds"]),
        "thorough": audit["thorough"],
        "steps": _steps(audit["verdict"], reasons, audit["thorough"]),
        "summary": summary,
        "reasons": reasons[:IN_FULL],
        "more": reasons[IN_FULL:],
        "notices": [f for f in findings if f["concern"] == "notice"],
        "findings": findings,
    }


def _meaning(verdict: str, summary: Mapping[str, Any] | None) -> str:
    """The verdict in a sentence; a sound model may still be one on which PGD alone finds too little."""
    if verdict == "sound" and summary is not None and summary["concern"] != "none":
        return (
            "Good attacks work on this model, so what they measure can be believed. PGD alone finds too little: take "
            "what all attacks together leave."
        )
    return _MEANING[verdict]


def _steps(verdict: str, reasons: Sequence[Mapping[str, Any]], thorough: bool) -> list[dict[str, str]]:
    """What to do next, in order, each with the command for it if there is one."""
    look = {
        "text": "Look closer: more samples, steps and queries.",
        "command": "robustreg audit RUN --thorough",
    }
    measure = {
        "text": "Measure with the standard ensemble, four attacks one of which needs no gradients, and report the "
        "accuracy that is left after all of them.",
        "command": _ENSEMBLE,
    }
    if verdict == "sound":
        report = {
            "text": "Report that number with its interval, as an upper bound: a sound audit says that attacks work on "
            "this model, not that no stronger attack exists.",
            "command": "",
        }
        return [measure, report, *([] if thorough else [look])]
    stop = {
        "masked": "Do not report the robust accuracy that was measured so far, and do not rely on it. An attacker who "
        "goes another way gets through.",
        "suspicious": "Do not report the robust accuracy yet.",
    }
    repair = [{"text": f"{f['title']}: {f['advice']}", "command": ""} for f in _causes(reasons)]
    again = {
        "text": "When the cause is removed, audit again. The verdict should then be sound.",
        "command": "robustreg audit RUN",
    }
    closer = [look] if verdict == "suspicious" and not thorough else []
    return [{"text": stop[verdict], "command": ""}, *repair, *closer, measure, again]


def _causes(reasons: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most two reasons that name a cause, those that decide first; where none names one, the heaviest reason."""
    named = {f["check"]: f for f in reasons}
    first = [next((named[check] for check in family if check in named), None) for family in _CAUSES]
    found = sorted((f for f in first if f is not None), key=lambda f: f["concern"] != "masked")
    return found[:2] or list(reasons[:1])


def _within(threat: Mapping[str, Any]) -> str:
    """The threat in words, with its name."""
    eps = fmt.radius(threat["eps"])
    words = {
        "linf": f"each input value by at most {eps}",
        "l2": f"in all by a Euclidean length of at most {eps}",
    }
    name = fmt.threat_name(threat)
    said = words.get(str(threat["norm"]), "")
    return f"{said} ({name})" if said else f"within {name}"


def _finding(entry: Mapping[str, Any]) -> dict[str, Any]:
    entry = {
        "decisive": None,
        "below": False,
        "percent": True,
        **entry,
    }  # audits of earlier versions lack them
    return {
        **entry,
        "level": _LEVEL[entry["concern"]] if not entry["failed"] else "not carried out",
        "tone": "wrong" if entry["concern"] in ("suspicious", "masked") else "muted",
        "gauge": gauge(entry),
        "picture": picture(entry["plot"]),
    }
