"""Keeps the log output of libraries, and the optional packages they look for, out of this program.

Some import optional packages if they are installed: peft imports bitsandbytes, and bitsandbytes asks the
package ``kernels`` for compiled code from the Hub. Nothing here uses either, so they are not found then.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LOUD = ("torchao", "torch.utils._pytree", "llmcompressor", "compressed_tensors", "bitsandbytes")
"""They warn on import of what an installation lacks and nothing here uses (kernels, a compiler)."""
NOT_FOUND_BY = {"peft": "bitsandbytes", "bitsandbytes": "kernels"}
"""By package: one that it imports if it is installed, and that nothing here needs it to have."""
UNUSED_BY = {
    "transformers": "scipy",  # for object detection; it looks for the package while it is imported itself
    "transformers.generation.candidate_generator": "sklearn",  # for assisted decoding
    "transformers.quantizers.quantizer_torchao": "torchao",  # for checkpoints that torchao wrote
    "transformers.trainer": "datasets",  # to look at the columns of a data set of that kind
}
"""By module: a package that it imports if it is installed, for a feature that no verb uses.

Together they take a quarter of the time until a verb starts to work (scikit-learn imports pandas as well).
"""
HUB_KERNELS = "USE_HUB_KERNELS"
"""With NO, transformers runs its own code and none that is compiled on the Hub."""


def quiet_loggers() -> None:
    """Let these libraries log errors only."""
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)


def keep_kernels_out() -> None:
    """Let no library import bitsandbytes on the side, or run compiled code from the Hub.

    To be called before transformers is imported. What the user set in the environment stays, and peft finds
    bitsandbytes where the user's own code imported that first.
    """
    os.environ.setdefault(HUB_KERNELS, "NO")
    if not any(type(finder) is _Finder for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def start_light() -> None:
    """Keep transformers from importing what no verb uses.

    Only for processes of this program: for the rest of the process transformers takes these packages as
    not installed, as it does on an installation without them. Importing them directly works as ever.
    """
    if not any(type(finder) is _LightFinder for finder in sys.meta_path):
        sys.meta_path.insert(0, _LightFinder())


class _Finder(MetaPathFinder):
    """Finds the packages of ``NOT_FOUND_BY``, and has each imported without the other one."""

    def hidden_from(self, fullname: str) -> str | None:
        """The package that a module is imported without."""
        if fullname == "peft" and "bitsandbytes" in sys.modules:
            return None
        return NOT_FOUND_BY.get(fullname)

    def loader(self, loader: Loader, hidden: str) -> Loader:
        """A loader that hides a package."""
        return _Loader(loader, hidden)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        hidden = self.hidden_from(fullname)
        if hidden is None:
            return None
        others = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = self.loader(spec.loader, hidden)
        return spec


class _LightFinder(_Finder):
    """The same for the modules of ``UNUSED_BY``, unless the package is imported already."""

    def hidden_from(self, fullname: str) -> str | None:
        """The package that a module is imported without."""
        package = UNUSED_BY.get(fullname)
        return None if package in sys.modules else package

    def loader(self, loader: Loader, hidden: str) -> Loader:
        """A loader that hides a package, unless the module cannot do without it."""
        return _LenientLoader(loader, hidden)


class _Loader(Loader):
    """Another loader, for whose module a package is not installed."""

    def __init__(self, loader: Any, hidden: str) -> None:
        self._loader = loader
        self._hidden = hidden

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        with _hidden(self._hidden):
            self._loader.exec_module(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class _LenientLoader(_Loader):
    """The same, for a module of which another version may need the package."""

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except ImportError:
            self._loader.exec_module(module)


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """As if a package were not installed."""
    imported = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment] # marks the module as absent
    try:
        yield
    finally:
        del sys.modules[name]
        if imported is not None:
            sys.modules[name] = imported
