"""Answers drawn from a model's own distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from expunge.model.rope import rope_boundary
from expunge.score.mode import evaluating

AT_ONCE = 64
"""Prompts continued side by side."""


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
    temperature: float = 1.0,
    seed: int = 0,
) -> list[list[int]]:
    """One answer for each prompt, in tokens, with its end token if it came to one.

    No token of ``banned`` is drawn, and none of ``eos_ids`` before ``at_least`` tokens. The same seed
    gives the same answers; the global random state stays as it was.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(prompts)), key=lambda place: (len(prompts[place]), place))
    answers: list[list[int]] = [[] for _ in prompts]
    inner: Any = model
    devices = [device] if device.type == "cuda" else []
    longest, boundary = max(map(len, prompts), default=0) + new_tokens, rope_boundary(model)
    with evaluating(model), torch.random.fork_rng(devices=devices):
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
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=new_tokens,
                # Past the boundary, cached keys are those of other frequencies (and Phi-3 loses them).
                use_cache=boundary is None or longest <= boundary,
                min_new_tokens=at_least or None,
                suppress_tokens=list(banned) or None,
                eos_token_id=list(eos_ids) or None,
                pad_token_id=pad_id,
            )[:, width:].tolist()
            for row, said in zip(rows, said_BT, strict=True):
                answers[row] = _until_end(said, eos_ids)
    return answers


def _until_end(said: Sequence[int], eos_ids: Sequence[int]) -> list[int]:
    end = next((place for place, token in enumerate(said) if token in eos_ids), len(said) - 1)
    return list(said[: end + 1])
