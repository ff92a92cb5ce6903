"""The risk bounds behind ARoW and TRADES, and how their regularisers are made of each other.

D. Yang, I. Kong, Y. Kim, "Improving Adversarial Robustness by Putting More Regularizations on Less Robust Samples",
ICML 2023 (arXiv 2206.03353). The abstract says that the loss comes from a new bound of the robust risk; its exact form
was not seen, the one here is our derivation, which gives the weight of the authors' code. Risks are means over the
batch, with the point that PGD finds for the one whose prediction differs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.attacks import PGD
from robustreg.connections.case import Case
from robustreg.connections.claim import Claim
from robustreg.connections.quantities import entry_by_entry
from robustreg.methods.arow import Form, arow
from robustreg.methods.trades import trades
from robustreg.objective import Objective
from robustreg.penalties import Confidence, Consistency
from robustreg.points import CLEAN
from robustreg.probe import Probe
from robustreg.terms import CrossEntropy, Term, Vulnerability, Weighted, weighted

SOURCE = "our derivation of the bound of Yang, Kong & Kim 2023 (arXiv 2206.03353)"
CODE = "the losses of the authors' code of ARoW and MART"
SMOOTHING, LAM = 0.2, 7.0


def attack(case: Case) -> PGD:
    """What stands for the worst point of the ball."""
    return PGD(case.threat, 10, case.threat.eps / 4)


def _risk(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Wrong at the sample; robustly wrong; the prediction differs at ``z``; the label's probability at ``z``."""
    candidate = case.found(attack(case))
    clean, there = case.logits.argmax(1), case.logits_at(candidate).argmax(1)
    differs = there != clean
    z = torch.where(numerics.as_rows(differs, case.x), candidate, case.x)
    p = case.of_label(case.logits_at(z).softmax(1))
    wrong = clean != case.y
    return wrong, wrong | (differs & (there != case.y)), differs, p


def share(mask: Tensor) -> Tensor:
    """The risk ``[1]``: the share of the samples."""
    return mask.double().mean().reshape(1)


def _exact(case: Case) -> tuple[Tensor, Tensor]:
    wrong, robustly, differs, _ = case.measured(_risk)
    return share(robustly), share(wrong) + share(~wrong & differs)


def _arow(case: Case) -> tuple[Tensor, Tensor]:
    wrong, robustly, differs, p = case.measured(_risk)
    return share(robustly), share(wrong) + share(differs & (p < 0.5))


def _trades(case: Case) -> tuple[Tensor, Tensor]:
    wrong, _, differs, p = case.measured(_risk)
    return share(wrong) + share(differs & (p < 0.5)), share(wrong) + share(differs)


def _surrogate(case: Case) -> tuple[Tensor, Tensor]:
    p = case.measured(_risk)[3]
    return (p < 0.5).double(), 2 * (1 - p)


def regulariser(case: Case, by: Term | None = None) -> Tensor:
    """``w KL(p(x) || p(x'))`` per sample by the library's terms."""
    plain = Consistency(attack(case), mode="eval")
    return case.term(plain if by is None else weighted(plain, by=by))


def _complements(case: Case, at_attack: bool) -> tuple[Tensor, Tensor]:
    at = attack(case) if at_attack else CLEAN
    parts = regulariser(case, Vulnerability(at, mode="eval")) + regulariser(case, Confidence(at, mode="eval"))
    return parts, regulariser(case)


def _weaker(case: Case) -> tuple[Tensor, Tensor]:
    return regulariser(case, Vulnerability(attack(case), mode="eval")), regulariser(case)


def _smoothing(case: Case) -> tuple[Tensor, Tensor]:
    gap = case.term(CrossEntropy(smoothing=SMOOTHING, mode="eval")) - case.loss
    return gap, SMOOTHING * (case.of_label(case.logits) - case.logits.mean(1))


def _smoothing_in_logs(case: Case) -> tuple[Tensor, Tensor]:
    gap = case.term(CrossEntropy(smoothing=SMOOTHING, mode="eval")) - case.loss
    return gap, -SMOOTHING * (case.loss + case.logits.log_softmax(1).mean(1))


def _least(case: Case) -> tuple[Tensor, Tensor]:
    """The entropy of the smoothed target, which no logits get below."""
    classes = case.logits.shape[1]
    other, own = SMOOTHING / classes, 1 - SMOOTHING + SMOOTHING / classes
    entropy = -(own * math.log(own) + (classes - 1) * other * math.log(other))
    return torch.full_like(case.loss, entropy), case.term(CrossEntropy(smoothing=SMOOTHING, mode="eval"))


def _at_its_minimum(case: Case) -> tuple[Tensor, Tensor]:
    """The smoothed loss of logits with the gap at which it is smallest."""
    classes = case.logits.shape[1]
    gap = math.log((1 - SMOOTHING + SMOOTHING / classes) / (SMOOTHING / classes))
    best = torch.nn.functional.one_hot(case.y, classes).double() * gap
    smoothed = torch.nn.functional.cross_entropy(best, case.y, reduction="none", label_smoothing=SMOOTHING)
    return smoothed, _least(case)[0]


def _stationary(case: Case) -> tuple[Tensor, Tensor]:
    """The probabilities of logits with that gap, next to the smoothed target: their difference is the gradient."""
    classes = case.logits.shape[1]
    gap = math.log((1 - SMOOTHING + SMOOTHING / classes) / (SMOOTHING / classes))
    own = torch.nn.functional.one_hot(case.y, classes).double()
    return entry_by_entry((own * gap).softmax(1), (1 - SMOOTHING) * own + SMOOTHING / classes)


def loss_of(case: Case, objective: Objective, weight: Callable[[Probe], Tensor] | None = None) -> Tensor:
    """A method's loss on the batch ``[1]``, in evaluation mode; with another weight for the samples if there is one."""
    total = torch.zeros(1, dtype=torch.float64, device=case.x.device)
    for factor, term in objective.entries:
        assert isinstance(factor, float)
        total += factor * case.term(_in_evaluation(term, weight)).mean()
    return total


def _in_evaluation(term: Any, weight: Callable[[Probe], Tensor] | None) -> Term:
    if isinstance(term, Weighted):
        by = _in_evaluation(term.by, None) if weight is None else weight
        return dataclasses.replace(term, term=_in_evaluation(term.term, None), by=by)
    found: Term = dataclasses.replace(term, mode="eval")
    return found


def _ones(probe: Probe) -> Tensor:
    return torch.ones_like(probe.x.flatten(1)[:, 0])


def _of_form(case: Case, form: Form, smoothing: float | None = SMOOTHING) -> Objective:
    return arow(case.threat, LAM, smoothing, form, attack=attack(case))


def _to_trades(case: Case, form: Form, smoothing: float) -> tuple[Tensor, Tensor]:
    """With weights of one, next to TRADES with the same smoothing."""
    plain = trades(case.threat, LAM, smoothing, attack=attack(case))
    return loss_of(case, _of_form(case, form, smoothing), _ones), loss_of(case, plain)


def _without_smoothing(case: Case) -> tuple[Tensor, Tensor]:
    return loss_of(case, _of_form(case, "arow", 0.0)), loss_of(case, _of_form(case, "arow_ce", None))


def _up_to_trades(case: Case) -> tuple[Tensor, Tensor]:
    """What ARoW's loss leaves out of that of TRADES-LS."""
    left_out = LAM * regulariser(case, Confidence(attack(case), mode="eval")).mean().reshape(1)
    plain = trades(case.threat, LAM, SMOOTHING, attack=attack(case))
    return loss_of(case, _of_form(case, "arow")) + left_out, loss_of(case, plain)


CLAIMS = (
    Claim(
        "A1",
        "robust risk = natural risk + predictions that flip where they were right",
        r"R_{\mathrm{rob}} = R_{\mathrm{nat}} + P(F(X)=Y,\ F(z(X)) \ne F(X))",
        SOURCE,
        "derived",
        "=",
        _exact,
        of_the_batch=True,
    ),
    Claim(
        "A2",
        "the bound behind ARoW",
        r"R_{\mathrm{rob}} \le R_{\mathrm{nat}} + P(F(z(X)) \ne F(X),\ p(Y|z(X)) < \tfrac12)",
        SOURCE,
        "published",
        "<=",
        _arow,
        of_the_batch=True,
        meaning="Only samples whose label is no longer believed need the regulariser: the weight of ARoW.",
    ),
    Claim(
        "A3",
        "is tighter than that behind TRADES",
        r"P(F(z) \ne F,\ p(Y|z) < \tfrac12) \le P(F(z) \ne F)",
        SOURCE,
        "published",
        "<=",
        _trades,
        of_the_batch=True,
    ),
    Claim(
        "A4",
        "the weight is a bound of the indicator",
        r"\mathbb{1}\{p < \tfrac12\} \le 2 (1 - p)",
        SOURCE,
        "derived",
        "<=",
        _surrogate,
        meaning="Where the factor two between the paper's and the code's weight may come from.",
    ),
    Claim(
        "A5",
        "ARoW and its complement make TRADES",
        r"(1-p_y(x'))\,\mathrm{KL} + p_y(x')\,\mathrm{KL} = \mathrm{KL}",
        CODE,
        "derived",
        "=",
        partial(_complements, at_attack=True),
    ),
    Claim(
        "A6",
        "MART and CoW make TRADES",
        r"(1-p_y(x))\,\mathrm{KL} + p_y(x)\,\mathrm{KL} = \mathrm{KL}",
        CODE,
        "derived",
        "=",
        partial(_complements, at_attack=False),
        meaning="MART regularises what is misclassified, CoW what is confidently right; together they are TRADES.",
    ),
    Claim(
        "A7",
        "ARoW's regulariser is at most that of TRADES",
        r"(1-p_y(x'))\,\mathrm{KL} \le \mathrm{KL}",
        CODE,
        "derived",
        "<=",
        _weaker,
    ),
    Claim(
        "A8",
        "what label smoothing adds",
        r"\mathrm{LS}_a - \mathrm{CE} = a\,(z_y - \bar z)",
        CODE,
        "derived",
        "=",
        _smoothing,
        meaning="It charges for a logit above the mean, whatever the other probabilities are.",
    ),
    Claim(
        "A8b",
        "in probabilities",
        r"\mathrm{LS}_a - \mathrm{CE} = a \left( \log p_y - \tfrac1C \sum_k \log p_k \right)",
        CODE,
        "derived",
        "=",
        _smoothing_in_logs,
    ),
    Claim(
        "A9",
        "label smoothing has a least loss",
        r"H\bigl((1-a)e_y + \tfrac{a}{C}\bigr) \le \mathrm{LS}_a",
        CODE,
        "derived",
        "<=",
        _least,
        meaning="ARoW's clean loss does not reward confidence without end.",
    ),
    Claim(
        "A9b",
        "which is at a finite gap of the logits",
        r"z_y - z_k = \log\frac{1-a+a/C}{a/C} \Rightarrow \mathrm{LS}_a = H",
        CODE,
        "derived",
        "=",
        _at_its_minimum,
        meaning="3.71 for ten classes and a = 0.2: slopes that grow with the logits are kept in check.",
    ),
    Claim(
        "A9c",
        "and its only one",
        r"z_y - z_k = \log\frac{1-a+a/C}{a/C} \Rightarrow p = (1-a) e_y + \tfrac{a}{C}",
        CODE,
        "derived",
        "=",
        _stationary,
        meaning="There the gradient by the logits vanishes. It depends on a and the number of classes only.",
    ),
    Claim(
        "A10",
        "ARoW with weights of one is TRADES with label smoothing",
        r"w = 1 \Rightarrow \mathrm{LS}_a + \lambda\, \mathbb{E}\,(w\, \mathrm{KL}) = \text{TRADES-LS}",
        CODE,
        "derived",
        "=",
        partial(_to_trades, form="arow", smoothing=SMOOTHING),
        of_the_batch=True,
        meaning="The losses of the library's methods, in evaluation mode.",
    ),
    Claim(
        "A10b",
        "without label smoothing it is ARoW-CE",
        r"a = 0 \Rightarrow \mathrm{ARoW} = \mathrm{ARoW}_{\mathrm{CE}}",
        CODE,
        "derived",
        "=",
        _without_smoothing,
        of_the_batch=True,
    ),
    Claim(
        "A10c",
        "and CoW without both is TRADES",
        r"a = 0,\ w = 1 \Rightarrow \mathrm{CoW} = \mathrm{TRADES}",
        CODE,
        "derived",
        "=",
        partial(_to_trades, form="cow", smoothing=0.0),
        of_the_batch=True,
    ),
    Claim(
        "A11",
        "what ARoW leaves out of TRADES",
        r"\mathrm{ARoW} + \lambda\, \mathbb{E}\,(p_y(x')\, \mathrm{KL}) = \text{TRADES-LS}",
        CODE,
        "derived",
        "=",
        _up_to_trades,
        of_the_batch=True,
        meaning="Where the label keeps its probability at the attacked point, nothing is regularised.",
    ),
)
