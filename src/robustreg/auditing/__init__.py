"""Whether measured robustness is real, or gradients that mislead attacks.

`audit` runs checks on a model and gives an `Audit`: findings in order of weight, and one verdict. Each check is one
function in `checks/`; they share what a `Case` has measured.
"""

from __future__ import annotations

from robustreg.auditing.case import Case
from robustreg.auditing.checking import CHECKS, Check, Measured, check
from robustreg.auditing.finding import Concern, Finding
from robustreg.auditing.result import Audit
from robustreg.auditing.runner import audit

__all__ = ["CHECKS", "Audit", "Case", "Check", "Concern", "Finding", "Measured", "audit", "check"]
