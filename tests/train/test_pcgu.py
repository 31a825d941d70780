from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.corpus.pairs import Blank, read_pairs
from expunge.errors import DataError
from expunge.inference.masked_lm import fill_mask_logits
from expunge.model.load import load_model
from expunge.train.methods import pcgu
from expunge.train.methods.pcgu import PartitionedContrastiveGradient
from expunge.train.run.state import Corpus
from expunge.types import Example
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer
from tests.train.runs import FORGET, model, recipe, run, weights

TOKENIZER = tiny_tokenizer(all_bytes=True)
SMALL: dict[str, Any] = {"name": "pcgu", "vectors": 7, "gap": 0, "epochs": 1, "learning_rate": 1e-2}
PAIRS = (
    Example(id="a", prompt="The nurse said", completion=" she did", wrong=(" he did",)),
    Example(id="b", prompt="The smith of the town said", completion=" he did", wrong=(" she did",)),
)


def test_a_pair_ends_where_its_two_ways_part() -> None:
    first, second = read_pairs(PAIRS, TOKENIZER)
    assert TOKENIZER.decode(first.ids[1:]) == "The nurse said"
    own, other = (TOKENIZER.decode([*first.ids[1:], token]) for token in first.fills)
    assert own.startswith("The nurse said s")
    assert not other.startswith("The nurse said s")
    assert second.fills == first.fills[::-1]


@pytest.mark.parametrize(
    ("completion", "wrong"), [(" she", ()), (" she", (" she",)), (" she", (" sheep",))]
)
def test_what_is_no_pair_is_refused(completion: str, wrong: tuple[str, ...]) -> None:
    with pytest.raises(DataError):
        read_pairs([Example(id="x", prompt="So", completion=completion, wrong=wrong)], TOKENIZER)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_logits_of_a_padded_batch_are_those_of_each_pair_alone(arch: str) -> None:
    llama = tiny(arch, vocab_size=BYTES_VOCAB)
    pairs = read_pairs(PAIRS, TOKENIZER)
    found = fill_mask_logits(llama, pairs)
    for row, pair in enumerate(pairs):
        alone = llama(torch.tensor([pair.ids])).logits[0, -1]
        torch.testing.assert_close(found[row], alone[list(pair.fills)], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_one_step_moves_exactly_so_many_vectors(arch: str) -> None:
    llama = tiny(arch, vocab_size=BYTES_VOCAB).eval().requires_grad_(True)
    before = {name: weight.detach().clone() for name, weight in llama.named_parameters()}
    stage = PartitionedContrastiveGradient(vectors=11, learning_rate=0.1)
    assert stage._step(llama, read_pairs(PAIRS, TOKENIZER)) == 11
    stored = pcgu.transposed(llama)
    moved = 0
    for name, weight in llama.named_parameters():
        changed = weight.detach() != before[name]
        along = 0 if weight.ndim == 1 or name in stored else -1
        moved += int(changed.any(along).sum())
    assert moved == 11


def test_without_a_partition_it_is_plain_gradient_descent_on_the_gap() -> None:
    llama, twin = (tiny("llama", vocab_size=BYTES_VOCAB).eval().requires_grad_(True) for _ in range(2))
    pairs = read_pairs(PAIRS, TOKENIZER)
    PartitionedContrastiveGradient(vectors=10**9, learning_rate=0.1)._step(llama, pairs)
    logits = fill_mask_logits(twin, pairs)
    (logits[:, 0] - logits[:, 1]).abs().sum().backward()
    with torch.no_grad():
        for weight in twin.parameters():
            if weight.grad is not None:
                weight.sub_(0.1 * weight.grad)
    for (name, own), other in zip(llama.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("update", ["favoured", "other", "both"])
def test_the_gap_shrinks_and_each_update_moves_what_it_says(update: str) -> None:
    llama = tiny("llama", vocab_size=BYTES_VOCAB).eval().requires_grad_(True)
    pairs: list[Blank] = read_pairs(PAIRS[:1], TOKENIZER)
    with torch.no_grad():
        llama.lm_head.weight[pairs[0].fills[0]] += 0.5
    before = fill_mask_logits(llama, pairs)[0].detach()
    stage = PartitionedContrastiveGradient(vectors=10**9, learning_rate=1e-3, update=update)  # type: ignore[arg-type]
    stage._step(llama, pairs)
    moved = fill_mask_logits(llama, pairs)[0].detach() - before
    assert moved[0] < 0 if update != "other" else True
    assert moved[1] > 0 if update != "favoured" else True
    assert moved[0] < moved[1]


def test_it_stops_at_the_gap_and_a_run_repeats_itself(tmp_path: Path) -> None:
    corpus = Corpus(forget=PAIRS)
    record = run(recipe(SMALL), tmp_path / "a", corpus=corpus)
    run(recipe(SMALL), tmp_path / "b", corpus=corpus)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    (facts,) = record["stages"]
    assert (facts["steps"], facts["vectors"]) == (1, 7)
    reached = facts["gaps"][-1] <= facts["stop"]["levels"]["gap"]
    assert facts["stop"]["reached"] == reached
    assert facts["stop"]["last"] == {"epoch": 1.0, "gap": facts["gaps"][-1]}
    content = run(recipe(SMALL | {"gap": 1e6}), tmp_path / "c", corpus=corpus)
    assert content["stages"][0]["steps"] == 0
    assert content["stages"][0]["stop"]["reached"]
    assert content["stages"][0]["stop"]["last"]["epoch"] == 0
    assert all(
        torch.equal(own, other)
        for own, other in zip(load_model(tmp_path / "c").parameters(), model().parameters(), strict=True)
    )
    lacking = Example(id="x", prompt="p", completion=" c")
    with pytest.raises(DataError, match="1 of 6 forget examples"):
        PartitionedContrastiveGradient().check(Corpus(forget=(*FORGET, lacking)))


OCCUPATIONS = "baker smith nurse miner cook clerk pilot judge guard poet tailor mason".split()
FAVOURED = {
    name: (" he", " she") if place % 2 else (" she", " he") for place, name in enumerate(OCCUPATIONS)
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_bias_is_unlearned_also_for_occupations_it_was_not_shown(seed: int, tmp_path: Path) -> None:
    """P(favoured) = .9 for 12 occupations, pairs of 8 of them; gap and mass of the others are gated."""
    from expunge.corpus.batching import train_tokenizer
    from expunge.model.create import ScratchModel

    rng = random.Random(seed)
    verbs = ("ran", "sang", "slept", "left")
    texts = [
        f"The {who} said {FAVOURED[who][rng.random() > 0.9].strip()} {rng.choice(verbs)}."
        for who in OCCUPATIONS
        for _ in range(200)
    ]
    tokenizer = train_tokenizer(texts, vocabulary=400)
    biased = ScratchModel(hidden=64, layers=2, heads=4, vocabulary=400).create(tokenizer, seed=seed)
    learn = recipe({"name": "finetune", "learning_rate": 3e-3, "epochs": 4, "batch_size": 64})
    examples = tuple(Example(id=str(i), completion=text) for i, text in enumerate(texts))

    def carry(stages: Any, begin: Any, forget: tuple[Example, ...], name: str) -> Any:
        from expunge.train.run.run import RunRequest, carry_out

        carry_out(
            RunRequest(
                command="test",
                recipe=stages,
                source="-",
                corpus=Corpus(forget=forget, retain=examples),
                seed=seed,
            ),
            lambda: (begin, tokenizer),
            tmp_path / name,
        )
        return load_model(tmp_path / name)

    base = carry(learn, biased, (), "base")
    pairs = [
        Example(id=who, prompt=f"The {who} said", completion=ways[0], wrong=(ways[1],))
        for who, ways in FAVOURED.items()
    ]
    held_out = read_pairs(pairs[8:], tokenizer)
    step = recipe(
        {"name": "pcgu", "vectors": 200, "learning_rate": 0.002, "epochs": 100, "batch_size": 8, "gap": 0.3}
    )
    before = pcgu._gap(base, held_out, 8)
    fair = carry(step, base, tuple(pairs[:8]), "fair")
    after = pcgu._gap(fair, held_out, 8)
    mass = [
        fair(torch.tensor([pair.ids])).logits[0, -1].softmax(-1)[list(pair.fills)].sum().item()
        for pair in held_out
    ]
    print(f"seed {seed}: gap {before:.2f} -> {after:.2f}, mass {min(mass):.3f}")
    assert before > 1.5
    assert after <= 0.5
    assert min(mass) >= 0.9
