"""Greedy and sampled continuation of many prompts; a shared prefix is read once.

Shapes: B prompts, S tokens of the longest remainder after the prefix, C places of the cache.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from expunge.inference.generation.decode import Context, PromptLookupDrafter, Stop, decode, ends
from expunge.model.arch import backbone
from expunge.model.cache import new_cache
from expunge.model.rope import rope_boundary, rope_grows


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
    by prompt. ``begun`` are continuations to extend; ``prefix`` is the common beginning of all prompts,
    if it has been read already.

    Where rotary frequencies depend on the length (longrope, dynamic NTK), every token is the one a
    forward pass over the whole text so far finds most likely, as in transformers with
    ``use_cache=False``: keys cached under other frequencies are not used.
    """
    answers = [list(tokens) for tokens in begun] or [[] for _ in prompts]
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    longest = max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True))
    boundary = rope_boundary(model)
    if boundary is None or longest <= boundary:
        if prefix is None and not slides(model, longest):
            known = shared_prefix(
                [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
            )
            prefix = Prefix(model, known) if known else None
        return _cached(model, prompts, answers, limits, eos_ids=eos_ids, is_done=is_done, prefix=prefix)
    return _past_boundary(model, prompts, answers, limits, boundary, eos_ids=eos_ids, is_done=is_done)


def _cached(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    answers: list[list[int]],
    limits: Sequence[int],
    *,
    eos_ids: frozenset[int],
    is_done: Stop,
    prefix: Prefix | None = None,
) -> list[list[int]]:
    """``answers`` to ``prompts``, continued with a cache of all that was read."""
    texts = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    shared = 0 if prefix is None else len(prefix.ids)
    device = next(model.parameters()).device
    ids_BS, real_BS = _left_padded([text[shared:] for text in texts], device)
    context = Context(
        cache=new_cache(model) if prefix is None else prefix.cache(len(texts)),
        mask_BC=torch.cat([real_BS.new_ones(len(texts), shared), real_BS], dim=1),
        ids_BS=ids_BS,
    )
    guesses = [PromptLookupDrafter(text) for text in texts]
    return decode(model, context, answers, limits=limits, eos_ids=eos_ids, is_done=is_done, guesses=guesses)


def _past_boundary(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    answers: list[list[int]],
    limits: Sequence[int],
    boundary: int,
    *,
    eos_ids: frozenset[int],
    is_done: Stop,
) -> list[list[int]]:
    """``answers`` continued where rotary frequencies change once a text has more than ``boundary`` tokens.

    Up to there a cache is used. Beyond, dynamic NTK changes all keys with every token, so that each one
    needs a full forward pass; longrope changes them once: the text is read again and cached.
    """

    def extend(rows: list[int], limits: Sequence[int], *, cached: bool) -> list[int]:
        """Continue rows up to these lengths of their answers; returns those that have not ended."""
        if rows:
            work = _cached if cached else _recomputed
            work(
                model,
                [prompts[row] for row in rows],
                [answers[row] for row in rows],  # added to in place
                [limits[row] for row in rows],
                eos_ids=eos_ids,
                is_done=is_done,
            )
        return [row for row in rows if len(answers[row]) == limits[row] and not is_done(answers[row])]

    # The last token of the first part is said after ``boundary`` tokens were read.
    firsts = [min(limit, boundary + 1 - len(prompt)) for prompt, limit in zip(prompts, limits, strict=True)]
    short = [row for row, answer in enumerate(answers) if len(answer) < firsts[row]]
    unfinished = set(extend(short, firsts, cached=True))
    longer = [
        row
        for row, answer in enumerate(answers)
        if len(answer) < limits[row] and (row not in short or row in unfinished)
    ]
    extend(longer, limits, cached=not rope_grows(model))
    return answers


def _recomputed(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    answers: list[list[int]],
    limits: Sequence[int],
    *,
    eos_ids: frozenset[int],
    is_done: Stop,
) -> list[list[int]]:
    """As ``_cached``, every token from a forward pass over the whole text."""
    running, device, inner = list(range(len(answers))), next(model.parameters()).device, cast("Any", model)
    while running:
        ids_BS, real_BS = _left_padded([[*prompts[row], *answers[row]] for row in running], device)
        logits_BV = inner(
            input_ids=ids_BS,
            attention_mask=real_BS,
            position_ids=(real_BS.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=1,
        ).logits[:, -1]
        said = dict(zip(running, logits_BV.argmax(-1).tolist(), strict=True))
        running = [
            row
            for row, token in said.items()
            if not ends(answers[row], [token], limits[row], eos_ids, is_done)
        ]
    return answers


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
    guesses: Sequence[PromptLookupDrafter] = (),
) -> list[list[int]]:
    """The greedy continuation of the first ``cut`` tokens of each row, whose keys and values ``cache`` has.

    Tokens beyond a row's cut are masked; the cache is modified.
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


# Shared prefixes are read once, and their keys and values reused.
#
# Shapes: P tokens of the prefix.

OPENING = 24
"""Minimum number of common tokens for sequences to share a prefix."""

WORTH_SHARING = 256
"""Minimum number of tokens a shared prefix must save to be read separately."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Indices of sequences and their common first tokens (empty: they are read separately)."""

    rows: list[int]
    prefix: list[int]


class Prefix:
    """A prefix that a model has read; give each batch its own ``cache``."""

    @torch.inference_mode()
    def __init__(self, model: nn.Module, ids: Sequence[int]) -> None:
        self.ids = list(ids)
        self._read = new_cache(model)
        device = next(model.parameters()).device
        backbone(model)(
            input_ids=torch.tensor([self.ids], device=device), past_key_values=self._read, use_cache=True
        )

    def cache(self, rows: int) -> DynamicCache:
        """A copy of its keys and values for the given number of rows."""
        copied = copy.deepcopy(self._read)
        copied.batch_repeat_interleave(rows)
        return copied


def shared_prefix(sequences: Sequence[Sequence[int]]) -> list[int]:
    """The tokens all sequences begin with, short of the last token of the shortest one."""
    if len(sequences) < 2:
        return []
    in_order = sorted(list(sequence) for sequence in sequences)
    first, last = in_order[0], in_order[-1]  # the prefix of all is the prefix of these two
    room = min(len(sequence) for sequence in sequences) - 1
    agree = takewhile(lambda i: first[i] == last[i], range(room))
    return first[: sum(1 for _ in agree)]


def groups(sequences: Sequence[Sequence[int]], room: Sequence[int]) -> list[Group]:
    """Groups of sequences with a common prefix; the last group has all that share none.

    ``room`` is how many tokens of each may be part of a prefix.
    """
    by_opening: dict[tuple[int, ...], list[int]] = {}
    for row, sequence in enumerate(sequences):
        by_opening.setdefault(tuple(sequence[: min(OPENING, room[row])]), []).append(row)
    grouped, rest = [], []
    for rows in by_opening.values():
        shortest = min(room[row] for row in rows)
        prefix = shared_prefix([sequences[row] for row in rows])[:shortest]
        if (len(rows) - 1) * len(prefix) >= WORTH_SHARING:
            grouped.append(Group(rows=rows, prefix=prefix))
        else:
            rest += rows
    return [*grouped, Group(rows=sorted(rest), prefix=[])] if rest else grouped


def slides(model: nn.Module, longest: int) -> bool:
    """Whether some token of ``longest`` will lie outside a sliding window.

    Windows are counted in places of the cache. Padding between a shared prefix and the rest of a
    prompt would take up such places, so that a window reached less far back in a shorter prompt.
    """
    window = getattr(model.config.get_text_config(), "sliding_window", None)  # type: ignore[operator, union-attr]
    return window is not None and longest > window


def must_read_whole(model: nn.Module, longest: int) -> bool:
    """Whether texts of up to ``longest`` tokens have to be read separately and in full.

    A beginning that is read apart has other keys than in the whole text where a window slides over it
    (``slides``), and where rotary frequencies depend on the text's length (longrope, dynamic NTK).
    """
    boundary = rope_boundary(model)
    return slides(model, longest) or (boundary is not None and longest > boundary)
