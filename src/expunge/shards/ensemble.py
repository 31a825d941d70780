"""The shards as one model: joint log-probabilities, votes, and predictions for a file of questions."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from expunge.corpus.batching import collate, length_sorted_batches
from expunge.corpus.readers import read_examples
from expunge.corpus.tokenise import Encoded, encode, encode_prompt, first_token, left_to_say
from expunge.errors import ModelError
from expunge.files import claim_file, nothing, write_text
from expunge.inference.backbone import counted, predictions
from expunge.inference.forward import compute_token_view
from expunge.inference.generation.cache import end_tokens
from expunge.model.arch import output_head
from expunge.model.cache import new_cache
from expunge.model.rope import rope_boundary
from expunge.shards.folder import WEIGHTS, PlanFolder
from expunge.shards.shard import start_model
from expunge.types import Example

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Questions to ask the shards of a plan, as it is asked for on the command line."""

    plan: PlanFolder
    data: str
    output: Path
    by: By = "probability"
    max_new_tokens: int = 32
    fields: Mapping[str, str] | None = None

    def run(self) -> list[dict[str, Any]]:
        """Write one JSON object a question and return them."""
        claim_file(self.output, source=self.data, overwrite=None)
        examples = read_examples(self.data, fields=self.fields)
        rows = predict(
            open_ensemble(self.plan),
            examples,
            by=self.by,
            max_new_tokens=self.max_new_tokens,
            max_length=self.plan.manifest.training.max_length,
        )
        write_text(
            self.output,
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
            may_replace=nothing,
        )
        return rows


def predict(
    ensemble: Ensemble, examples: Sequence[Example], *, by: By, max_new_tokens: int, max_length: int
) -> list[dict[str, Any]]:
    """For each example what the ensemble says after its prompt and how likely it holds the completion.

    ``logp`` is the log of the mean probability, token by token, summed. Where an example has other
    choices there are also the place of the right one (``label``), what each shard and what all of them
    choose (``votes``, ``choice``), by probability per token.
    """
    answers = _answers(ensemble, examples, by=by, max_new_tokens=max_new_tokens)
    predictions = []
    for example, answer in zip(examples, answers, strict=True):
        logps = read(ensemble, example, example.completion, max_length)
        row = {
            "id": example.id,
            "group": example.group,
            "answer": answer,
            "logp": float(mean_logps(logps).sum()),
            "tokens": logps.shape[1],
        }
        if example.wrong:
            row |= _choice(ensemble, example, by, max_length)
        predictions.append(row)
    return predictions


def read(ensemble: Ensemble, example: Example, completion: str, max_length: int) -> Tensor:
    """Log-probabilities of a completion's tokens under each member, [S, N]."""
    question = Example(
        id=example.id,
        prompt=example.prompt,
        completion=completion,
        turns=example.turns,
        is_chat=example.is_chat,
    )
    pieces = encode(question, ensemble.tokenizer, max_length=max_length)
    return torch.cat(ensemble.logps(pieces), dim=1)


def _choice(ensemble: Ensemble, example: Example, by: By, max_length: int) -> dict[str, Any]:
    scores_CS = torch.stack(
        [read(ensemble, example, choice, max_length).mean(-1) for choice in example.choices]
    )
    shares_CS = scores_CS.exp() / scores_CS.exp().sum(0)
    votes = shares_CS.argmax(0).tolist()
    mean_C = shares_CS.mean(-1).tolist()
    counts = Counter(votes) if by == "vote" else Counter[int]()
    best = max(range(len(mean_C)), key=lambda choice: (counts[choice], mean_C[choice]))
    return {"label": example.correct_index, "votes": votes, "choice": best, "shares": mean_C}


def _answers(ensemble: Ensemble, examples: Sequence[Example], *, by: By, max_new_tokens: int) -> list[str]:
    tokenizer = ensemble.tokenizer
    eos_ids = end_tokens(ensemble.model, tokenizer)
    prompts = [encode_prompt(example, tokenizer) or first_token(tokenizer) for example in examples]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    texts: dict[int, str] = {}
    for begin in range(0, len(order), BATCH):
        places = order[begin : begin + BATCH]
        tokens = ensemble.generate(
            [prompts[index] for index in places], max_new_tokens=max_new_tokens, eos_ids=eos_ids, by=by
        )
        texts |= {
            index: tokenizer.decode(ids).removeprefix(left_to_say(examples[index], tokenizer))
            for index, ids in zip(places, tokens, strict=True)
        }
    return [texts[index] for index in range(len(prompts))]


# The shards as one model: what they predict together, by the mean of their probabilities or by votes.
#
# Shapes: S members, B prompts, T positions, N counted tokens, V vocabulary, K entries kept.

By = Literal["probability", "vote"]
BATCH_TOKENS = 8192
ROWS = 256
"""Rows of next-token distributions held at once."""


class TopProbabilities(NamedTuple):
    """The likeliest entries of each counted token, their shares among themselves, the mass they had."""

    entries_NK: Tensor
    shares_NK: Tensor
    mass_N: Tensor


@dataclass(frozen=True)
class Ensemble:
    """One model and, for each member, the weights that make the model that member.

    ``sets[s]`` holds tensors that take the place of the model's own of the same names: adapters on a
    start they share, or whole models. ``shards[s]`` is the shard a member was trained on.
    """

    model: nn.Module
    tokenizer: Any
    sets: Sequence[dict[str, Tensor]]
    shards: Sequence[int]

    def members(self, chosen: Sequence[int] | None = None) -> Iterator[nn.Module]:
        """The model as each of the chosen members in turn; all of them by default."""
        parameters = dict(self.model.named_parameters())
        for member in range(len(self.sets)) if chosen is None else chosen:
            for name, weight in self.sets[member].items():
                parameters[name].data = weight
            yield self.model

    @torch.inference_mode()
    def logps(self, encoded: Sequence[Encoded]) -> list[Tensor]:
        """Log-probabilities of the counted tokens of each sequence under each member: [S, N] each."""
        logps: list[Tensor] = [torch.empty(0)] * len(encoded)
        lengths = [len(one.input_ids) for one in encoded]
        for rows in length_sorted_batches(lengths, batch_tokens=BATCH_TOKENS):
            batch = self._batch([encoded[row] for row in rows])
            # Read at once: a view looks at the model late, when it is another member already.
            logps_SBT = torch.stack([compute_token_view(model, batch).logps for model in self.members()])
            for index, (row, where_T) in enumerate(zip(rows, counted(batch), strict=True)):
                logps[row] = logps_SBT[:, index][:, where_T].cpu()
        return logps

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, eos_ids: frozenset[int], by: By
    ) -> list[list[int]]:
        """The greedy continuation of each prompt by all members together, without its end token."""
        answers: list[list[int]] = [[] for _ in prompts]
        ids_BT, mask_BT = self._left_padded(prompts)
        boundary = rope_boundary(self.model)
        caching = boundary is None or ids_BT.shape[1] + max_new_tokens <= boundary
        caches = [new_cache(self.model) if caching else None for _ in self.sets]
        running = set(range(len(prompts)))
        for _ in range(max_new_tokens):
            positions = (mask_BT.cumsum(-1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
            logits_SBV = torch.stack(
                [
                    model(
                        input_ids=ids_BT,
                        attention_mask=mask_BT,
                        position_ids=positions,
                        past_key_values=cache,
                        use_cache=caching,
                        logits_to_keep=1,
                    ).logits[:, -1]
                    for model, cache in zip(self.members(), caches, strict=True)
                ]
            )
            token_B = chosen_tokens(logits_SBV, by)
            for row, token in enumerate(token_B.tolist()):
                if row in running and token not in eos_ids:
                    answers[row].append(token)
                else:
                    running.discard(row)
            if not running:
                break
            ids_BT = token_B[:, None] if caching else torch.cat([ids_BT, token_B[:, None]], dim=1)
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(answers), 1)], dim=1)
        return answers

    @torch.inference_mode()
    def shares(
        self, encoded: Sequence[Encoded], chosen: Sequence[int], *, top_k: int | None
    ) -> TopProbabilities:
        """The mean distribution of the chosen members at each counted token of some sequences.

        Only ``ROWS`` rows over the vocabulary exist at once; what is kept is ``top_k`` entries each.
        """
        batch = self._batch(encoded)
        states = [predictions(model, batch).hidden_NH.clone() for model in self.members(chosen)]
        parts = []
        for begin in range(0, len(states[0]), ROWS):
            rows = [state_NH[begin : begin + ROWS] for state_NH in states]
            mean_nV = sum(
                (
                    output_head(model)(state_nH).float().softmax(-1)
                    for model, state_nH in zip(self.members(chosen), rows, strict=True)
                ),
                start=torch.zeros(()),
            ) / len(chosen)
            top = mean_nV.topk(min(top_k or mean_nV.shape[-1], mean_nV.shape[-1]), dim=-1)
            mass_n1 = top.values.sum(-1, keepdim=True)
            parts.append((top.indices, top.values / mass_n1, mass_n1[:, 0]))
        entries, shares, mass = zip(*parts, strict=True)
        return TopProbabilities(torch.cat(entries).cpu(), torch.cat(shares).cpu(), torch.cat(mass).cpu())

    def _batch(self, encoded: Sequence[Encoded]) -> Any:
        batch = collate(encoded, pad_id=self.tokenizer.pad_token_id)
        return batch.to(next(self.model.parameters()).device)

    def _left_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        device = next(self.model.parameters()).device
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.tokenizer.pad_token_id, device=device)
        real = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt, device=device)
            real[row, width - len(prompt) :] = 1
        return ids, real


def open_ensemble(plan: PlanFolder) -> Ensemble:
    """The trained shards of a plan that still hold an example.

    Raises:
        ModelError: a shard is not trained on what it holds now.
        OutputError: its ledger is missing.
    """
    plan.require_ledger()
    rows = plan.rows()
    shards = sorted({row.shard for row in rows})
    folders = {shard: plan.last_weights(shard, rows) for shard in shards}
    missing = [shard for shard, folder in folders.items() if not folder.exists()]
    if missing or not shards:
        raise ModelError(
            f"the shards in {plan.path}",
            why=f"shard {missing[0]} is not trained on what it holds now."
            if missing
            else "nothing is left.",
            fix=f"Run: expunge shards train {plan.path}",
        )
    model, tokenizer = start_model(plan.start, plan.manifest.training, seed=0)
    device = next(model.parameters()).device
    sets = [load_file(folders[shard] / WEIGHTS, device=str(device)) for shard in shards]
    return Ensemble(model.eval().requires_grad_(False), tokenizer, sets, shards)


def mean_logps(logps_SN: Tensor) -> Tensor:
    """The log of the members' mean probability: never the mean of their logs. [N]."""
    return torch.logsumexp(logps_SN, 0) - math.log(len(logps_SN))


def chosen_tokens(logits_SBV: Tensor, by: By) -> Tensor:
    """What the members say together: the token of the largest mean probability, or of the most votes. [B].

    Between equal votes the mean probability decides.
    """
    logps_SBV = logits_SBV.float().log_softmax(-1)
    mean_BV = mean_logps(logps_SBV).exp()
    if by == "probability":
        return mean_BV.argmax(-1)
    votes_BV = torch.zeros_like(mean_BV)
    for token_B in logps_SBV.argmax(-1):
        votes_BV.scatter_add_(1, token_B[:, None], torch.ones_like(votes_BV[:, :1]))
    return (votes_BV + mean_BV / 2).argmax(-1)
