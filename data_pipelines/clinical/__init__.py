"""Files of ophthalmic devices, read without the identifiers in them (extra `clinical`).

    for scan in clinical.read("scan.vol", key=key):
        scan.array, scan.laterality, scan.spacing, scan.patient

`python -m data_pipelines.clinical` converts a folder; docs/clinical_files.md tells what is read.
"""

from __future__ import annotations

from data_pipelines.clinical.formats import read
from data_pipelines.clinical.scan import Scan, Spacing

__all__ = ["Scan", "Spacing", "read"]
