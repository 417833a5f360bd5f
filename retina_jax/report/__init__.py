"""One self-contained HTML page of a run, or of a comparison of runs, from the files it left.

python -m retina_jax.report WORKDIR [WORKDIR ...] [--output page.html]
"""

from retina_jax.report.page import write
from retina_jax.report.records import scores
from retina_jax.report.terminal import subgroups, summary

__all__ = ["scores", "subgroups", "summary", "write"]
