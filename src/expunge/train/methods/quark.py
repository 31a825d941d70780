"""Quark: sample, score, sort by reward, learn each part under its own token, and speak under the best."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from expunge.component import Draws, Steps
from expunge.corpus.boundary import opening
from expunge.corpus.tokenise import encode_prompt
from expunge.errors import DataError
from expunge.inference.backbone import predictions
from expunge.inference.logprobs import Head, Numbers, Rows
from expunge.model.arch import output_head, vocabulary
from expunge.model.create import add_tokens
from expunge.registry import named
from expunge.train.loop.callbacks import last_checkpoint
from expunge.train.methods import stages
from expunge.train.methods.quark_pool import (
    Conditioned,
    QuarkPool,
    QuarkPrompt,
    QuarkPrompts,
    RoundSampler,
    Sizes,
    add_control_token,
)
from expunge.train.methods.training_stage import TrainingStage, training_facts
from expunge.train.rewards import Reward, rewards
from expunge.train.run.state import Corpus, State
from expunge.types import Example

Toward = Literal["reference", "model"]


@dataclass(frozen=True, kw_only=True)
class ConditionedLoss:
    """``−log π(y | r) + β KL − γ H`` of each token, in float32.

    The divergence is between next-token distributions without the entries ``added``, which the
    reference does not know: KL(reference ‖ model), or KL(model ‖ reference) with ``toward="model"``. The
    entropy H is that of the model over all entries.

    Source: Lu et al. 2022 (arXiv 2205.13636), Eq. 3; the released code has KL(model ‖ reference).
    """

    vocabulary: int
    added: tuple[int, ...]
    beta: float
    gamma: float
    toward: Toward = "reference"

    def __call__(
        self, head: Head, hidden_NH: Tensor, token_N: Tensor, reference_head: Head, reference_NH: Tensor
    ) -> Tensor:
        """One number per counted token [N]. Token ids stay exact in float32 up to 2^24."""

        def extra_inputs(other_n: Tensor) -> Tensor:
            logits_nV = reference_head(other_n[:, :-1]).float()
            return torch.cat([logits_nV, other_n[:, -1:].float()], dim=1)

        rows = Rows(head=head, rule=self._rule, vocabulary=self.vocabulary, extra_inputs=extra_inputs)
        return rows(hidden_NH, torch.cat([reference_NH, token_N[:, None].to(reference_NH)], dim=1))

    def _rule(self, logits_kV: Tensor, beside_k: Tensor) -> Numbers:
        token_k1 = beside_k[:, -1:].long()
        logp_kV = logits_kV.log_softmax(-1)
        p_kV = logp_kV.exp()
        entropy_k1 = -(p_kV * logp_kV).sum(-1, keepdim=True)
        known = torch.ones(logits_kV.shape[1], dtype=torch.bool, device=logits_kV.device)
        known[list(self.added)] = False
        known[beside_k.shape[1] - 1 :] = False
        logq_kU = logits_kV[:, known].log_softmax(-1)
        logr_kU = beside_k[:, :-1][:, known[: beside_k.shape[1] - 1]].log_softmax(-1)
        moved_k1, slopes_kU = self._divergence(logq_kU, logr_kU)
        values_k1 = self.beta * moved_k1 - logp_kV.gather(-1, token_k1) - self.gamma * entropy_k1

        def slopes() -> Tensor:
            found_kV = p_kV + self.gamma * p_kV * (logp_kV + entropy_k1)
            found_kV[:, known] += self.beta * slopes_kU
            return found_kV.scatter_add_(-1, token_k1, -torch.ones_like(token_k1, dtype=p_kV.dtype))

        return Numbers(values_k1.squeeze(-1), slopes)

    def _divergence(self, logq_kU: Tensor, logr_kU: Tensor) -> tuple[Tensor, Tensor]:
        """The divergence [k, 1] and its slopes by the model's logits [k, U]."""
        q_kU, r_kU = logq_kU.exp(), logr_kU.exp()
        if self.toward == "reference":
            return (r_kU * (logr_kU - logq_kU)).sum(-1, keepdim=True), q_kU - r_kU
        surplus_kU = logq_kU - logr_kU
        values_k1 = (q_kU * surplus_kU).sum(-1, keepdim=True)
        return values_k1, q_kU * (surplus_kU - values_k1)


TOKEN = "<|reward_{place}|>"  # noqa: S105


@stages.register("quark")
class Quark(TrainingStage):
    """Learns to answer under one token for each part of the rewards; the first is the best.

    A round (an epoch) samples an answer to every prompt (under the best token, once there is one),
    adds it with its reward to the pool, sorts the pool into equal parts and takes some steps on it:
    ``−log π(y | token, x) + kl KL(source ‖ π) − entropy H(π)``. The result speaks under the best token
    without being asked to: its tokenizer puts it before every text.

    Source: Lu et al. 2022 (arXiv 2205.13636), Alg. 1.
    """

    reward: Annotated[Reward, *named(rewards)] = Field(
        description="The reward of an answer, with its settings."
    )
    on: Literal["forget", "both"] = Field(
        default="forget",
        description="Whose prompts are answered: those of the `forget` set, or those of `both` sets.",
    )
    parts: Annotated[int, Field(ge=2)] = Field(
        default=5, description="Equal parts into which the pool is sorted by reward, at least 2."
    )
    updates: Steps = Field(default=500, description="Optimizer steps per round.")
    new_tokens: PositiveInt = Field(default=20, description="The most tokens of an answer.")
    opening_tokens: PositiveInt = Field(
        default=8, description="How many of its first tokens prompt a document."
    )
    samples: Draws = Field(default=1, description="Answers per prompt and round.")
    temperature: PositiveFloat = Field(
        default=1.0, description="Sampling temperature; raise it for a model that always says the same."
    )
    kl: NonNegativeFloat = Field(
        default=0.05, description="Weight of the divergence from the source model."
    )
    entropy: NonNegativeFloat = Field(default=0.06, description="Weight of the entropy, which is raised.")
    toward: Toward = Field(
        default="reference",
        description=(
            "The direction of the divergence: KL(source ‖ π) for `reference`, KL(π ‖ source) for `model`."
        ),
    )

    @property
    def runs_code(self) -> bool:
        """Whether the reward is a function that the recipe names."""
        return self.reward.runs_code

    def check(self, corpus: Corpus) -> None:
        """Refuse chats (the token precedes plain text), and a reward that cannot be had."""
        self.reward.check()
        for example in self._examples(corpus):
            if example.is_chat:
                raise DataError(
                    f"example {example.id!r}",
                    why="it is a chat, and a chat template leaves no place for the reward token.",
                    fix="Give prompts as plain text (prompt and completion).",
                )

    def run(self, state: State) -> State:
        """Explore and learn, round by round; an interrupted run resumes with the current round."""
        model = self.prepare(state)
        model.requires_grad_(True)
        names = [TOKEN.format(place=index + 1) for index in range(self.parts)]
        state.tokenizer = copy.deepcopy(state.tokenizer)
        head = opening(state.tokenizer)
        prompts = self._prompts(state, head)
        tokens = add_tokens(model, state.tokenizer, names, seed=state.seed)
        sizes = Sizes(self.updates, self.batch_size, self.parts, self.new_tokens, self.temperature)
        pool = QuarkPool(sizes, self.reward, state, QuarkPrompts(prompts, len(head), tokens))
        loss = ConditionedLoss(
            vocabulary=vocabulary(model),
            added=tuple(tokens),
            beta=self.kl,
            gamma=self.entropy,
            toward=self.toward,
        )
        trainer = self.make_trainer(
            model,
            state,
            objective=lambda current, batch: {"sample": _loss(current, batch, loss, pool.source_head)},
            count_examples=lambda batch: int(batch.batch.mask_BT.sum()),
            data=pool,
            sampler=RoundSampler(pool),
            collate=pool.collate,
        )
        pool.model = model
        trainer.train_from(last_checkpoint(state.workdir))
        add_control_token(state.tokenizer, names[0])
        model.generation_config.suppress_tokens = tokens  # type: ignore[union-attr]
        facts = {"rewards": pool.means(self.epochs), "reward_tokens": names}
        state.facts.append({"stage": "quark", **training_facts(trainer), **facts})
        state.model = model
        return state

    def _examples(self, corpus: Corpus) -> tuple[Example, ...]:
        return corpus.forget + corpus.retain if self.on == "both" else corpus.forget

    def _prompts(self, state: State, head: list[int]) -> list[QuarkPrompt]:
        prompts = []
        forget = len(state.corpus.forget)
        for index, example in enumerate(self._examples(state.corpus)):
            ids = encode_prompt(example, state.tokenizer)
            if example.is_document:
                text = state.tokenizer(example.completion, add_special_tokens=False, verbose=False)
                ids = head + list(text["input_ids"])[: self.opening_tokens]
            prompts.extend([QuarkPrompt(example, ids, index < forget)] * self.samples)
        return prompts


def _loss(model: nn.Module, batch: Conditioned, loss: ConditionedLoss, source_head: Any) -> Tensor:
    predicted = predictions(model, batch.batch)
    numbers_N = loss(
        output_head(model), predicted.hidden_NH, predicted.token_N, source_head, batch.source_NH
    )
    return numbers_N.sum()
