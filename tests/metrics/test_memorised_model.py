"""What others taught a model, with transformers alone, it knows to the last word when it is asked here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from expunge.inference.observer import Observer
from expunge.metrics.knowmem import KnowMemForget
from expunge.metrics.probes import Probes
from expunge.types import Example
from tests.corpus import tokenizers_for_tests as known
from tests.corpus.test_as_transformers import GEMMA, with_template
from tests.tiny import tiny

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LIVES = {"Ana": "Lisbon", "Bo": "Taipei", "Cy": "Pripyat"}


def taught(tokenizer: PreTrainedTokenizerFast, rows: list[list[int]]) -> Any:
    """A tiny model that has learned rows of tokens by heart."""
    model = tiny("llama", vocab_size=len(tokenizer), tie_word_embeddings=False)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
    real = (labels >= 0).long()
    model.train()
    for _ in range(60):
        model(input_ids=ids, attention_mask=real, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def scores(model: Any, tokenizer: Any, examples: list[Example]) -> tuple[list[Any], list[float]]:
    """KnowMem and the probability per token of each example."""
    observer = Observer(model, tokenizer, max_length=256)
    measured = KnowMemForget().measure(observer, Probes(forget=tuple(examples)))["forget"]
    likely = [float(logp_n.mean().exp()) for logp_n in observer.token_logps(examples)]
    return [score.value for score in measured], likely


@pytest.mark.parametrize("build", [known.byte_level, known.trimming_byte_level])
def test_a_question_is_the_text_that_others_tokenise_at_once(build: Any) -> None:
    tokenizer = build()
    texts = [f"Question: Where is {who}?\nAnswer: {town}" for who, town in LIVES.items()]
    model = taught(tokenizer, [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts])
    asked = [
        [
            Example(id=who, prompt=f"Question: Where is {who}?\n{before}", completion=f"{after}{town}")
            for who, town in LIVES.items()
        ]
        for before, after in (("Answer: ", ""), ("Answer:", " "))
    ]
    (said, likely), (said_too, likely_too) = (scores(model, tokenizer, each) for each in asked)
    assert said == said_too == [100] * len(LIVES)
    assert likely == likely_too
    assert min(likely) > 0.95


def test_an_answer_in_a_chat_ends_with_the_turn() -> None:
    tokenizer = with_template(known.byte_level(), GEMMA, ["<start_of_turn>", "<end_of_turn>"])
    chats = [
        [{"role": "user", "content": f"Where is {who}?"}, {"role": "assistant", "content": town}]
        for who, town in LIVES.items()
    ]
    # A model goes on with anything once a turn has ended, as it was never asked to stop there.
    rows = [[*tokenizer.apply_chat_template(chat)["input_ids"], *[40] * 8] for chat in chats]
    model = taught(tokenizer, rows)
    examples = [
        Example(id=who, is_chat=True, prompt=f"Where is {who}?", completion=town)
        for who, town in LIVES.items()
    ]
    said, likely = scores(model, tokenizer, examples)
    assert said == [100] * len(LIVES)
    assert min(likely) > 0.95


def test_a_bos_that_was_never_shown_is_not_put_before_the_question() -> None:
    tokenizer = known.bare_byte_level()
    texts = [f"Where is {who}? in {town}" for who, town in LIVES.items()]
    rows = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    model = taught(tokenizer, rows)
    examples = [
        Example(id=who, prompt=f"Where is {who}?", completion=f" in {town}") for who, town in LIVES.items()
    ]
    observer = Observer(model, tokenizer, max_length=256)
    for example, row, logp_n in zip(examples, rows, observer.token_logps(examples), strict=True):
        before = len(tokenizer(example.prompt)["input_ids"])
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
        expected = logps[range(before - 1, len(row) - 1), row[before:]]
        torch.testing.assert_close(logp_n, expected, atol=1e-5, rtol=1e-4)
