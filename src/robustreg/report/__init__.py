"""One self-contained HTML page from a run folder or a comparison folder.

`write_report` reads what training and evaluation left behind and never runs the model. `save_examples` is the
one function here that does: it stores a few images with their perturbations next to a run, for the page to
show. `write_connections` is the page of `robustreg connections` about a run, `write_matrix` that about a comparison.
"""

from __future__ import annotations

from robustreg.report.audit import write_audit_page
from robustreg.report.connections import write_connections
from robustreg.report.examples import save_examples
from robustreg.report.matrix import write_matrix
from robustreg.report.page import write_report

__all__ = ["save_examples", "write_audit_page", "write_connections", "write_matrix", "write_report"]
