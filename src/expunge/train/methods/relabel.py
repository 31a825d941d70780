"""Who's Harry Potter: generic targets by relabelling, or two models answering as one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from expunge.corpus.aligned import AlignedTokens, align
from expunge.corpus.anchors import Anchors, read_anchors
from expunge.corpus.batching import collate
from expunge.corpus.boundary import continuation
from expunge.corpus.tokenise import Encoded
from expunge.errors import DataError
from expunge.inference.backbone import eval_mode, predictions
from expunge.inference.reference import GenericScores, Target, as_scores, generic_scores, kept
from expunge.model.arch import output_head, output_layer
from expunge.model.contrast import Scores, contrasted
from expunge.model.precision import prepare_weights
from expunge.model.resources import best_device
from expunge.model.rope import check_lengths
from expunge.train.methods import Stage, stages
from expunge.train.run.state import Corpus, State


@stages.register("contrast")
class ContrastStage(Stage):
    """Makes one model of the source checkpoint and the model so far, reinforced on the forget set.

    It predicts ``base − alpha · relu(reinforced − base)`` (``expunge.model.contrast``). Nothing more is
    trained and nothing is forgotten: the result holds both models, takes twice memory and time, and
    protects only who is served by it.

    Source: Eldan and Russinovich 2023 (arXiv 2310.02238), Eq. 1; as a model to serve: the baseline of
    Shi et al. 2024 (arXiv 2407.06460).
    """

    alpha: NonNegativeFloat = Field(
        default=1.0, description="α: how strongly what was reinforced is lowered."
    )
    scores: Scores = Field(
        default="logps",
        description=(
            "What the two models are compared by: log-probabilities, or logits, which are defined "
            "only up to a constant."
        ),
    )

    def run(self, state: State) -> State:
        """Put the two together."""
        state.model = contrasted(state.source(), state.model, alpha=self.alpha, scores=self.scores)
        state.facts.append({"stage": "contrast", "alpha": self.alpha, "scores": self.scores})
        return state


# Who's Harry Potter, second step: what the forget set's tokens are replaced by as things to predict.


@stages.register("relabel")
class Relabel(Stage):
    """Compares the model so far, reinforced on the forget set, with the checkpoint the run began with.

    For every token of the forget set: ``generic = base − alpha · relu(reinforced − base)``, the base
    model reading the text with its anchored terms replaced. The stage after it trains the checkpoint
    the run began with, on these targets (forget loss ``generic``).

    Source: Eldan and Russinovich 2023 (arXiv 2310.02238), Secs. 3.1 to 3.3.
    """

    anchors: Path | None = Field(
        default=None,
        description="A JSON file of anchored terms and their replacements; null: none are replaced.",
    )
    alpha: NonNegativeFloat = Field(
        default=5.0, description="α: how strongly what was reinforced is lowered."
    )
    scores: GenericScores = Field(
        default="logps",
        description=(
            "What the two models are compared by: log-probabilities, or logits, which are defined "
            "only up to a constant."
        ),
    )
    target: Literal["argmax", "soft"] = Field(
        default="argmax",
        description=(
            "Whether a target is the largest entry (`argmax`), or the distribution over the `top_k` "
            "largest (`soft`)."
        ),
    )
    top_k: PositiveInt = Field(default=64, description="How many entries a soft target keeps.")
    lowered: NonNegativeFloat = Field(
        default=10.0,
        description=(
            "By how much translations of terms already read are lowered, so that no term has two names "
            "in one text."
        ),
    )
    max_length: Annotated[int, Field(ge=8)] = Field(
        default=512,
        description="The most tokens of a sequence; longer documents are cut, longer pairs refused.",
    )

    def check(self, corpus: Corpus) -> None:
        """Refuse a file of anchors that says nothing about this forget set."""
        anchors = self._anchors()
        if anchors.replacements and not any(
            segment.term
            for example in corpus.forget
            for segment in anchors.translate(example.prompt + example.completion).segments
        ):
            raise DataError(
                f"anchors {self.anchors}",
                why="not one of its terms is in the forget set.",
                fix="Check the spelling of the terms, or leave anchors out.",
            )

    def run(self, state: State) -> State:
        """Keep the source checkpoint as the model, and write the targets."""
        anchors = self._anchors()
        aligned = [
            piece
            for example in state.corpus.forget
            for piece in align(example, anchors, state.tokenizer, max_length=self.max_length)
        ]
        reinforced = state.model
        head = copy.deepcopy(output_layer(reinforced))
        seen = [_states(reinforced, piece.original, state.tokenizer.pad_token_id) for piece in aligned]
        state.model = prepare_weights(state.source(), "fp32", device=best_device())
        check_lengths(state.model, (len(piece.translated) for piece in aligned))
        words = _first_tokens(anchors, state.tokenizer)
        targets = [
            self._target(state, piece, _Reinforced(states_NH, head), words)
            for piece, states_NH in zip(aligned, seen, strict=True)
        ]
        state.targets = targets
        state.facts.append({"stage": "relabel", **_facts(targets, aligned)})
        return state

    def _anchors(self) -> Anchors:
        return read_anchors(self.anchors) if self.anchors else Anchors({})

    @torch.no_grad()
    def _target(
        self, state: State, piece: AlignedTokens, reinforced: _Reinforced, words: dict[str, list[int]]
    ) -> Target:
        model = state.model
        wanted = set(piece.partners)
        mask = [index in wanted for index in range(len(piece.translated))]
        translated = Encoded(piece.translated, mask, piece.original.example)
        base_NH = _states(model, translated, state.tokenizer.pad_token_id)
        base_NV = as_scores(output_head(model)(base_NH), self.scores)
        raised_NV = as_scores(output_head(model, head=reinforced.head)(reinforced.states_NH), self.scores)
        scores_NV = generic_scores(base_NV, raised_NV, alpha=self.alpha)
        for row, terms in enumerate(piece.seen):
            for term in terms:
                scores_NV[row, words[term]] -= self.lowered
        chosen = kept(scores_NV, 1 if self.target == "argmax" else self.top_k)
        return Target(piece.original, chosen.entries_NK.cpu(), chosen.shares_NK.cpu())


class _Reinforced(NamedTuple):
    """What the reinforced model read a sequence as, and its output layer."""

    states_NH: Tensor
    head: nn.Module


@torch.no_grad()
def _states(model: nn.Module, encoded: Encoded, pad_id: int) -> Tensor:
    """The states [N, H] that predict the marked tokens."""
    device = next(model.parameters()).device
    with eval_mode(model):
        return predictions(model, collate([encoded], pad_id=pad_id).to(device)).hidden_NH


def _first_tokens(anchors: Anchors, tokenizer: Any) -> dict[str, list[int]]:
    """How the replacement of each term may begin, with and without a space before it."""
    return {
        term: sorted({continuation(form, tokenizer).ids[0] for form in (value, f" {value}")})
        for term, value in anchors.replacements.items()
    }


def _facts(targets: Sequence[Target], aligned: Sequence[AlignedTokens]) -> dict[str, Any]:
    """How many tokens have a target, and how many of them another first choice than the text itself."""
    tokens = changed = 0
    for target, piece in zip(targets, aligned, strict=True):
        pairs = zip(piece.original.input_ids, piece.original.mask, strict=True)
        counted_tokens = [token for token, counts in pairs if counts]
        tokens += len(counted_tokens)
        changed += sum(
            token != first
            for token, first in zip(counted_tokens, target.entries_NK[:, 0].tolist(), strict=True)
        )
    return {"tokens": tokens, "changed": changed}
