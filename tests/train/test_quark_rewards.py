"""The three set-ups of Quark (toxicity, sentiment, repetition) and a reward of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForSequenceClassification
from transformers import PreTrainedTokenizerFast as Fast

from expunge.errors import RecipeError
from expunge.model.load import save_model
from expunge.train.rewards import SampledAnswer, rewards
from expunge.train.run.job import UnlearnJob
from expunge.types import Example
from tests.tiny import BYTES_VOCAB, tiny, tiny_tokenizer

QUICK = ("parts=2", "updates=1", "batch_size=2", "epochs=2", "new_tokens=6", "warmup_steps=0")
PADDING, UNKNOWN = "[PAD]", "[UNK]"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny text classifier: the more often an "e", the more "bad"."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("classifier")
    vocabulary = {PADDING: 0, UNKNOWN: 1, "e": 2}
    bare = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    bare.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer = Fast(tokenizer_object=bare, pad_token=PADDING, unk_token=UNKNOWN, model_max_length=16)
    config = BertConfig(
        vocab_size=3,
        hidden_size=4,
        num_hidden_layers=0,
        num_attention_heads=1,
        intermediate_size=4,
        max_position_embeddings=16,
        id2label={0: "good", 1: "bad"},
        label2id={"good": 0, "bad": 1},
    )
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        # The first letter alone is pooled: layer norm makes of (1, -1, 0, 0) for "e" a pattern of its own.
        model.bert.embeddings.LayerNorm.weight.fill_(1)
        model.bert.embeddings.word_embeddings.weight[2] = torch.tensor([1.0, -1, 0, 0])
        model.bert.pooler.dense.weight[:] = torch.eye(4)
        model.classifier.weight[1] = torch.tensor([1.0, -1, 0, 0])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target") / "model"
    save_model(tiny("llama", vocab_size=BYTES_VOCAB), tiny_tokenizer(all_bytes=True), folder)
    return folder


def asked(said: str) -> SampledAnswer:
    return SampledAnswer(Example(id="x", prompt="?", completion="y"), said, forget=True)


def job(target: Path, home: Path, *overrides: str, **settings: Any) -> UnlearnJob:
    rows = ({"id": str(i), "prompt": f"Say {i}", "completion": "x"} for i in range(3))
    forget = home / "prompts.jsonl"
    forget.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return UnlearnJob(
        model=str(target),
        recipe="quark",
        forget=str(forget),
        output=home / "out",
        overrides=(*(f"stages.0.{each}" for each in QUICK), *overrides),
        **settings,
    )


def test_a_classifier_in_a_folder_tells_what_it_was_trained_to_tell(classifier: Path) -> None:
    toxic = rewards.build({"name": "classifier", "model": str(classifier), "label": "bad"})
    liked = rewards.build(
        {"name": "classifier", "model": str(classifier), "label": "bad", "avoid": False, "batch_size": 1}
    )
    said = [asked("eel"), asked("owl"), asked(" "), asked("owl" * 30)]
    avoided, wanted = toxic(said), liked(said)
    assert avoided[2] is None
    assert avoided[0] is not None
    assert avoided[0] < 0.3
    assert [avoided[1], avoided[3]] == pytest.approx([0.5, 0.5])  # cut at 16 letters, not refused
    for one, two in zip(avoided, wanted, strict=True):
        assert (one is None and two is None) or one + two == pytest.approx(1)  # type: ignore[operator]


def test_a_folder_that_is_no_classifier_is_refused(tmp_path: Path) -> None:
    reward = rewards.build({"name": "classifier", "model": str(tmp_path), "label": "bad"})
    with pytest.raises(RecipeError, match="not a text classifier"):
        reward([asked("eel")])


@pytest.mark.parametrize("setup", ["toxicity", "sentiment", "repetition"])
def test_a_set_up_is_asked_for_by_settings_and_a_plain_generate_is_conditioned(
    setup: str, classifier: Path, target: Path, tmp_path: Path
) -> None:
    model = f"{{name: classifier, model: '{classifier}', label: bad"
    reward = {
        "toxicity": f"{model}}}",
        "sentiment": f"{model}, avoid: false}}",
        "repetition": "{name: distinct, n: 1}",
    }[setup]
    record = job(target, tmp_path, f"stages.0.reward={reward}").run(warn=print)
    (facts,) = record["stages"]
    assert len(facts["rewards"]) == 2
    assert all(0 <= value <= 1 for value in facts["rewards"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    result = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    asked_for = tokenizer("Say 1", return_tensors="pt")
    assert facts["reward_tokens"][0] in tokenizer.convert_ids_to_tokens(asked_for.input_ids[0])
    said = result.generate(**asked_for, max_new_tokens=5, do_sample=False)
    new = set(tokenizer.convert_tokens_to_ids(facts["reward_tokens"]))
    assert not new & set(said[0, asked_for.input_ids.shape[1] :].tolist())


def test_a_function_of_the_user_s_runs_with_the_user_s_word_only(target: Path, tmp_path: Path) -> None:
    called = tmp_path / "called"
    (tmp_path / "mine.py").write_text(
        f"open({str(called)!r}, 'w').close()\n"
        "def score(prompts, said):\n    return [1.0 * len(text) for text in said]\n"
    )
    reward = "stages.0.reward={name: python, function: 'mine:score'}"
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(tmp_path)
        with pytest.raises(RecipeError, match=r"runs Python code.*--trust-remote-code"):
            job(target, tmp_path, reward).run(warn=print)
        assert not called.exists()
        record = job(target, tmp_path, reward, trust_remote_code=True).run(warn=print)
    assert called.exists()
    assert record["stages"][0]["rewards"]
