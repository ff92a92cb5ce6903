"""The tools of ``robustreg.testing`` themselves: names, reports, skipping, imports, constants that are held."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import robustreg as rr
from robustreg import testing
from robustreg.testing import attacks, distributed, terms
from robustreg.testing.constants import Constants

ROOT = Path(__file__).resolve().parents[2]
T = rr.Threat("linf", 0.1)


@dataclass(frozen=True)
class Broken(rr.Term):
    """Breaks two promises."""

    def __call__(self, probe: rr.Probe) -> Tensor:
        return probe.logits().exp().sum(1) / len(probe.x)


def test_a_sound_term_and_a_sound_attack_pass_and_stay_as_they_are() -> None:
    term = rr.AdaptiveELLE(T)
    before = term.state_dict()
    testing.check_term(term, shape=(3, 4, 4), classes=3)
    assert term.state_dict() == before
    testing.check_attack(rr.PGD(T, 2), climbs=True, shape=(5,), classes=2)


def test_everything_that_is_broken_is_told_at_once() -> None:
    with pytest.raises(testing.ContractError) as caught:
        testing.check_term(Broken())
    first, *lines = str(caught.value).splitlines()
    assert first == "broken breaks 2 promises:"
    assert [line.split(" is broken: ")[0] for line in lines] == [
        "  - broken-huge_logits",
        "  - broken-batch_split",
    ]
    with pytest.raises(testing.ContractError, match=r"^broken-batch_split is broken: "):
        testing.check_term(Broken(), skip=["huge_logits"])
    testing.check_term(Broken(), skip=["huge_logits", "batch_split"])


def test_checks_come_one_by_one_with_name_and_promise() -> None:
    checks = list(testing.term_checks(rr.CrossEntropy()))
    assert [str(check) for check in checks[:2]] == ["cross_entropy-values", "cross_entropy-trains"]
    assert all(check.about.endswith(".") and "\n" not in check.about for check in checks)
    assert len({check.name for check in checks}) == len(checks)
    assert isinstance(testing.ContractError(), AssertionError)


def test_what_does_not_concern_a_term_is_left_out() -> None:
    def names(term: rr.Term, **options: Any) -> set[str]:
        return {check.name for check in testing.term_checks(term, **options)}

    assert "unlabelled" in names(rr.CrossEntropy())
    assert "unlabelled" not in names(rr.JacobianNorm())
    assert "recipe" in names(rr.GradientNorm(T))
    assert "recipe" not in names(Broken())  # not registered
    assert "recipe" not in names(
        rr.LossAt(loss=lambda z, y: z.sum(1))
    )  # a function is nothing that a recipe can say
    assert "exact_gradient" not in names(rr.CrossEntropy())
    assert "exact_gradient" in names(rr.CrossEntropy(), exact_gradient=True)


def test_wrong_arguments_are_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="there is no check speed; the checks are values, "):
        testing.term_checks(rr.CrossEntropy(), skip=["speed"])
    with pytest.raises(ValueError, match="there is no check speed"):
        testing.attack_checks(rr.PGD(T), skip=["speed"])
    with pytest.raises(TypeError, match="expected an instance of a Term, got <class"):
        testing.term_checks(rr.CrossEntropy)
    with pytest.raises(TypeError, match="expected an instance of a Point, got 3"):
        testing.attack_checks(3)
    with pytest.raises(ValueError, match="the term consistency needs an adversary"):
        testing.term_checks(rr.Consistency())


def test_bounds_for_each_feature_give_the_shape() -> None:
    threat = rr.Threat("linf", 0.1, bounds=(torch.zeros(2, 3), torch.ones(2, 3)))
    testing.check_term(rr.GradientNorm(threat))
    testing.check_attack(rr.FGSM(threat))


def test_samples_lie_in_a_box_that_is_elsewhere() -> None:
    threat = rr.Threat("l2", 0.3, bounds=(5.0, 6.0))
    testing.check_term(rr.Perturbed(threat, clip="box"))
    testing.check_attack(rr.PGD(threat, 2))


def test_every_check_is_on_the_page() -> None:
    page = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    for name in {*terms.NAMES, *attacks.NAMES}:
        assert f"| `{name}` |" in page, f"docs/contract.md does not describe the check {name}"


def test_it_is_loaded_only_when_asked_for_and_needs_no_pytest() -> None:
    code = (
        "import sys, robustreg as rr; rr.CrossEntropy; assert 'robustreg.testing' not in sys.modules; "
        "rr.testing.check_term; import robustreg.testing; assert 'pytest' not in sys.modules; "
        "assert 'pydantic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- constants ---------------------------------------------------------------------------------------------------------


def halved(w: Tensor) -> Tensor:
    """Products of two numbers of which one is held constant, in the ways that there are."""
    kept = torch.zeros(2, dtype=w.dtype)
    kept[0] = w.detach()[0]
    kept[1] = w[1].item()
    with torch.no_grad():
        other = w * 1.0
        other += 0.0
    (slope,) = torch.autograd.grad(w.square().sum(), w)
    sign = 1.0 if bool(w.sum() > 0) else -1.0
    return sign * (w * (kept + other + slope)).sum()


def test_what_carries_no_graph_is_held() -> None:
    w = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)
    constants = Constants()
    with constants.recording():
        value = halved(w)
    (gradient,) = torch.autograd.grad(value, w)
    torch.testing.assert_close(gradient, 4 * w.detach())  # kept + other + slope = 4 w
    for i in range(2):
        ends = []
        for h in (1e-6, -1e-6):
            moved = w.detach().clone()
            moved[i] += h
            moved.requires_grad_()
            with constants.held():
                end = halved(moved)
            ends.append(end.item())
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(gradient[i]), rel=1e-8)


def test_another_path_is_refused() -> None:
    w = torch.ones(2, requires_grad=True)
    constants = Constants()
    with constants.recording():
        w.sin().detach()
    with pytest.raises(RuntimeError, match="another path: cos in place of sin"), constants.held():
        w.cos()
    with pytest.raises(RuntimeError, match="another path: exp in place of nothing"), constants.held():
        w.sin().detach().exp()


# -- two processes -----------------------------------------------------------------------------------------------------

MODULE = """
import os
from dataclasses import dataclass
import robustreg as rr
import torch.distributed as dist

@dataclass(frozen=True)
class KnowsOfOthers(rr.Term):
    def __call__(self, probe):
        return probe.logits().square().sum(1) * (2.0 if dist.is_initialized() else 1.0)
"""


def test_terms_that_behave_otherwise_in_two_processes_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "knows_of_others.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = pytest.importorskip("knows_of_others")
    with pytest.raises(testing.ContractError, match=r"mean of their halves .*: knows_of_others: \d"):
        testing.check_distributed([rr.GradientNorm(T), module.KnowsOfOthers()])


def test_a_process_that_did_not_finish_says_why(tmp_path: Path) -> None:
    with pytest.raises(testing.ContractError, match="did not finish: no reason is known"):
        distributed._result(tmp_path, 0)
    (tmp_path / "1.txt").write_text("my_term: ValueError: it does not like company")
    with pytest.raises(
        testing.ContractError, match="did not finish: my_term: ValueError: it does not like company"
    ):
        distributed._result(tmp_path, 0)


def test_terms_that_cannot_be_sent_to_a_process_are_refused() -> None:
    @dataclass(frozen=True)
    class Local(Broken):
        pass

    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(Local())
    with pytest.raises(ValueError, match="two processes need terms that can be pickled"):
        testing.check_distributed([Local()])
