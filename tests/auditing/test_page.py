"""The page of an audit, and the command's exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import robustreg as rr
from robustreg import auditing, cli
from robustreg.auditing import Audit, Finding
from robustreg.commands.audit import EXIT
from robustreg.report import write_audit_page

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


LINES = {
    "kind": "lines",
    "x": {"title": "eps", "values": [0.1, 0.2, 0.4], "log": True},
    "series": [{"name": "accuracy", "values": [1.0, 0.5, 0.0]}],
}
SURFACE = {"kind": "surface", "x": "across", "y": "along", "values": [[0.0, 1.0], [2.0, 3.0]]}


def test_the_page_says_what_it_means_and_what_to_do(tmp_path: Path) -> None:
    _audit(
        _finding("one", "masked", LINES), _finding("two", "notice"), _finding("three", "none", SURFACE)
    ).save(tmp_path)
    page = write_audit_page(tmp_path).read_text(encoding="utf-8")
    reasons = page[page.index('id="reasons"') : page.index('id="pictures"')]
    assert "Meaning of one." in reasons
    assert "Advice on one." in reasons
    assert "Advice on three." not in reasons
    assert '<span class="wrong">masked</span>' in page
    assert "<b>" not in page  # names are escaped
    assert page.count("<circle") == 3
    assert "data:image/png;base64," in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)  # nothing is loaded


def test_a_sound_page_says_how_to_report(tmp_path: Path) -> None:
    _audit(_finding("one", "none")).save(tmp_path)
    page = write_audit_page(tmp_path).read_text(encoding="utf-8")
    assert '<span class="right">sound</span>' in page
    assert "as an upper bound" in page


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
