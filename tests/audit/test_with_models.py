"""An audit of real (tiny) models through the real observer and a real quantizer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from expunge.audit.run.grid import Audit
from expunge.audit.run.plan import AuditPlan, ModelSource, Role
from expunge.audit.summary import AuditSummary
from expunge.audit.verdict import Outcome
from expunge.inference.observer import Observer
from expunge.metrics import metrics
from expunge.metrics.probes import Probes
from expunge.quant.rtn import RTN
from tests.metrics.fakes import document
from tests.tiny import VOCAB, tiny

CUT = 8
NEW = 16


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A word is a token, so any continuation survives being written down and read again."""
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    words = [*specials, *(f"w{number}" for number in range(VOCAB - len(specials)))]
    tokenizer = Tokenizer(
        WordLevel({word: place for place, word in enumerate(words)}, unk_token=specials[-1])
    )
    tokenizer.pre_tokenizer = WhitespaceSplit()
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), specials, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def load(seed: int) -> tuple[Any, Any]:
    return tiny("llama", seed=seed), word_tokenizer()


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> AuditSummary:
    """The forget set is what the target says of itself; the unlearned model is another one."""
    model, tokenizer = load(0)
    prompts = [" ".join(f"w{12 * start + step}" for step in range(CUT)) for start in range(8)]
    said = Observer(model, tokenizer, max_length=256).greedy(prompts, max_new_tokens=NEW + 4)
    forget = tuple(document(prompt, f"{prompt} {text}") for prompt, text in zip(prompts, said, strict=True))
    plan = AuditPlan(
        models=tuple(
            ModelSource(name=name, role=role, hash=name, load=partial(load, seed))
            for name, role, seed in (("target", Role.TARGET, 0), ("unlearned", Role.UNLEARNED, 1))
        ),
        metrics=(metrics.build({"name": "verbmem", "prompt_tokens": CUT, "new_tokens": NEW}),),
        probes=Probes(forget=forget),
        conditions=(RTN(bits=2),),
        max_length=256,
        resamples=999,
    )
    return Audit(plan=plan, folder=Path(tmp_path_factory.mktemp("audit"))).run()


def test_the_target_remembers_itself_and_another_model_does_not(summary: AuditSummary) -> None:
    target = summary.cell("target", "full", "verbmem").value
    other = summary.cell("unlearned", "full", "verbmem")
    assert target.n == 8
    assert target.value == 100.0
    assert other.value.value < 50
    assert other.retention.value == pytest.approx(100 * other.value.value / target.value)
    assert summary.verdict("unlearned", "full").outcome is Outcome.FORGOT


def test_rounding_to_two_bits_costs_the_target_its_memory(summary: AuditSummary) -> None:
    lost = summary.cell("target", "int2", "verbmem").recovery
    assert lost.high < 0


def test_what_was_quantized_is_reported(summary: AuditSummary) -> None:
    (remark, _) = summary.coverage
    changed = [group for group in remark.content if group["changed"]]
    left = {name for group in remark.content if not group["changed"] for name in group["names"]}
    assert [group["tensors"] for group in changed] == [14]  # 7 linears in each of 2 blocks
    assert "model.embed_tokens.weight" in left
