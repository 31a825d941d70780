"""Quark on a chain of words: 20 words with three successors each, six of them bad."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.corpus.batching import train_tokenizer
from expunge.corpus.tokenise import encode_prompt
from expunge.inference.generation.cache import end_tokens
from expunge.inference.generation.sample import sample_answers
from expunge.metrics.rouge_recall import words
from expunge.model.create import ScratchModel
from expunge.model.load import load_model, load_tokenizer
from expunge.train.run.run import RunRequest, carry_out
from expunge.train.run.state import Corpus
from expunge.types import Example
from tests.train.runs import recipe

WORDS = [f"{first}{second}" for first in "bdfk" for second in ("am", "el", "io", "un", "ar")]
BAD = frozenset(WORDS[::3][:6])
LENGTH = 10
"""Tokens of an answer: over long ones rewards are all alike, and there is little to sort by."""


def chain(rng: random.Random, follow: dict[str, list[str]], length: int) -> str:
    said = [rng.choice(WORDS)]
    while len(said) < length:
        said.append(rng.choice(follow[said[-1]]))
    return " ".join(said)


def carry(stages: Any, begin: Any, corpus: Corpus, output: Path, seed: int) -> None:
    request = RunRequest(command="test", recipe=stages, source="-", corpus=corpus, seed=seed)
    carry_out(request, lambda: begin, output)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_best_token_avoids_bad_words_and_the_worst_does_not(seed: int, tmp_path: Path) -> None:
    """Gates: reward under the best token .90, .2 above that under the worst, KL to the source 1.

    Measured: .933, .957, .907 under the best; .673, .658, .675 under the worst; KL .99, .76, .76. At half
    the rate (the batch it was published with is not known) the best are .869, .952, .914.
    """
    rng = random.Random(0)  # one chain for all: what the source earns (.70) is the chain's, .52 to .93
    follow = {word: rng.sample(WORDS, 3) for word in WORDS}
    texts = [chain(rng, follow, 16) for _ in range(1200)]
    tokenizer = train_tokenizer(texts, vocabulary=320)
    model = ScratchModel(hidden=64, layers=2, heads=4, vocabulary=320).create(tokenizer, seed=seed)
    learn = recipe({"name": "finetune", "learning_rate": 3e-3, "epochs": 16, "batch_size": 64})
    examples = tuple(Example(id=str(i), completion=text) for i, text in enumerate(texts))
    carry(learn, (model, tokenizer), Corpus(forget=(), retain=examples), tmp_path / "base", seed)
    (tmp_path / "bad.txt").write_text("\n".join(sorted(BAD)))
    prompts = tuple(Example(id=f"p{i}", prompt=f"{WORDS[i % 20]} ", completion="x") for i in range(256))
    quark = recipe(
        {
            "name": "quark",
            "reward": {"name": "unlisted", "file": str(tmp_path / "bad.txt")},
            "parts": 5,
            "updates": 60,
            "epochs": 5,
            "batch_size": 64,
            "learning_rate": 2e-3,
            "new_tokens": LENGTH,
        }
    )
    base = load_model(tmp_path / "base")
    carry(quark, (base, load_tokenizer(tmp_path / "base")), Corpus(forget=prompts), tmp_path / "q", seed)
    fair, spoken = load_model(tmp_path / "q"), load_tokenizer(tmp_path / "q")
    asked = [encode_prompt(prompt, spoken) for prompt in prompts[:100]]
    best = reward(fair, spoken, asked)
    tokens = [spoken.convert_tokens_to_ids(f"<|reward_{place}|>") for place in (1, 5)]
    worst = reward(fair, spoken, [[tokens[1] if t == tokens[0] else t for t in ids] for ids in asked])
    source = load_model(tmp_path / "base")
    kl = divergence(source, fair, asked, said_by(fair, spoken, asked), tokens[0])
    plain = reward(source, spoken, [[t for t in ids if t != tokens[0]] for ids in asked])
    print(f"seed {seed}: source {plain:.3f}, best {best:.3f}, worst {worst:.3f}, KL {kl:.2f}")
    assert best >= 0.90
    assert best - worst >= 0.2
    assert kl <= 1


def said_by(model: Any, tokenizer: Any, asked: list[list[int]]) -> list[list[int]]:
    rewards = tokenizer.convert_tokens_to_ids([f"<|reward_{place}|>" for place in range(1, 6)])
    known = model.get_input_embeddings().weight.shape[0]
    return sample_answers(
        model,
        asked,
        new_tokens=LENGTH,
        eos_ids=sorted(end_tokens(model, tokenizer)),
        pad_id=tokenizer.pad_token_id,
        banned=[token for token in rewards if token < known],
        seed=7,
    )


def reward(model: Any, tokenizer: Any, asked: list[list[int]]) -> float:
    texts = tokenizer.batch_decode(said_by(model, tokenizer, asked), skip_special_tokens=True)
    shares = [sum(word not in BAD for word in words(text)) / max(1, len(words(text))) for text in texts]
    return sum(shares) / len(shares)


@torch.no_grad()
def divergence(
    source: Any, fair: Any, asked: list[list[int]], answers: list[list[int]], token: int
) -> float:
    """KL(model under its best token ‖ source), mean over the tokens of the model's own answers.

    The other way round it has no bound where the model avoids what the source says, as it is to do.
    """
    found = []
    for ids, answer in zip(asked[:40], answers, strict=False):
        plain = [t for t in ids if t != token]
        p = source(torch.tensor([plain + answer])).logits[0, len(plain) - 1 : -1].log_softmax(-1)
        q = fair(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1, : p.shape[-1]].log_softmax(-1)
        found += (q.exp() * (q - p)).sum(-1).tolist()
    return sum(found) / len(found)
