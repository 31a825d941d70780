"""The gradient of the forget loss over the whole forget set, once, at the original weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from expunge.corpus.batching import collate
from expunge.corpus.tokenise import Encoded
from expunge.forget import ForgetLoss
from expunge.score.look import Beside, look
from expunge.score.mode import evaluating


def forget_gradient(
    model: nn.Module,
    loss: ForgetLoss,
    forget: Sequence[Encoded],
    *,
    pad_id: int,
    batch_size: int,
    alternates: Sequence[Sequence[Encoded]] = (),
) -> dict[str, Tensor]:
    """Gradient of the mean forget loss for every parameter, by name; leaves no gradient behind.

    Independent of order and batch size. At the original weights the model is its own reference.
    ``alternates`` are other answers to each prompt, for a loss that asks for them.
    Source: Zhang et al. 2025 (arXiv 2410.16454), Eq. 4.
    """
    device = next(model.parameters()).device
    model.requires_grad_(True)
    model.zero_grad(set_to_none=True)
    with evaluating(model):
        for start in range(0, len(forget), batch_size):
            batch = collate(forget[start : start + batch_size], pad_id=pad_id).to(device)
            others = [one for each in alternates[start : start + batch_size] for one in each]
            view = look(
                model,
                batch,
                needs=loss.needs,
                layer=loss.reads_layer,
                beside=Beside(collate(others, pad_id=pad_id).to(device)) if others else None,
            )
            (loss(view).sum() / len(forget)).backward()
    gradients = {name: w.grad for name, w in model.named_parameters() if w.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients
