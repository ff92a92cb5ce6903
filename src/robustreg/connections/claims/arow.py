"""The risk bounds behind ARoW and TRADES, and how their regularisers are made of each other.

D. Yang, I. Kong, Y. Kim, "Improving Adversarial Robustness by Putting More Regularizations on Less Robust Samples",
ICML 2023 (arXiv 2206.03353). The abstract says that the loss comes from a new bound of the robust risk; its exact form
was not seen, the one here is our derivation, which gives the weight of the authors' code. Risks are means over the
batch, with the point that PGD finds for the one whose prediction differs.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from robustreg.attacks import PGD
from robustreg.connections.case import Case
from robustreg.connections.claim import Claim
from robustreg.penalties import Confidence, Consistency
from robustreg.points import CLEAN
from robustreg.terms import CrossEntropy, Term, Vulnerability, weighted

SOURCE = "our derivation of the bound of Yang, Kong & Kim 2023 (arXiv 2206.03353)"
CODE = "the losses of the authors' code of ARoW and MART"
SMOOTHING = 0.2


def attack(case: Case) -> PGD:
    """What stands for the worst point of the ball."""
    return PGD(case.threat, 10, case.threat.eps / 4)


def _risk(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Wrong at the sample; robustly wrong; the prediction differs at ``z``; the label's probability at ``z``."""
    candidate = case.found(attack(case))
    clean, there = case.logits.argmax(1), case.logits_at(candidate).argmax(1)
    differs = there != clean
    z = torch.where(differs.reshape(-1, *[1] * (case.x.ndim - 1)), candidate, case.x)
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
)
