"""The page of an audit, and the command's exit codes."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

import robustreg as rr
from robustreg import auditing, cli
from robustreg.auditing import Audit, Finding, plots
from robustreg.auditing.statistics import Estimate
from robustreg.commands.audit import EXIT
from robustreg.report import write_audit_page
from robustreg.report.audit_plots import gauge, picture

THREAT = rr.Threat("linf", 8 / 255)


def _finding(check: str, concern: str, plot: dict[str, object] | None = None) -> Finding:
    return Finding(
        check=check,
        title=f"Title of {check} <b>",
        measured=f"Measured {check}.",
        value=0.5,
        low=0.4,
        high=0.6,
        threshold=0.1,
        source="somewhere 2018",
        meaning=f"Meaning of {check}.",
        advice=f"Advice on {check}.",
        concern=concern,  # type: ignore[arg-type]
        weight=1,
        plot=plot,
    )


def _audit(*findings: Finding) -> Audit:
    return Audit(findings, THREAT, 10, 9, 0, False, 1.0)


LINES = plots.lines("eps", [0.1, 0.2, 0.4], {"accuracy": [1.0, 0.5, 0.0]}, log=True, percent=True)
SURFACE = plots.surface("across", "along", torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
BARS = plots.bars("samples fooled", {"gradients": Estimate(0.2, 0.1, 0.3), "both": Estimate(0.9, 0.8, 1.0)})
NUMBERS = torch.tensor([0.0, 1e-3, 1e-2, 1e-2, torch.nan])


def test_the_page_says_what_it_means_and_what_to_do(tmp_path: Path) -> None:
    _audit(
        _finding("one", "masked", LINES), _finding("two", "notice"), _finding("three", "none", SURFACE)
    ).save(tmp_path)
    page = write_audit_page(tmp_path).read_text(encoding="utf-8")
    steps = page[page.index('id="next"') : page.index('id="reasons"')]
    reasons = page[page.index('id="reasons"') : page.index('id="findings"')]
    assert "Advice on one." in steps
    assert "robustreg audit RUN" in steps
    assert "Meaning of one." in reasons
    assert "Advice on one." in reasons
    assert "Advice on three." not in steps + reasons
    assert '<span class="wrong">masked</span>' in page
    assert "<b>" not in page  # names are escaped
    assert reasons.count("<circle") == 3
    assert "data:image/png;base64," in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)  # nothing is loaded


def test_what_to_do_names_the_cause_and_not_the_attack_that_showed_it(tmp_path: Path) -> None:
    heavy = [_finding(check, "masked") for check in ("square", "true_gradient", "straight_through")]
    _audit(*heavy, _finding("logits", "suspicious")).save(tmp_path)
    page = write_audit_page(tmp_path).read_text(encoding="utf-8")
    steps = page[page.index('id="next"') : page.index('id="reasons"')]
    assert steps.index("Advice on straight_through.") < steps.index("Advice on logits.")
    assert "Advice on square." not in steps
    assert "Advice on true_gradient." not in steps  # of the same family
    assert "Most likely cause:</strong> Meaning of straight_through." in page


def test_every_plot_can_be_drawn() -> None:
    """Places against hand-made numbers: a bar of 20 %, four counted numbers, a diagonal."""
    bars = picture(BARS)
    assert bars is not None
    assert [row["width"] for row in bars["rows"]] == [20.0, 90.0]
    assert [row["text"] for row in bars["rows"]] == ["20 %", "90 %"]
    counted = plots.histogram("gradient", {"float32": NUMBERS}, log=True)
    assert [sum(counted["series"][0]["counts"]), counted["series"][0]["outside"]] == [3, 2]
    drawn = picture(counted)
    assert drawn is not None
    assert [drawn["low"], drawn["high"]] == ["0.001", "0.01"]
    assert drawn["left_out"] == "2 of float32 are zero or no number and not drawn"
    line = torch.tensor([-1.0, 0.0, 1.0])
    dots = picture(plots.scatter("said", "real", line, line))
    assert dots is not None
    assert dots["dots"] == [("40.0", "160.0"), ("210.0", "100.0"), ("380.0", "40.0")]
    assert picture(None) is None
    assert picture({"kind": "of a later version"}) is None


def test_a_gauge_says_from_where_a_check_is_concerned() -> None:
    finding = _finding("one", "none").to_dict() | {"decisive": 0.3}
    found = gauge(finding)
    assert found is not None
    assert [mark["text"] for mark in found["marks"]] == ["suspicious above 10 %", "masked above 30 %"]
    assert [found["dot"], found["left"], found["width"]] == [50.0, 40.0, 20.0]
    below = gauge(finding | {"decisive": None, "below": True, "percent": False, "low": 0.5, "high": 0.5})
    assert below is not None
    assert [below["said"], below["marks"][0]["text"]] == ["0.5", "of concern below 0.1"]
    assert gauge(finding | {"threshold": None}) is None


def test_a_sound_page_says_how_to_report(tmp_path: Path) -> None:
    _audit(_finding("one", "none")).save(tmp_path)
    page = write_audit_page(tmp_path).read_text(encoding="utf-8")
    assert '<span class="right">sound</span>' in page
    assert "as an upper bound" in page


def test_a_sound_page_warns_of_a_usual_attack_that_finds_too_little(tmp_path: Path) -> None:
    _audit(_finding("worst_case", "notice", BARS)).save(tmp_path)
    page = write_audit_page(tmp_path).read_text(encoding="utf-8")
    assert '<span class="right">sound</span>' in page
    assert "PGD alone finds too little" in page
    assert "No sign of that was found, but the usual attack alone is too weak here." in page


def test_a_damaged_audit_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text(json.dumps({"verdict": "sound"}))
    with pytest.raises(ValueError, match="is damaged"):
        write_audit_page(tmp_path)
    with pytest.raises(ValueError, match="format"):
        Audit.from_dict({"format": 2})


@pytest.mark.parametrize(("concern", "code"), [("none", 0), ("suspicious", 3), ("masked", 4)])
def test_the_command_ends_with_the_verdict(
    concern: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from robustreg.commands import workflow

    class Built:
        threat = THREAT

    monkeypatch.setattr(workflow, "recipe_of", lambda *_: None)
    monkeypatch.setattr("robustreg.config.build", lambda *_, **__: Built())
    monkeypatch.setattr(workflow, "load_net", lambda *_: None)
    monkeypatch.setattr(workflow, "test_samples", lambda *_: None)
    monkeypatch.setattr(auditing, "audit", lambda *_, **__: _audit(_finding("one", concern)))
    assert cli.main(["audit", str(tmp_path), "--no-progress"]) == code
    assert (tmp_path / "audit" / "audit.html").is_file()
    assert "verdict: " in capsys.readouterr().out
    assert code in EXIT.values()
    assert Audit.load(tmp_path / "audit").verdict == {0: "sound", 3: "suspicious", 4: "masked"}[code]


def test_the_documentation_lists_every_check() -> None:
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    table = page[page.index("| Check |") : page.index("A rugged loss")]
    assert set(re.findall(r"`(\w+)`", table)) == set(auditing.CHECKS)


def _bars(usual: float, everything: float) -> dict[str, object]:
    values = {"FGSM": 0.9, "PGD": usual, "all together": everything}
    return plots.bars("samples that withstand each attack", {k: Estimate(v, v, v) for k, v in values.items()})


def test_the_first_screen_counts_and_says_what_to_do(tmp_path: Path) -> None:
    _audit(_finding("square", "masked"), _finding("worst_case", "suspicious", _bars(8 / 9, 0.0))).save(
        tmp_path
    )
    page = write_audit_page(tmp_path).read_text(encoding="utf-8")
    first = page[page.index('<div class="first">') : page.index('id="attacks"')]
    assert "Of 9 samples that the model classifies right, <strong>8</strong> withstand" in first
    assert "<strong>0</strong> withstand all attacks" in first
    assert "gradient masking" in first
    assert first.index("gradient masking") < first.index("Most likely cause:") < first.index('id="next"')
    assert "Do not report the robust accuracy" in first
    assert "FGSM" not in first  # what each attack leaves comes after what to do


def test_wrong_gradients_that_hide_nothing_are_told_as_such(tmp_path: Path) -> None:
    """A rounded network with good substitutes for its gradients, say: nothing was measured that is not real."""
    gap = dataclasses.replace(_finding("worst_case", "none", _bars(0.0, 0.0)), value=0.0)
    _audit(_finding("true_gradient", "masked"), gap).save(tmp_path)
    page = write_audit_page(tmp_path).read_text(encoding="utf-8")
    assert "the usual attack got through all the same" in page
    assert "An attacker who goes another way gets through" not in page
    _audit(_finding("square", "masked"), gap).save(tmp_path)
    page = write_audit_page(tmp_path).read_text(encoding="utf-8")
    assert "is not real" in page


def test_wrong_gradients_that_hide_something_or_nothing_are_no_verdict_on_it(tmp_path: Path) -> None:
    gap = dataclasses.replace(_finding("worst_case", "none", _bars(0.5, 0.4)), value=0.12)
    _audit(_finding("true_gradient", "masked"), gap).save(tmp_path)
    page = write_audit_page(tmp_path).read_text(encoding="utf-8")
    assert "may not be real" in page
    assert "got through all the same" not in page
    assert "An attacker who goes another way gets through" not in page
    wide = dataclasses.replace(gap, value=0.4)
    _audit(_finding("true_gradient", "masked"), wide).save(tmp_path)
    assert "is not real" in write_audit_page(tmp_path).read_text(encoding="utf-8")


def test_a_model_that_has_learnt_nothing_is_told_to_learn(tmp_path: Path) -> None:
    _audit(_finding("learnt", "suspicious"), _finding("worst_case", "none", _bars(0.1, 0.1))).save(tmp_path)
    page = write_audit_page(tmp_path).read_text(encoding="utf-8")
    first = page[page.index('<div class="first">') : page.index('id="attacks"')]
    assert "every input the same answer" in first
    assert "Advice on learnt." in first
    assert "gradient masking" not in first
    assert "--thorough" not in first
    assert "standard_ensemble" not in first


def test_of_causes_of_one_family_the_one_that_decides_is_named(tmp_path: Path) -> None:
    _audit(_finding("zero_gradients", "suspicious"), _finding("true_gradient", "masked")).save(tmp_path)
    page = write_audit_page(tmp_path).read_text(encoding="utf-8")
    steps = page[page.index('id="next"') : page.index('id="reasons"')]
    assert "Advice on true_gradient." in steps
    assert "Advice on zero_gradients." not in steps


def test_random_numbers_are_named_before_what_they_look_like(tmp_path: Path) -> None:
    found = [_finding(check, "suspicious") for check in ("label_leaking", "repeated_calls")]
    _audit(_finding("transfer", "masked"), *found).save(tmp_path)
    page = write_audit_page(tmp_path).read_text(encoding="utf-8")
    steps = page[page.index('id="next"') : page.index('id="reasons"')]
    assert "Advice on repeated_calls." in steps
    assert "Advice on label_leaking." not in steps
    assert "version: rand" in steps
