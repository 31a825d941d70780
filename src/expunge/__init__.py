"""Make a language model forget, and prove that it stays forgotten where it is deployed.

``unlearn``, ``audit`` and ``measure`` take paths, loaded models and lists of dictionaries; the jobs are
what the command line runs. Importing this package imports no model library until one of them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expunge.api import audit, measure, unlearn
    from expunge.audit.run.job import AuditJob
    from expunge.quant.export import QuantizeJob
    from expunge.train.run.job import FinetuneJob, UnlearnJob

__version__ = "0.1.0"
__all__ = [
    "AuditJob",
    "FinetuneJob",
    "QuantizeJob",
    "UnlearnJob",
    "__version__",
    "audit",
    "measure",
    "unlearn",
]

_HOMES = {
    "AuditJob": "expunge.audit.run.job",
    "FinetuneJob": "expunge.train.run.job",
    "QuantizeJob": "expunge.quant.export",
    "UnlearnJob": "expunge.train.run.job",
    "measure": "expunge.api",
    "unlearn": "expunge.api",
}


def __getattr__(name: str) -> Any:
    if name == "audit":
        return importlib.import_module("expunge.audit")  # a package that is callable
    if name not in _HOMES:
        raise AttributeError(f"module 'expunge' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
