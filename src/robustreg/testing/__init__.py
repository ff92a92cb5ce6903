"""The contract of terms and attacks, as checks that anyone can run on their own.

>>> from robustreg import testing
>>> testing.check_term(MyPenalty(threat))  # raises ContractError with a sentence for each broken promise
>>> testing.check_attack(MyAttack(threat))

``term_checks`` and ``attack_checks`` give the same checks one by one, for ``pytest.mark.parametrize``. pytest itself is
not needed. The library's own terms and attacks go through them in its test suite.
"""

from __future__ import annotations

from robustreg.testing.attacks import attack_checks, check_attack
from robustreg.testing.check import Check, ContractError
from robustreg.testing.distributed import check_distributed
from robustreg.testing.terms import check_term, term_checks

__all__ = [
    "Check",
    "ContractError",
    "attack_checks",
    "check_attack",
    "check_distributed",
    "check_term",
    "term_checks",
]
