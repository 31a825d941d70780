"""DEPN: find the neurons that carry the forget set and take them out, without training."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from expunge.component import Steps
from expunge.corpus.readers import sample
from expunge.corpus.tokenise import Encoded, encode
from expunge.edit.neurons import Neuron, attribution, erase, save_neurons, summed, voted
from expunge.errors import DataError, TrainingError
from expunge.files import writing
from expunge.model.precision import prepare_weights
from expunge.model.resources import NO_BARS, best_device
from expunge.model.rope import check_lengths
from expunge.train.methods import DataNeed, Stage, stages
from expunge.train.run.state import Corpus, State
from expunge.types import Example

ERASED = "erased_neurons.safetensors"
"""The values that the result has zeroed; ``expunge.edit.neurons.restore`` puts them back."""


@stages.register("depn")
class PrivacyNeurons(Stage):
    """Sets the MLP neurons to zero that carry most of the probability of the forget set's counted tokens.

    What is erased is kept in the output folder, so that the edit can be undone bit for bit.

    Source: Wu et al. 2023 (arXiv 2310.20138), Secs. 2.2 to 2.4. Ranking by sum and contrast is ours.
    """

    neurons: PositiveInt = Field(default=200, description="The most neurons that are set to zero.")
    rank: Literal["vote", "sum", "contrast"] = Field(
        default="vote",
        description=(
            "How neurons are ranked: by the `vote` of the texts, by the `sum` of their attribution, "
            "or by the `contrast` of its mean over the forget set with that over retain texts."
        ),
    )
    threshold: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.1,
        description=(
            "With rank vote, a text votes for the neurons within this share of its largest "
            "attribution; above 0, at most 1."
        ),
    )
    share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5, description="With rank vote, the share of the texts that must vote for a neuron, 0-1."
    )
    steps: Steps = Field(default=20, description="Steps of the integral by which attribution is computed.")
    items: PositiveInt = Field(
        default=64, description="With rank contrast, the most retain texts, drawn by the run's seed."
    )
    max_length: Annotated[int, Field(ge=8)] = Field(
        default=2048,
        description="The most tokens of a sequence; longer documents are cut, longer pairs refused.",
    )

    @model_validator(mode="after")
    def _votes_only_where_they_count(self) -> PrivacyNeurons:
        if self.rank != "vote" and self.model_fields_set & {"threshold", "share"}:
            raise ValueError(f"threshold and share belong to rank=vote, and rank is {self.rank}")
        return self

    @property
    def needs(self) -> frozenset[DataNeed]:
        return frozenset({"retain"} if self.rank == "contrast" else ())

    def check(self, corpus: Corpus) -> None:
        """Refuse a contrast with nothing."""
        if self.rank == "contrast" and not corpus.retain:
            raise DataError(
                "no retain set",
                why="rank=contrast subtracts the attributions on the retain set.",
                fix="Pass --retain FILE, or set rank=sum.",
            )

    def run(self, state: State) -> State:
        """Attribute, rank, erase. An interrupted run resumes at the current text."""
        model = prepare_weights(state.model, "fp32", device=best_device())
        forget_ELK = self._attributions(model, state, state.corpus.forget, "forget")
        retained = self._contrasted(state) if self.rank == "contrast" else ()
        retain_ELK = self._attributions(model, state, retained, "retain")
        chosen = self._chosen(forget_ELK, retain_ELK)
        if not chosen:
            raise TrainingError(
                "no neuron to erase",
                why="no neuron was selected by enough texts.",
                fix="Lower share or threshold, or set rank=sum.",
            )
        before = erase(model, chosen)
        state.extra_outputs.append(lambda folder: save_neurons(before, folder / ERASED))
        state.facts.append(
            {
                "stage": "depn",
                "neurons": len(chosen),
                "of": int(forget_ELK[0].numel()),
                "by_block": [
                    sum(neuron.block == block for neuron in chosen) for block in range(len(forget_ELK[0]))
                ],
            }
        )
        state.model = model
        return state

    def _contrasted(self, state: State) -> Sequence[Example]:
        return sample(state.corpus.retain, self.items, seed=state.seed, name="retain")

    def _chosen(self, forget_ELK: Sequence[Tensor], retain_ELK: Sequence[Tensor]) -> list[Neuron]:
        if self.rank == "vote":
            return voted(forget_ELK, count=self.neurons, threshold=self.threshold, share=self.share)
        return summed(forget_ELK, count=self.neurons, retained_ELK=retain_ELK)

    def _attributions(
        self, model: nn.Module, state: State, examples: Sequence[Example], name: str
    ) -> list[Tensor]:
        """One [L, K] for each text, from the working folder where an earlier run got to it."""
        attributions = []
        bar = tqdm(
            examples,
            desc=f"attributing {name}",
            disable=not sys.stderr.isatty() or NO_BARS in os.environ or not examples,
        )
        for index, example in enumerate(bar):
            kept = state.workdir / f"{name}-{index}.safetensors"
            if not kept.exists():
                _keep(self._of_text(model, state, example), kept)
            attributions.append(load_file(kept)["attribution"])
        return attributions

    def _of_text(self, model: nn.Module, state: State, example: Example) -> Tensor:
        pieces: list[Encoded] = encode(example, state.tokenizer, max_length=self.max_length, eos=False)
        check_lengths(model, (len(piece.input_ids) for piece in pieces))
        return torch.stack([attribution(model, piece, steps=self.steps) for piece in pieces]).sum(0)


def _keep(found_LK: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as scratch:
        save_file({"attribution": found_LK.contiguous()}, scratch)
