"""The logit lens: the next-token prediction after each layer.

The hidden state after each block goes through the model's own final norm and head
(nostalgebraist 2020, "interpreting GPT: the logit lens"). The last layer is the model itself.
Shapes: T tokens read, N tokens of the true answer, H hidden units, V vocabulary.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from expunge.errors import ModelError
from expunge.inference.backbone import eval_mode
from expunge.model.arch import architecture, backbone, blocks, head_logits, unwrap

if TYPE_CHECKING:
    from torch import Tensor, nn

    from expunge.inspector.generate import TruthTokens

FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
"""Names of the norm after the last block, in the module that holds the blocks."""


class LayerView(NamedTuple):
    """One true token at one layer: its probability, its rank (1: the most likely), and the top token."""

    probability: float
    rank: int
    best: int


class LensReading(NamedTuple):
    """The tokens of the true answer, and their readings by layer, first to last."""

    tokens: list[int]
    layers: list[list[LayerView]]

    @property
    def strip(self) -> list[LayerView]:
        """The reading of each token after the last layer, which is the model's own prediction."""
        return self.layers[-1]


@torch.inference_mode()
def read_layers(model: nn.Module, truth: TruthTokens) -> LensReading:
    """Probability and rank of every token of a true answer after every block.

    Raises:
        ModelError: the final norm of the model was not found.
    """
    norm = final_norm(model)
    device = next(model.parameters()).device
    at = slice(truth.begins - 1, len(truth.ids) - 1)
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        hidden_BTH = output[0] if isinstance(output, tuple) else output
        kept.append(hidden_BTH[0, at])

    with ExitStack() as hooks, eval_mode(model):
        for block in list(blocks(model))[:-1]:
            hooks.callback(block.register_forward_hook(keep).remove)
        ids = torch.tensor([truth.ids], device=device)
        final_NH = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state[0, at]
        states = [*(norm(hidden_NH) for hidden_NH in kept), final_NH]
        token_N = ids[0, truth.begins :]
        layers = [_seen(head_logits(model, state_NH), token_N) for state_NH in states]
    return LensReading(truth.ids[truth.begins :], layers)


def final_norm(model: nn.Module) -> nn.Module:
    """The norm between the last block and the head.

    Raises:
        ModelError: it has none of the known names.
    """
    parent = unwrap(model).get_submodule(architecture(model).blocks.rpartition(".")[0])
    found = next((getattr(parent, name) for name in FINAL_NORMS if hasattr(parent, name)), None)
    if found is None:
        raise ModelError(
            f"the final norm of {type(unwrap(model)).__name__}",
            why=f"{type(parent).__name__} has none of {', '.join(FINAL_NORMS)}.",
            fix="Add its name to FINAL_NORMS in inspector/logit_lens.py.",
        )
    norm: nn.Module = found
    return norm


def _seen(logits_NV: Tensor, token_N: Tensor) -> list[LayerView]:
    logp_NV = logits_NV.float().log_softmax(-1)
    own_N1 = logp_NV.gather(-1, token_N[:, None])
    rank_N = (logp_NV > own_N1).sum(-1) + 1
    rows = zip(own_N1[:, 0].exp().tolist(), rank_N.tolist(), logp_NV.argmax(-1).tolist(), strict=True)
    return [LayerView(*row) for row in rows]
