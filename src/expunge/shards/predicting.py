"""What an ensemble says of a file of questions: continuations, log-probabilities, votes among choices."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expunge.corpus.readers import read_examples
from expunge.corpus.tokenise import encode, encode_prompt
from expunge.files import claim_file, nothing, write_text
from expunge.shards.ensemble import By, Ensemble, mean_logps, open_ensemble
from expunge.shards.folder import PlanFolder
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
    found = []
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
        found.append(row)
    return found


def read(ensemble: Ensemble, example: Example, completion: str, max_length: int) -> Tensor:
    """Log-probabilities of a completion's tokens under each member, [S, N]."""
    asked = Example(
        id=example.id,
        prompt=example.prompt,
        completion=completion,
        turns=example.turns,
        is_chat=example.is_chat,
    )
    pieces = encode(asked, ensemble.tokenizer, max_length=max_length)
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
    return {"label": example.place, "votes": votes, "choice": best, "shares": mean_C}


def _answers(ensemble: Ensemble, examples: Sequence[Example], *, by: By, max_new_tokens: int) -> list[str]:
    tokenizer = ensemble.tokenizer
    eos_ids = frozenset([tokenizer.eos_token_id]) - {None}
    prompts = [encode_prompt(example, tokenizer) or [tokenizer.pad_token_id] for example in examples]
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    said: dict[int, str] = {}
    for begin in range(0, len(order), BATCH):
        places = order[begin : begin + BATCH]
        tokens = ensemble.generate(
            [prompts[place] for place in places], max_new_tokens=max_new_tokens, eos_ids=eos_ids, by=by
        )
        said |= {place: tokenizer.decode(ids) for place, ids in zip(places, tokens, strict=True)}
    return [said[place] for place in range(len(prompts))]
