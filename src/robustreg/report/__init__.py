"""One self-contained HTML page from a run folder or a comparison folder.

`write_report` reads what training and evaluation left behind and never runs the model. `save_examples` is the
one function here that does: it stores a few images with their perturbations next to a run, for the page to
show.
"""

from __future__ import annotations

from robustreg.report.examples import save_examples
from robustreg.report.page import write_report

__all__ = ["save_examples", "write_report"]
