"""Greedy continuation of many prompts at once: a shared prefix is read once, finished rows leave the batch.

Shapes: B prompts, P tokens of the prefix that all share, S tokens of the longest remainder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

Stop = Callable[[list[int]], bool]
"""Whether a continuation, given its tokens so far, is complete."""

COMPACT_BELOW = 0.6
"""Rows are dropped from the cache once fewer than this share of them is still running."""


@torch.inference_mode()
def greedy(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_ids: frozenset[int],
    is_done: Stop,
) -> list[list[int]]:
    """The most likely continuation of each prompt, token by token, without its end token.

    Prompts of different lengths are padded on the left and masked; positions skip the padding, so
    a prompt's continuation does not depend on what it is batched with.
    """
    device = next(model.parameters()).device
    prefix = [] if _slides(model, prompts, max_new_tokens) else shared_prefix(prompts)
    cache = DynamicCache(config=model.config)
    mask = torch.ones(len(prompts), len(prefix), dtype=torch.long, device=device)
    if prefix:
        _step(model, torch.tensor([prefix], device=device), mask[:1], cache)
        cache.batch_repeat_interleave(len(prompts))
    ids_BS, real_BS = _left_padded([prompt[len(prefix) :] for prompt in prompts], device)
    mask = torch.cat([mask, real_BS], dim=1)
    answers: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    for produced in range(max_new_tokens):
        token_B = _step(model, ids_BS, mask, cache)
        for row, token in zip(rows, token_B.tolist(), strict=True):
            if row >= 0 and token not in eos_ids:
                answers[row].append(token)
        rows = [
            -1 if row < 0 or token in eos_ids or is_done(answers[row]) else row
            for row, token in zip(rows, token_B.tolist(), strict=True)
        ]
        if max(rows) < 0 or produced + 1 == max_new_tokens:
            break
        running = torch.tensor([i for i, row in enumerate(rows) if row >= 0], device=device)
        if len(running) < COMPACT_BELOW * len(rows):
            cache.batch_select_indices(running)
            rows = [rows[i] for i in running.tolist()]
            mask, token_B = mask[running], token_B[running]
        ids_BS = token_B[:, None]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return answers


def shared_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The tokens all prompts begin with, short of the last token of the shortest one."""
    if len(prompts) < 2:
        return []
    in_order = sorted(list(prompt) for prompt in prompts)
    first, last = in_order[0], in_order[-1]  # the prefix of all is the prefix of these two
    room = min(len(prompt) for prompt in prompts) - 1
    agree = takewhile(lambda i: first[i] == last[i], range(room))
    return first[: sum(1 for _ in agree)]


def _slides(model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> bool:
    """Whether some token will lie outside a sliding window.

    Windows are counted in places of the cache. Padding between a shared prefix and the rest of a
    prompt would take up such places, so that a window reached less far back in a shorter prompt.
    """
    window = getattr(model.config.get_text_config(), "sliding_window", None)  # type: ignore[operator, union-attr]
    return window is not None and max(map(len, prompts)) + max_new_tokens > window


def _step(model: Any, ids_BS: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
    """Read ``ids`` after what the cache holds and return the most likely next token of each row."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids_BS.shape[1] :]
    logits = model(
        input_ids=ids_BS,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits
    token: Tensor = logits[:, -1].argmax(-1)
    return token


def _left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long, device=device)
    real = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row, device=device)
        real[i, width - len(row) :] = 1
    return ids, real
