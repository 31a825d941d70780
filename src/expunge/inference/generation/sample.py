"""What is drawn of a model: a sampler, the probabilities under it, and answers drawn with it.

Shapes: B prompts, T tokens of the longest one, V vocabulary; k rows worked on at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from expunge.inference.backbone import eval_mode
from expunge.model.rope import rope_boundary


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSampler:
    """How a next token is drawn: temperature, then the ``top_k`` likeliest, then the nucleus ``top_p``.

    ``top_k`` 0 and ``top_p`` 1 leave all tokens. What remains is renormalised after each step, as in
    transformers and vLLM. A token as likely as the last one that remains stays too.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __call__(self, logits_kV: Tensor) -> Tensor:
        """The logits of the distribution that is drawn from: -inf for a token that never is."""
        if self.temperature != 1:
            logits_kV = logits_kV / self.temperature
        if 0 < self.top_k < logits_kV.shape[-1]:
            least_k1 = logits_kV.topk(self.top_k).values[:, -1:]
            logits_kV = logits_kV.masked_fill(logits_kV < least_k1, -torch.inf)
        if self.top_p < 1:
            sorted_kV = logits_kV.sort(dim=-1, descending=True).values
            p_kV = sorted_kV.double().softmax(-1)
            # A token stays if those before it have less than top_p together: the first always does.
            count_k1 = (p_kV.cumsum(-1) - p_kV < self.top_p).sum(-1, keepdim=True)
            logits_kV = logits_kV.masked_fill(logits_kV < sorted_kV.gather(-1, count_k1 - 1), -torch.inf)
        return logits_kV


PLAIN = TokenSampler()
"""The model's own distribution."""

AT_ONCE = 64
"""Prompts continued in one batch."""


@torch.no_grad()
def sample_answers(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    eos_ids: Sequence[int],
    pad_id: int,
    banned: Sequence[int] = (),
    at_least: int = 0,
    sampler: TokenSampler = PLAIN,
    seed: int = 0,
) -> list[list[int]]:
    """One sampled answer for each prompt, in tokens, with its end token if it has one.

    No token of ``banned`` is drawn, and none of ``eos_ids`` before ``at_least`` tokens. The same seed
    gives the same answers; the global random state stays as it was. What ``generation_config.json`` says
    of sampling (a repetition penalty, say) does not apply.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    answers: list[list[int]] = [[] for _ in prompts]
    inner: Any = model
    devices = [device] if device.type == "cuda" else []
    longest, boundary = max(map(len, prompts), default=0) + new_tokens, rope_boundary(model)
    with eval_mode(model), _no_defaults(model), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for start in range(0, len(order), AT_ONCE):
            rows = order[start : start + AT_ONCE]
            width = max(len(prompts[row]) for row in rows)
            ids_BT = torch.tensor(
                [[pad_id] * (width - len(prompts[row])) + list(prompts[row]) for row in rows]
            )
            real_BT = torch.tensor(
                [[0] * (width - len(prompts[row])) + [1] * len(prompts[row]) for row in rows]
            )
            said_BT = inner.generate(
                input_ids=ids_BT.to(device),
                attention_mask=real_BT.to(device),
                do_sample=True,
                temperature=sampler.temperature,
                top_k=sampler.top_k,
                top_p=sampler.top_p,
                max_new_tokens=new_tokens,
                # Past the boundary, cached keys are those of other frequencies (and Phi-3 loses them).
                use_cache=boundary is None or longest <= boundary,
                min_new_tokens=at_least or None,
                suppress_tokens=list(banned) or None,
                eos_token_id=list(eos_ids) or None,
                pad_token_id=pad_id,
            )[:, width:].tolist()
            for row, tokens in zip(rows, said_BT, strict=True):
                answers[row] = _until_end(tokens, eos_ids)
    return answers


@contextmanager
def _no_defaults(model: nn.Module) -> Iterator[None]:
    """Inside the block ``generate`` does what it is told, and nothing that a checkpoint adds to it."""
    holders: list[Any] = [module for module in model.modules() if "generation_config" in vars(module)]
    before = [module.generation_config for module in holders]
    for module in holders:
        module.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for module, config in zip(holders, before, strict=True):
            module.generation_config = config


def _until_end(tokens: Sequence[int], eos_ids: Sequence[int]) -> list[int]:
    end = next((index for index, token in enumerate(tokens) if token in eos_ids), len(tokens) - 1)
    return list(tokens[: end + 1])
