"""Token log-probabilities and divergences in chunks of rows, without holding all logits.

Shapes: N rows (counted tokens), H hidden units, V vocabulary; n rows of a piece, k of a block.

How a number changes with its own logits (its slopes) is known as soon as the logits are, so logits
are overwritten with slopes at once. What is kept for the backward pass depends on the head:

- a frozen head: the slopes are propagated through it at once, and [N, H] is kept;
- a trainable head: the slopes of the first rows are kept, up to ``KEPT_ELEMENTS``. The logits of
  the others are computed again in the backward pass, so that memory does not grow with N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from expunge.inference.token_view import TokenRule

CHUNK_ELEMENTS = 1 << 23
"""Logits computed at once (rows times vocabulary): 32 MiB in float32."""

KEPT_ELEMENTS = 1 << 25
"""Slopes kept for the backward pass through a trainable head: 128 MiB in float32."""

BLOCK_ELEMENTS = 1 << 18
"""Logits processed at once, so that intermediate results stay in the CPU cache."""

Head = Callable[[Tensor], Tensor]
"""Hidden states [n, H] to logits [n, V]."""


class Numbers(NamedTuple):
    """One number per row [k], and how to get its slopes [k, V] if they are wanted."""

    values: Tensor
    slopes: Callable[[], Tensor]


Rule = Callable[[Tensor, Tensor], Numbers]
"""Maps logits [k, V] in float32 and extra inputs of each row [k, ...] to numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Applies ``rule`` to the logits [n, ``vocabulary``] that ``head`` gives for hidden states.

    ``extra_inputs`` turns values passed along with the states, n rows at a time, into inputs of ``rule``,
    which sees ``block`` logits at once (``BLOCK_ELEMENTS`` without it).
    """

    head: Head
    rule: Rule
    vocabulary: int
    extra_inputs: Callable[[Tensor], Tensor] = lambda other_n: other_n
    block: int | None = None

    def __call__(self, hidden_NH: Tensor, other_N: Tensor) -> Tensor:
        """The number of every row, in float32, differentiable by states and head. Shape [N]."""
        # An empty input is enough to find out whether the head is trainable.
        trained = torch.is_grad_enabled() and self.head(hidden_NH[:0].detach()).requires_grad
        kept = min(KEPT_ELEMENTS // self.vocabulary, len(hidden_NH)) if trained else 0
        numbers = [self._through_head(hidden_NH[:kept], other_N[:kept])] if kept else []
        for piece in in_pieces(CHUNK_ELEMENTS // self.vocabulary, hidden_NH[kept:], other_N[kept:]):
            if trained:
                numbers.append(checkpoint(self._through_head, *piece, use_reentrant=False))
            else:
                numbers.append(self._behind_head(*piece))
        return torch.cat(numbers) if numbers else hidden_NH.new_zeros(0, dtype=torch.float32)

    def _through_head(self, hidden_nH: Tensor, other_n: Tensor) -> Tensor:
        """The numbers; the backward pass takes their slopes through the head."""
        logits_nV = self.head(hidden_nH)
        slopes_nV = _own(logits_nV, hidden_nH)
        return _Sloped.numbers(logits_nV, self._numbers(slopes_nV, other_n, overwrite=True), slopes_nV)

    def _behind_head(self, hidden_nH: Tensor, other_n: Tensor) -> Tensor:
        """The numbers; their slopes, if there will be a backward pass, are taken through the head now."""
        states_nH = hidden_nH.detach().requires_grad_(hidden_nH.requires_grad)
        logits_nV = self.head(states_nH)
        if not logits_nV.requires_grad:
            return self._numbers(logits_nV, other_n, overwrite=False)
        slopes_nV = _own(logits_nV, states_nH)
        numbers_n = self._numbers(slopes_nV, other_n, overwrite=True)
        (slopes_nH,) = torch.autograd.grad(logits_nV, states_nH, slopes_nV)
        return _Sloped.numbers(hidden_nH, numbers_n, slopes_nH)

    @torch.no_grad()
    def _numbers(self, logits_nV: Tensor, other_n: Tensor, *, overwrite: bool) -> Tensor:
        """The numbers of a piece, whose logits make room for the slopes if asked to."""
        # One tensor for all: small ones allocated between large temporary ones would fragment memory.
        numbers_n = torch.empty(len(logits_nV), dtype=torch.float32, device=logits_nV.device)
        chunk, block = (
            elements // self.vocabulary for elements in (CHUNK_ELEMENTS, self.block or BLOCK_ELEMENTS)
        )
        for *piece, other in in_pieces(chunk, numbers_n, logits_nV, other_n):
            for numbers_k, logits_kV, extra_k in in_pieces(block, *piece, self.extra_inputs(other)):
                numbers = self.rule(logits_kV.float(), extra_k)
                numbers_k.copy_(numbers.values)
                if overwrite:
                    logits_kV.copy_(numbers.slopes())
        return numbers_n


class _Sloped(torch.autograd.Function):
    """Numbers [n] whose slopes [n, ...] by some other tensor are already known."""

    @staticmethod
    def numbers(by: Tensor, values_n: Tensor, slopes: Tensor) -> Tensor:
        """``values_n``, attached to ``by``."""
        numbers: Tensor = _Sloped.apply(by, values_n, slopes)  # type: ignore[no-untyped-call]
        return numbers

    @staticmethod
    def forward(ctx: Any, by: Tensor, values_n: Tensor, slopes: Tensor) -> Tensor:  # noqa: ARG004
        ctx.save_for_backward(slopes)
        return values_n.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_n: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        scale = gradient_n.to(slopes.dtype)[:, None]
        # The slopes are not read again unless the graph is retained, so their memory is reused.
        graph_is_kept = torch._C._autograd._get_current_graph_task_keep_graph()
        return slopes * scale if graph_is_kept else slopes.mul_(scale), None, None


def _own(logits_nV: Tensor, hidden_nH: Tensor) -> Tensor:
    """The logits outside the graph, to be overwritten; a copy if the head returned what it was given."""
    same = torch._C._is_alias_of(logits_nV, hidden_nH)  # type: ignore[attr-defined] # not in its stubs
    return logits_nV.detach().clone() if same else logits_nV.detach()


def in_pieces(rows: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors in pieces with a limited number of rows (at least one); empty tensors give no piece."""
    if not len(tensors[0]):
        return iter(())
    return zip(*(tensor.split(max(1, rows)) for tensor in tensors), strict=True)


# Token log-probabilities and divergences in chunks of rows: [B, T, V] is never materialised.
#
# Shapes: N counted tokens, H hidden units, V vocabulary; k rows worked on at once.

Direction = Literal["forward", "reverse"]


def token_logps(head: Head, hidden_NH: Tensor, token_N: Tensor, *, vocabulary: int) -> Tensor:
    """Log-probability of each token under the softmax of its logits, in float32. Shape [N]."""
    return Rows(head=head, rule=_logp, vocabulary=vocabulary)(hidden_NH, token_N)


def token_kl(
    head: Head,
    hidden_NH: Tensor,
    reference_head: Head,
    reference_NH: Tensor,
    *,
    vocabulary: int,
    direction: Direction = "forward",
) -> Tensor:
    """KL between the reference's and the model's next-token distributions, per token. Shape [N].

    ``forward`` is KL(reference ‖ model), ``reverse`` is KL(model ‖ reference); both in float32.
    """
    rule = _forward_kl if direction == "forward" else _reverse_kl
    rows = Rows(head=head, rule=rule, vocabulary=vocabulary, extra_inputs=reference_head)
    return rows(hidden_NH, reference_NH)


def token_jsd(
    head: Head, hidden_NH: Tensor, reference_head: Head, reference_NH: Tensor, *, vocabulary: int
) -> Tensor:
    """Jensen-Shannon divergence of two models' next-token distributions, per token, in nats. Shape [N].

    ``½ KL(p ‖ m) + ½ KL(q ‖ m)`` with m the mean of both: 0 to ln 2, the same both ways.
    """
    rows = Rows(head=head, rule=_jsd, vocabulary=vocabulary, extra_inputs=reference_head)
    return rows(hidden_NH, reference_NH)


def token_numbers(
    head: Head,
    hidden_NH: Tensor,
    token_N: Tensor,
    rule: TokenRule,
    *,
    vocabulary: int,
    reference_head: Head | None = None,
    reference_NH: Tensor | None = None,
) -> Tensor:
    """``rule`` applied to each token and its logits (and the reference's), in float32. Shape [N].

    Its slopes by the logits are found by differentiating it, a block of rows at a time.
    """
    if reference_head is None or reference_NH is None:
        rows = Rows(head=head, rule=_differentiated(rule), vocabulary=vocabulary)
        return rows(hidden_NH, token_N)

    def extra_inputs(row_n: Tensor) -> Tensor:
        """The reference's logits followed by the token id, which is exact in float32 up to 2^24."""
        logits_nV = reference_head(reference_NH[row_n]).float()
        return torch.cat([logits_nV, token_N[row_n, None].float()], dim=1)

    paired = _differentiated(
        lambda logits_kV, both_k, _: rule(logits_kV, both_k[:, -1].long(), both_k[:, :-1])
    )
    row_N = torch.arange(len(token_N), device=token_N.device)
    return Rows(head=head, rule=paired, vocabulary=vocabulary, extra_inputs=extra_inputs)(hidden_NH, row_N)


def _differentiated(rule: TokenRule) -> Callable[[Tensor, Tensor], Numbers]:
    def found(logits_kV: Tensor, extra_k: Tensor) -> Numbers:
        with torch.enable_grad():
            own_kV = logits_kV.detach().requires_grad_(True)
            values_k = rule(own_kV, extra_k, None)
            total = values_k.sum()
        return Numbers(values_k.detach(), lambda: torch.autograd.grad(total, own_kV)[0])

    return found


def _logp(logits_kV: Tensor, token_k: Tensor) -> Numbers:
    logp_kV = logits_kV.log_softmax(-1)
    token_k1 = token_k[:, None]

    def slopes() -> Tensor:
        """One at the token, minus the probabilities."""
        slopes_kV = logp_kV.exp().neg_()
        return slopes_kV.scatter_add_(-1, token_k1, torch.ones_like(token_k1, dtype=slopes_kV.dtype))

    return Numbers(logp_kV.gather(-1, token_k1).squeeze(-1), slopes)


def _forward_kl(logits_kV: Tensor, reference_kV: Tensor) -> Numbers:
    logq_kV, logp_kV = logits_kV.log_softmax(-1), reference_kV.float().log_softmax(-1)
    p_kV = logp_kV.exp()
    values_k = (p_kV * (logp_kV - logq_kV)).sum(-1)
    return Numbers(values_k, lambda: logq_kV.exp() - p_kV)


def _reverse_kl(logits_kV: Tensor, reference_kV: Tensor) -> Numbers:
    logq_kV, logp_kV = logits_kV.log_softmax(-1), reference_kV.float().log_softmax(-1)
    q_kV, surplus_kV = logq_kV.exp(), logq_kV - logp_kV
    values_k = (q_kV * surplus_kV).sum(-1)
    return Numbers(values_k, lambda: q_kV * (surplus_kV - values_k[:, None]))


def _jsd(logits_kV: Tensor, reference_kV: Tensor) -> Numbers:
    logq_kV, logp_kV = logits_kV.log_softmax(-1), reference_kV.float().log_softmax(-1)
    middle_kV = torch.logaddexp(logq_kV, logp_kV) - math.log(2)
    q_kV, surplus_kV = logq_kV.exp(), logq_kV - middle_kV
    own_k = (q_kV * surplus_kV).sum(-1)
    values_k = (own_k + (logp_kV.exp() * (logp_kV - middle_kV)).sum(-1)) / 2
    return Numbers(values_k, lambda: q_kV * (surplus_kV - own_k[:, None]) / 2)
