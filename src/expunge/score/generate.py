"""Greedy continuation of many prompts at once: a shared prefix is read once, finished rows leave the batch.

Shapes: B prompts, S tokens of the longest remainder after the prefix, C places of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from expunge.model.cache import new_cache
from expunge.score.decode import Context, Stop, decode
from expunge.score.guess import Guess
from expunge.score.prefix import Prefix, shared_prefix, slides


@torch.inference_mode()
def greedy(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    eos_ids: frozenset[int],
    is_done: Stop,
    begun: Sequence[Sequence[int]] = (),
    prefix: Prefix | None = None,
) -> list[list[int]]:
    """The most likely continuation of each prompt, token by token, without its end token.

    Prompts of different lengths are padded on the left and masked; positions skip the padding, so
    a prompt's continuation does not depend on what it is batched with. ``max_new_tokens`` may differ
    by prompt. ``begun`` are continuations to go on with; ``prefix`` is what all prompts begin with,
    if it has been read already.
    """
    answers = [list(tokens) for tokens in begun] or [[] for _ in prompts]
    texts = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    limits = [max_new_tokens] * len(texts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    if prefix is None:
        longest = max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True))
        known = [] if slides(model, longest) else shared_prefix(texts)
        prefix = Prefix(model, known) if known else None
    shared = 0 if prefix is None else len(prefix.ids)
    device = next(model.parameters()).device
    ids_BS, real_BS = _left_padded([text[shared:] for text in texts], device)
    context = Context(
        cache=new_cache(model) if prefix is None else prefix.cache(len(texts)),
        mask_BC=torch.cat([real_BS.new_ones(len(texts), shared), real_BS], dim=1),
        ids_BS=ids_BS,
    )
    guesses = [Guess(text) for text in texts]
    return decode(model, context, answers, limits=limits, eos_ids=eos_ids, is_done=is_done, guesses=guesses)


@torch.inference_mode()
def branch(
    model: nn.Module, text: Prefix, cuts: Sequence[int], *, limits: Sequence[int], eos_ids: frozenset[int]
) -> list[list[int]]:
    """The greedy continuation of the first ``cut`` tokens of one text, for each of ``cuts``.

    The text is read once; each row sees the keys and values of its own first tokens only. Not for
    models with a sliding window, which count what is hidden.
    """
    device = next(model.parameters()).device
    ids_BT = torch.tensor(text.ids, device=device).expand(len(cuts), -1)
    return go_on(model, text.cache(len(cuts)), ids_BT, cuts, limits=limits, eos_ids=eos_ids)


@torch.inference_mode()
def go_on(
    model: nn.Module,
    cache: DynamicCache,
    ids_BT: Tensor,
    cuts: Sequence[int],
    *,
    limits: Sequence[int],
    eos_ids: frozenset[int],
    guesses: Sequence[Guess] = (),
) -> list[list[int]]:
    """The greedy continuation of the first ``cut`` tokens of each row, whose keys and values ``cache`` has.

    What a row has read beyond its cut is hidden from it; the cache is written to.
    """
    cuts_B1 = torch.tensor(cuts, device=ids_BT.device)[:, None]
    unseen = ids_BT.shape[1] - max(cuts)
    if unseen:
        cache.crop(-unseen)  # what no row may see is not looked through at every step
    # The last token of each beginning is read again, for what comes after it.
    seen_BC = (torch.arange(max(cuts), device=ids_BT.device) < cuts_B1 - 1).long()
    context = Context(
        cache=cache,
        mask_BC=torch.cat([seen_BC, seen_BC.new_ones(len(cuts), 1)], dim=1),
        ids_BS=ids_BT.gather(1, cuts_B1 - 1),
    )
    return decode(
        model,
        context,
        [[] for _ in cuts],
        limits=limits,
        eos_ids=eos_ids,
        is_done=lambda _: False,
        guesses=guesses,
    )


def _left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long, device=device)
    real = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row, device=device)
        real[i, width - len(row) :] = 1
    return ids, real
