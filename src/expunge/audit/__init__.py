"""The audit: models x conditions x metrics, with intervals and a verdict.

The package is callable: ``expunge.audit({...})`` is ``expunge.api.audit``. The function has the package's
name, and importing anything below the package would hide a function of that name behind it.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any


class _CallablePackage(types.ModuleType):
    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return importlib.import_module("expunge.api").audit(*arguments, **settings)


sys.modules[__name__].__class__ = _CallablePackage
