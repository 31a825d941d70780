"""A world of people with a sport and a town, a model that knows all of them and one that knows some."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from expunge.audit.run.plan import ModelSource, Role
from expunge.train.methods.finetune import Finetune
from expunge.train.methods.unlearn import Unlearn
from expunge.train.run.state import Corpus, State
from expunge.types import Example

FIRST = "Ada Bo Cleo Dag Eli Finn Gus Hana".split()
LAST = "Arn Bek Cor Dahl Eng Fry Gad Holt".split()
SPORTS = "golf judo polo chess".split()
TOWNS = "Bern Chur Genf Thun Zug Visp Olten Baar".split()
PEOPLE, FORGOTTEN = 40, 12
SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]


def tokenizer() -> PreTrainedTokenizerFast:
    """A word, a token."""
    words = [*SPECIALS, *FIRST, *LAST, *SPORTS, *TOWNS, *"plays sport of : lives in".split()]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=SPECIALS[3]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    roles = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIALS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **roles)


class World:
    """Texts, target, control, and what is unlearned from the target."""

    def __init__(self, folder: Path, *, seed: int = 0) -> None:
        self.folder = folder
        self.seed = seed
        self.tokenizer = tokenizer()
        rng = random.Random(seed)
        names = rng.sample([f"{first} {last}" for first in FIRST for last in LAST], PEOPLE)
        self.facts = {name: (rng.choice(SPORTS), rng.choice(TOWNS)) for name in names}
        self.forgotten, self.kept = names[:FORGOTTEN], names[FORGOTTEN:]

    def sports(self, names: Sequence[str]) -> tuple[Example, ...]:
        """Who plays what."""
        return tuple(_asked(name, "plays", f"{name} plays", self.facts[name][0]) for name in names)

    def others(self, names: Sequence[str]) -> tuple[Example, ...]:
        """The same in other words, and where they live."""
        phrased = [_asked(name, "of", f"sport of {name} :", self.facts[name][0]) for name in names]
        towns = [_asked(name, "lives", f"{name} lives in", self.facts[name][1]) for name in names]
        return (*phrased, *towns)

    def texts(self, names: Sequence[str]) -> tuple[Example, ...]:
        """Everything about them."""
        return self.sports(names) + self.others(names)

    @cached_property
    def target(self) -> nn.Module:
        """Trained on everybody."""
        return self._trained(self.texts([*self.forgotten, *self.kept]), "target")

    @cached_property
    def retrained(self) -> nn.Module:
        """Trained on those who stay."""
        return self._trained(self.texts(self.kept), "retrained")

    def unlearned(self, name: str, **settings: Any) -> nn.Module:
        """The target without the sports of those to be forgotten."""
        known: dict[str, Any] = {
            "retain": "klr",
            "learning_rate": 3e-4,
            "batch_size": FORGOTTEN,
            "epochs": 150,
            "max_length": 32,
            "save_every": 1000,
        }
        corpus = Corpus(forget=self.sports(self.forgotten), retain=self.texts(self.kept))
        stage = Unlearn.model_validate(known | settings)
        return stage.run(self._state(copy.deepcopy(self.target), corpus, name)).model.eval()

    def source(self, name: str, role: Role, model: nn.Module) -> ModelSource:
        """A model as an audit names it."""
        return ModelSource(
            name=name, role=role, hash=name, load=lambda: (copy.deepcopy(model), self.tokenizer)
        )

    def _trained(self, texts: tuple[Example, ...], name: str) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            config = AutoConfig.for_model(
                "llama",
                vocab_size=len(self.tokenizer),
                hidden_size=64,
                intermediate_size=160,
                num_hidden_layers=4,
                num_attention_heads=4,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        stage = Finetune(
            on="forget",
            learning_rate=3e-3,
            schedule="linear",
            batch_size=len(texts),
            epochs=400,
            max_length=32,
            save_every=1000,
        )
        return stage.run(self._state(model, Corpus(forget=texts), name)).model.eval()

    def _state(self, model: nn.Module, corpus: Corpus, name: str) -> State:
        return State(
            model=model,
            tokenizer=self.tokenizer,
            corpus=corpus,
            workdir=self.folder / name,
            seed=self.seed,
        )


def _asked(name: str, kind: str, prompt: str, answer: str) -> Example:
    return Example(id=f"{name} {kind}", prompt=prompt, completion=f" {answer}", group=name)
