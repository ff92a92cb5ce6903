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
    "sound": "Attacks work on this model. The accuracy that they leave can be believed: the true one is at most that.",
    "suspicious": "Something in this model may hide weaknesses from attacks. Do not trust its robust accuracy yet.",
    "masked": "The robustness measured on this model is not real. Attacks of the usual kind fail because the model "
    "misleads them, and others get through.",
}
_THROUGH = (
    "What this model tells attacks of itself is wrong. Here the usual attack got through all the same; do not rely on "
    "that elsewhere, nor on a number measured with it."
)
_UNCERTAIN = (
    "What this model tells attacks of itself is wrong, so attacks that trust it say little, and the robustness "
    "measured with them may not be real."
)
_ONE_CLASS = (
    "This model gives every input the same answer. It has not learnt anything yet, so there is no robustness to "
    "speak of."
)
_WHY_NOT = {
    "sound": "",
    "suspicious": "It may be too high.",
    "masked": "An attacker who goes another way gets through.",
}
# Checks that say that gradients are wrong, and not that an attack failed for it.
_WRONG_BUT_FOUND = {"true_gradient", "path_of_gradients", "zero_gradients", "flat_steps", "finite_outputs"}
_SMALL, _LARGE = 0.05, 0.30  # of the samples, between the usual attack and all together
# Checks that say what hides the weakness, those about the same thing together, the most telling first; the others
# only show that something does.
_CAUSES = (
    ("bent_outputs", "loss_scale"),
    (
        "straight_through",
        "output_levels",
        "clipped_outputs",
        "flat_steps",
        "zero_gradients",
        "path_of_gradients",
        "true_gradient",
    ),
    ("averaged_attack", "repeated_calls"),
    ("attacked_alone", "batch_mates"),
    ("earlier_calls",),
    ("repaired_outputs", "logits"),
    ("single_step", "label_leaking", "single_step_symptoms"),
    ("finite_outputs",),
    ("learnt",),
)
_SINGLE_STEP = _CAUSES[-3]
_ENSEMBLE = "robustreg evaluate RUN 'evaluation.attacks=[standard_ensemble]'"
_RANDOM = "robustreg evaluate RUN 'evaluation.attacks=[{attack: standard_ensemble, version: rand}]'"


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
        "meaning": _meaning(audit["verdict"], summary, reasons),
        "counts": _counts(summary, audit["correct"]),
        "threat": _within(audit["threat"]),
        "causes": _causes(reasons),
        "untaught": _untaught(reasons),
        "pgd_missed": bool(summary and summary["concern"] != "none"),
        "n": audit["n"],
        "correct": audit["correct"],
        "seed": audit["seed"],
        "seconds": fmt.seconds(audit["seconds"]),
        "thorough": audit["thorough"],
        "steps": _steps(
            audit["verdict"],
            reasons,
            audit["thorough"],
            _WHY_NOT[audit["verdict"]]
            if _missed(audit["verdict"], summary, reasons) is None
            else "It may be far too high where this attack has less luck.",
        ),
        "summary": summary,
        "reasons": reasons[:IN_FULL],
        "more": reasons[IN_FULL:],
        "notices": [f for f in findings if f["concern"] == "notice"],
        "findings": findings,
    }


def _counts(summary: Mapping[str, Any] | None, n: int) -> dict[str, Any] | None:
    """How many samples the usual attack and all together leave standing, and a picture of the two."""
    plot: dict[str, Any] = (summary["plot"] or {}) if summary is not None else {}
    bars = {bar["name"]: bar for bar in plot["bars"]} if plot.get("kind") == "bars" else {}
    if not {"PGD", "all together"} <= set(bars):
        return None
    usual, everything = (dict(bars[name]) for name in ("PGD", "all together"))
    usual["name"], everything["name"] = "the usual attack", "all attacks"
    return {
        "usual": round(usual["value"] * n),
        "all": round(everything["value"] * n),
        "picture": picture({**plot, "title": "samples that withstand", "bars": [usual, everything]}),
    }


def _missed(
    verdict: str, summary: Mapping[str, Any] | None, reasons: Sequence[Mapping[str, Any]]
) -> float | None:
    """Where all that decides is that gradients are wrong, and that cost little: what the usual attack missed for it.

    It is the share of samples that all attacks together found beyond it.
    """
    deciding = {f["check"] for f in reasons if f["concern"] == "masked"}
    if verdict != "masked" or not deciding <= _WRONG_BUT_FOUND or summary is None:
        return None
    missed = summary["value"]
    return None if missed is None or missed >= _LARGE else float(missed)


def _meaning(verdict: str, summary: Mapping[str, Any] | None, reasons: Sequence[Mapping[str, Any]]) -> str:
    """The verdict in a sentence; a sound model may still be one on which PGD alone finds too little."""
    missed = _missed(verdict, summary, reasons)
    if missed is not None:
        return _THROUGH if missed < _SMALL else _UNCERTAIN
    if _untaught(reasons):
        return _ONE_CLASS
    if verdict == "sound" and summary is not None and summary["concern"] != "none":
        return (
            "Good attacks work on this model, so what they measure can be believed. PGD alone finds too little: take "
            "what all attacks together leave."
        )
    return _MEANING[verdict]


def _untaught(reasons: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all that is wrong with the model is that it has learnt nothing."""
    return [f["check"] for f in reasons] == ["learnt"]


def _steps(
    verdict: str, reasons: Sequence[Mapping[str, Any]], thorough: bool, why_not: str
) -> list[dict[str, str]]:
    """What to do next, in order: in a few words, in full, and the command for it if there is one."""
    look = {
        "head": "Look closer.",
        "text": "With more samples, steps and queries.",
        "command": "robustreg audit RUN --thorough",
    }
    measure = {
        "head": "Measure again, with attacks of several kinds.",
        "text": "The standard ensemble is four of them, and one needs no gradients. What is left after all four is the "
        "number.",
        "command": _ENSEMBLE,
    }
    if any(f["check"] == "repeated_calls" for f in reasons):
        measure |= {
            "text": "The standard ensemble for random models averages over their random numbers. What is left after "
            "all its attacks is the number.",
            "command": _RANDOM,
        }
    if verdict == "sound":
        report = {
            "head": "Report that number with its interval, as an upper bound.",
            "text": "A sound audit says that attacks work on this model, not that no stronger attack exists.",
            "command": "",
        }
        return [measure, report, *([] if thorough else [look])]
    stop = {
        "head": "Do not report the robust accuracy yet."
        if verdict == "suspicious"
        else "Do not report the robust accuracy measured so far, and do not rely on it.",
        "text": why_not,
        "command": "",
    }
    heads = ("Remove the cause.", "Then the next one.")
    repair = [
        {"head": head, "text": f["advice"], "command": ""}
        for head, f in zip(heads, _causes(reasons), strict=False)
    ]
    again = {
        "head": "Audit again.",
        "text": "To see whether anything is left.",
        "command": "robustreg audit RUN",
    }
    if _untaught(reasons):
        return [*repair, again]
    closer = [look] if verdict == "suspicious" and not thorough else []
    return [stop, *repair, *closer, measure, again]


def _causes(reasons: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most two reasons that name a cause, those that decide first; where none names one, the heaviest reason."""
    named = {f["check"]: f for f in reasons}
    # Random answers look like symptoms of single steps, too.
    families = [family for family in _CAUSES if family is not _SINGLE_STEP or "repeated_calls" not in named]
    present = [[named[check] for check in family if check in named] for family in families]
    first = [min(family, key=lambda f: f["concern"] != "masked") for family in present if family]
    found = sorted(first, key=lambda f: f["concern"] != "masked")
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
