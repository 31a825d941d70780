"""The bar of a training run: how far it is, and the loss of the last epoch."""

from __future__ import annotations

from typing import Any

from transformers import ProgressCallback


class LossOnBar(ProgressCallback):
    """The bar of ``transformers``, with the losses on it and not as a line of its own for each epoch."""

    def on_log(
        self, _args: Any, _state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Put what was logged of the loss behind the bar."""
        losses = {name: value for name, value in (logs or {}).items() if name.startswith("loss")}
        if losses and self.training_bar is not None:
            self.training_bar.set_postfix(losses)
