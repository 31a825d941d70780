"""The bar of a training run: how far it is, and the loss of the last epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import ProgressCallback
from transformers.utils import logging


class LossOnBar(ProgressCallback):
    """The bar of ``transformers``, with the losses on it and not as a line of its own for each epoch."""

    def on_log(
        self, _args: Any, _state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Put what was logged of the loss behind the bar."""
        losses = {name: value for name, value in (logs or {}).items() if name.startswith("loss")}
        if losses and self.training_bar is not None:
            self.training_bar.set_postfix(losses)


@contextmanager
def no_other_bars() -> Iterator[None]:
    """Let ``transformers`` draw none for every checkpoint it writes while the block runs."""
    before = logging.set_tqdm_hook(lambda _, args, kwargs: logging.EmptyTqdm(*args, **kwargs))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)
