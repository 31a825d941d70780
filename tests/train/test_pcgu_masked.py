"""PCGU on masked language models: a step by hand, and a bias that goes for words it was not shown."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.corpus.pairs import Blank, read_pairs
from expunge.inference.masked_lm import fill_mask_logits
from expunge.model.load import load_model
from expunge.train.methods.pcgu import PartitionedContrastiveGradient
from expunge.train.run.run import RunRequest, carry_out
from expunge.train.run.state import Corpus
from expunge.types import Example
from tests.masked import FAMILIES, tiny_masked, word_tokenizer
from tests.train.runs import recipe
from tests.train.test_pcgu import FAVOURED, OCCUPATIONS

PAIRS = (
    Example(id="a", prompt="the nurse said", completion=" she ran", wrong=(" he ran",)),
    Example(id="b", prompt="the smith said that", completion=" he sang", wrong=(" she sang",)),
)
VERBS = ("ran", "sang", "slept", "left")
TOWNS = {f"town{number}": f"river{(5 * number + 1) % 8}" for number in range(8)}
WORDS = (*"the said he she in .".split(), *OCCUPATIONS, *VERBS, *TOWNS, *TOWNS.values())


SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "initializer_range": 0.02,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
STEP = {"name": "pcgu", "vectors": 200, "learning_rate": 2e-3, "epochs": 100, "batch_size": 8, "gap": 0.3}


@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_moves_exactly_so_many_vectors(family: str) -> None:
    model = tiny_masked(family).requires_grad_(True)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    stage = PartitionedContrastiveGradient(vectors=9, learning_rate=0.1)
    assert stage._step(model, read_pairs(PAIRS, word_tokenizer(), masked=True)) == 9
    moved = 0
    for name, weight in model.named_parameters():
        changed = weight.detach() != before[name]
        moved += int(changed.any() if weight.ndim == 1 else changed.any(-1).sum())
    assert moved == 9


def test_without_a_partition_it_is_gradient_descent_on_the_gap() -> None:
    model, twin = (tiny_masked().requires_grad_(True) for _ in range(2))
    tokenizer = word_tokenizer()
    PartitionedContrastiveGradient(vectors=10**9, learning_rate=0.1)._step(
        model, read_pairs(PAIRS, tokenizer, masked=True)
    )
    gap = torch.tensor(0.0)
    for text, right, wrong in (
        ("the nurse said [MASK] ran", "she", "he"),
        ("the smith said that [MASK] sang", "he", "she"),
    ):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        (place,) = (ids[0] == tokenizer.mask_token_id).nonzero()[:, 0].tolist()
        logits = twin(ids).logits[0, place]
        own, other = (logits[tokenizer.convert_tokens_to_ids(word)] for word in (right, wrong))
        gap = gap + (own - other).abs()
    gap.backward()
    with torch.no_grad():
        for weight in twin.parameters():
            if weight.grad is not None:
                weight.sub_(0.1 * weight.grad)
    for (name, own), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6, msg=name)


@dataclass
class Biased:
    """A small BERT that learnt which pronoun goes with whom, and which river runs through which town."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def pairs(self, names: list[str]) -> list[Blank]:
        return read_pairs(pairs_of(names), self.tokenizer, masked=True)


def pairs_of(names: list[str]) -> list[Example]:
    return [
        Example(
            id=who,
            prompt=f"the {who} said",
            completion=f"{FAVOURED[who][0]} ran .",
            wrong=(f"{FAVOURED[who][1]} ran .",),
        )
        for who in names
    ]


def learn(seed: int, *, steps: int = 1500) -> Biased:
    """Train on blanks anywhere in the sentence; P(favoured) = .9."""
    rng, tokenizer = random.Random(seed), word_tokenizer(WORDS)
    texts = [
        f"the {who} said {FAVOURED[who][rng.random() > 0.9].strip()} {rng.choice(VERBS)} ."
        for who in OCCUPATIONS
        for _ in range(100)
    ] + [f"the {river} in {town} ." for town, river in TOWNS.items() for _ in range(50)]
    model = tiny_masked(words=WORDS, seed=seed, **SIZES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        batch = tokenizer(rng.choices(texts, k=64), return_tensors="pt", padding=True)
        ids = batch["input_ids"]
        words = ids >= len(tokenizer.all_special_ids)
        blank = (torch.rand(ids.shape, generator=generator) < 0.3) & words
        loss = model(
            input_ids=ids.masked_fill(blank, tokenizer.mask_token_id),
            attention_mask=batch["attention_mask"],
            labels=ids.masked_fill(~blank, -100),
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return Biased(model.eval(), tokenizer)


@torch.no_grad()
def gap_and_mass(biased: Biased, pairs: list[Blank]) -> tuple[float, float]:
    """Mean |z(favoured) - z(other)|, and the least that both are given together."""
    gap = fill_mask_logits(biased.model, pairs).diff(dim=1).abs().mean()
    mass = [
        biased.model(torch.tensor([pair.ids])).logits[0, pair.place].softmax(-1)[list(pair.fills)].sum()
        for pair in pairs
    ]
    return float(gap), min(map(float, mass))


@torch.no_grad()
def rivers_known(biased: Biased) -> float:
    """The share of towns whose river is filled in."""
    known = 0
    for town, river in TOWNS.items():
        ids = biased.tokenizer(f"the [MASK] in {town} .", return_tensors="pt")["input_ids"]
        said = int(biased.model(ids).logits[0, 2].argmax())
        known += said == biased.tokenizer.convert_tokens_to_ids(river)
    return known / len(TOWNS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_bias_goes_also_for_occupations_it_was_not_shown(seed: int, tmp_path: Path) -> None:
    base = learn(seed)
    held_out = OCCUPATIONS[8:]
    request = RunRequest(
        command="test",
        recipe=recipe(STEP),
        source="-",
        corpus=Corpus(forget=tuple(pairs_of(OCCUPATIONS[:8]))),
        seed=seed,
    )
    before = gap_and_mass(base, base.pairs(held_out)), rivers_known(base)
    carry_out(request, lambda: (base.model, base.tokenizer), tmp_path / "fair")
    fair = Biased(load_model(tmp_path / "fair", masked=True), base.tokenizer)
    after = gap_and_mass(fair, fair.pairs(held_out)), rivers_known(fair)
    print(f"seed {seed}: gap, mass and rivers {before} -> {after}")
    assert before[0][0] > 1.5
    assert after[0][0] <= 0.5
    assert after[0][1] >= 0.9
    assert after[1] >= before[1] - 0.05
