"""Run the checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

import robustreg.auditing.checks  # noqa: F401  registers them
from robustreg.auditing.case import QUICK, THOROUGH, Budget, Case
from robustreg.auditing.checking import CHECKS
from robustreg.auditing.checks.calls import as_handed_over
from robustreg.auditing.checks.memory import forgetful
from robustreg.auditing.finding import SEVERITY, Finding
from robustreg.auditing.result import Audit
from robustreg.evaluation.crafting import warn_if_it_covers_the_box
from robustreg.evaluation.predict import as_found, device_for, logits_of, model_device
from robustreg.evaluation.samples import check_labels, gather
from robustreg.threat import Threat

Progress = Callable[[str, int, int], None]


def audit(
    model: nn.Module | Callable[[Tensor], Tensor],
    data: Any,
    threat: Threat,
    *,
    thorough: bool = False,
    checks: Iterable[str] | None = None,
    seed: int = 0,
    samples: int | None = None,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Say whether measured robustness is real or gradient masking.

    The model is looked at in evaluation mode and left as found, with the global random state.

    Args:
        model: maps `[B, ...]` (pixel scale 0-1) to logits `[B, C]`; a module, or any function.
        data: what `evaluate` takes: a pair (x, y), an object with .x and .y, a Dataset, or batches of (x, y).
        threat: norm, radius and box of the robustness that is claimed.
        thorough: more samples, steps, restarts and queries.
        checks: the names of those to run; all by default.
        seed: of everything random; the samples are drawn by it.
        samples: how many to look at; 128, or 512 if thorough.
        batch_size: samples per call of the model, at most, from 2; what is found does not depend on it.
        device: where to compute; the model's by default.
        progress: told the check's title, its number and how many there are, before each.

    Raises:
        TypeError: the model gives anything but a tensor of floating point, or the data have another form.
        ValueError: its shape is not `[B, C]`, labels or inputs out of range, an unknown check, a radius of
            0, or a model that classifies no sample right.

    Warns:
        UserWarning: eps reaches across the whole box, so nothing can be robust; most likely a wrong unit.
    """
    names = list(CHECKS) if checks is None else list(checks)
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise ValueError(f"there is no check {unknown[0]!r}; there are: {', '.join(CHECKS)}")
    if batch_size < 2:
        raise ValueError(
            f"batch_size must be at least 2, so that samples can be looked at beside others, got {batch_size}"
        )
    budget: Budget = THOROUGH if thorough else QUICK
    net = model if isinstance(model, nn.Module) else _Function(model)
    where = device_for(net, device)
    chosen = gather(data).as_model_takes(net)
    count = min(budget.samples if samples is None else samples, len(chosen))
    if count < 1:
        raise ValueError(f"samples is how many to look at, 1 or more, got {samples}")
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))[:count]
    order = order.to(chosen.x.device)
    x, y = chosen.x[order].to(where), chosen.y[order].to(where)
    if threat.eps == 0:
        raise ValueError(
            "the threat's eps is 0, so there is no attack to look at: give the radius that is claimed"
        )
    threat.check_input(x)
    warn_if_it_covers_the_box(threat, x)
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        torch.manual_seed(seed)
        before_calls = forgetful(net)
        here = x[:batch_size].to(model_device(net))
        check_labels(y, logits_of(net, here).shape[1])
        handed_over = as_handed_over(net, here)
        with as_found(net, where), torch.inference_mode(False):
            case = Case(net, x, y, threat, seed=seed, budget=budget, batch_size=batch_size)
            case.handed_over, case.before_calls = handed_over, before_calls
            _check_any_right(case)
            if "learnt" in names and case.one_class and bool(case.all_logits.isfinite().all()):
                names = ["learnt"]  # nothing can fool it, and no other check has a meaning
            findings: list[Finding] = []
            for i, name in enumerate(names):
                if progress is not None:
                    progress(CHECKS[name].title, i, len(names))
                findings.append(CHECKS[name](case))
                case.checked += 1
                case.failed += [name] if findings[-1].failed else []
    findings.sort(key=lambda finding: (-SEVERITY[finding.concern], -finding.weight))
    seconds = time.perf_counter() - started
    return Audit(tuple(findings), threat, count, int(case.right.sum()), seed, thorough, seconds)


class _Function(nn.Module):
    """A plain function as a module without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Call it."""
        return self.function(x)


def _check_any_right(case: Case) -> None:
    """Refuse a model that is never right; one whose logits are not finite is for the checks to tell of."""
    if not case.right.any() and bool(case.all_logits.isfinite().all()):
        raise ValueError(
            f"the model classifies none of {len(case.right)} samples right, so there is no robustness to look at: "
            "is it trained, and do the labels belong to the inputs?"
        )
