"""Likelihood metrics on random models and ragged batches, against formulas written without the package."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.inference.observer import Observer
from expunge.metrics import metrics
from expunge.metrics.probes import Probes
from expunge.types import Example, Span
from tests.tiny import BOS, BYTES_VOCAB, EOS, tiny, tiny_tokenizer

TOKENIZER = tiny_tokenizer(all_bytes=True)
LINE = "the men went out in the rain and the wind was on the hill again "
DOCUMENTS = [Example(id=f"d{n}", completion=(LINE * 3)[n : 20 * n + 9]) for n in range(1, 6)]
DOCUMENTS.append(Example(id="whole", completion=LINE))
UNSEEN = [Example(id=f"h{n}", completion=(LINE[::-1] * 3)[: 15 * n + 4]) for n in range(1, 5)]
ANSWERS = [
    Example(id="a0", prompt="where? ", completion="in the town"),
    Example(id="a1", prompt="who lives on that hill over there? ", completion="42", spans=(Span(0, 1),)),
    Example(
        id="a2", prompt="a ", completion="the rain and the others, too", spans=(Span(4, 8), Span(17, 23))
    ),
]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Read:
    """A text read alone with full logits, in double precision from there on."""

    @torch.no_grad()
    def __init__(self, model: Any, example: Example) -> None:
        # As lm-evaluation-harness cuts: white space at a prompt's end goes to the completion.
        before = TOKENIZER.encode(example.prompt.rstrip())
        whole = TOKENIZER(example.prompt + example.completion, return_offsets_mapping=True)
        inside = whole["input_ids"][len(before) :]
        # A space before the completion goes with its first character, so that every token is somewhere.
        begin = len(example.prompt)
        places = [
            (start - begin, max(end - begin, 1)) for start, end in whole["offset_mapping"][len(before) :]
        ]
        ids = inside if not example.prompt else [*inside, EOS]
        logits = model(input_ids=torch.tensor([before + ids])).logits[0, len(before) - 1 : -1].double()
        self.text = example.completion
        self.logp = logits - logits.exp().sum(-1, keepdim=True).log()
        self.own = torch.stack([row[token] for row, token in zip(self.logp, ids, strict=True)])
        self.right = [int(row.argmax()) == token for row, token in zip(logits, ids, strict=True)]
        self.ending = len(ids) - len(inside)
        self.inside = [any(start < b and end > a for a, b in example.spans) for start, end in places]

    @property
    def counted(self) -> Tensor:
        inside = torch.tensor([*self.inside, *[False] * self.ending])
        return self.own[inside] if inside.any() else self.own

    @property
    def standardised(self) -> Tensor:
        p = self.logp.exp()
        mean = (p * self.logp).sum(-1)
        return (self.own - mean) / ((p * self.logp**2).sum(-1) - mean**2).clamp(min=1e-6).sqrt()


def lowest(values: Tensor, share: float) -> float:
    count = max(1, math.floor(share * len(values)))
    return -sum(sorted(values.tolist())[:count]) / count


def share(places: list[bool]) -> float:
    return sum(places) / len(places)


def ending(places: list[bool]) -> float:
    wrong = [at + 1 for at, place in enumerate(places) if not place]
    return 1 - max(wrong, default=0) / len(places)


def words(read: Read) -> list[bool]:
    return read.right[: len(read.inside)]


TEXTS: dict[str, Callable[[Read], float]] = {
    "probability": lambda read: math.exp(read.counted.mean()),
    "exact_memorisation": lambda read: share(words(read)),
    "extraction_strength": lambda read: ending(words(read)),
    "memorisation_accuracy": lambda read: share(words(read)[0 if read.ending else 1 :]),
}
SPANNED: dict[str, Callable[[Read], float]] = {
    "sensitive_accuracy": lambda read: share(
        [r for r, s in zip(words(read), read.inside, strict=True) if s]
    ),
    "accuracy_beside_spans": lambda read: share(
        [r for r, s in zip(words(read), read.inside, strict=True) if not s]
    ),
}
ATTACKS: dict[str, Callable[[Read], float]] = {
    "auc": lambda read: lowest(read.own, 0.4),
    "mia_loss": lambda read: -float(read.own.mean()),
    "mia_zlib": lambda read: -float(read.own.mean()) / len(zlib.compress(read.text.encode("utf-8"))),
    "mia_min_k_pp": lambda read: lowest(read.standardised, 0.4),
}


@pytest.fixture(scope="module", params=[(arch, kind) for arch in ("llama", "gpt2") for kind in DTYPES])
def model(request: pytest.FixtureRequest) -> Any:
    arch, kind = request.param
    return half_trained(arch).to(DTYPES[kind])


def half_trained(arch: str) -> Any:
    """A random model that has seen one of the lines a few times: right here and there."""
    model = tiny(arch, seed=5, vocab_size=BYTES_VOCAB)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    ids = torch.tensor([[BOS, *TOKENIZER.encode(LINE, add_special_tokens=False)]])
    for _ in range(12):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def compare(model: Any, name: str, formula: Callable[[Read], float], probes: Probes) -> None:
    # In bf16 kernels round by shape, so there each text is its own batch; in fp32 all are one.
    is_exact = model.dtype == torch.float32
    seer = Observer(model, TOKENIZER, max_length=256, batch_tokens=8192 if is_exact else 1)
    found = metrics.build({"name": name}).measure(seer, probes)
    for split, scores in found.items():
        reads = [Read(model, example) for example in probes.split(split)]
        expected = [formula(read) for read in reads]
        assert [score.value for score in scores] == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", TEXTS)
def test_a_texts_own_number(model: Any, name: str) -> None:
    compare(model, name, TEXTS[name], Probes(forget=(*DOCUMENTS, *ANSWERS)))


@pytest.mark.parametrize("name", SPANNED)
def test_sensitive_spans(model: Any, name: str) -> None:
    compare(model, name, SPANNED[name], Probes(forget=tuple(ANSWERS[1:])))


@pytest.mark.parametrize("name", ATTACKS)
def test_membership_attacks(model: Any, name: str) -> None:
    compare(model, name, ATTACKS[name], Probes(forget=tuple(DOCUMENTS), holdout=tuple(UNSEEN)))
