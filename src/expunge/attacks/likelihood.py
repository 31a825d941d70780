"""How unlikely the answers are after a suffix: for many suffixes at once, and its slope by their tokens.

Shapes: C suffixes, n tokens of each, V vocabulary, H hidden units, N answer tokens of all suffixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from expunge.adversary.hidden import Part, visiting
from expunge.adversary.slope import slopes
from expunge.attacks.suffix import Place
from expunge.corpus.batching import collate
from expunge.corpus.tokenise import Encoded
from expunge.model.arch import backbone, output_head, unwrap, vocabulary
from expunge.score.batches import Batches
from expunge.score.logprobs import token_logps
from expunge.score.look import look
from expunge.score.mode import evaluating
from expunge.score.prefix import Prefix, must_read_whole

AT_ONCE = 8
"""Questions whose slope is taken in one batch."""


@dataclass
class Likelihood:
    """``−Σ log p(answer | question, suffix)`` over all questions, in nats.

    What stands before the suffix is read once for each question, and its keys and values serve every
    suffix; a model with a sliding window shorter than the text reads it whole.
    """

    model: nn.Module
    places: Sequence[Place]
    pad_id: int
    batches: Batches = field(default_factory=lambda: Batches(8192))
    _prefixes: dict[int, Prefix] = field(default_factory=dict)

    def losses(self, suffixes: Sequence[Sequence[int]]) -> Tensor:
        """The loss of each suffix, float64 on the CPU. Shape [C]."""
        total_C = torch.zeros(len(suffixes), dtype=torch.float64)
        with evaluating(self.model), torch.inference_mode():
            for number, place in enumerate(self.places):
                lengths = [len(place.read_with(suffix)) for suffix in suffixes]
                found = self.batches.run(
                    lengths,
                    lambda rows, number=number: self._of_one(number, [suffixes[row] for row in rows]),  # type: ignore[misc]
                )
                total_C += torch.tensor([found[row] for row in range(len(suffixes))], dtype=torch.float64)
        return total_C

    def slope(self, suffix: Sequence[int]) -> Tensor:
        """How the loss changes, to first order, with each token at each place. Shape [n, V]."""
        weight_VH: Tensor = unwrap(self.model).get_input_embeddings().weight.detach()  # type: ignore[operator]
        total_nH = weight_VH.new_zeros(len(suffix), weight_VH.shape[1], dtype=torch.float32)
        with evaluating(self.model):
            for start in range(0, len(self.places), AT_ONCE):
                total_nH += self._slope(suffix, self.places[start : start + AT_ONCE], like=weight_VH)
        return total_nH @ weight_VH.float().t()

    def _slope(self, suffix: Sequence[int], places: Sequence[Place], *, like: Tensor) -> Tensor:
        """The slope by what block 0 reads at the suffix: its embedding, but for a constant. [n, H]."""
        texts = [Encoded(place.read_with(suffix), _mask(place, len(suffix)), "") for place in places]
        batch = collate(texts, pad_id=self.pad_id).to(like.device)
        push_BTH = torch.zeros(*batch.input_ids_BT.shape, like.shape[1], device=like.device)
        push_BTH.requires_grad_(True)

        def add(part: Part, hidden_btH: Tensor) -> Tensor:
            return hidden_btH + part.of(push_BTH).to(hidden_btH.dtype)

        with visiting(self.model, 0, batch, add), torch.enable_grad():
            slope_BTH = slopes(-look(self.model, batch).logps.sum(), [push_BTH])[push_BTH]
        begins = [len(place.before) for place in places]
        own = [slope_BTH[row, begin : begin + len(suffix)] for row, begin in enumerate(begins)]
        return torch.stack(own).float().sum(0)

    def _of_one(self, number: int, suffixes: Sequence[Sequence[int]]) -> list[float]:
        """The loss of each suffix in one question."""
        place = self.places[number]
        device = next(self.model.parameters()).device
        prefix = self._prefix(number, place, longest=len(place.read_with(suffixes[0])))
        read = 0 if prefix is None else len(prefix.ids)
        ids_CT = torch.tensor([place.read_with(suffix)[read:] for suffix in suffixes], device=device)
        width, answer = ids_CT.shape[1], len(place.answer)
        states_CTH = backbone(self.model)(
            input_ids=ids_CT,
            attention_mask=torch.ones(len(suffixes), read + width, dtype=torch.long, device=device),
            position_ids=torch.arange(read, read + width, device=device).expand_as(ids_CT),
            past_key_values=None if prefix is None else prefix.cache(len(suffixes)),
            use_cache=prefix is not None,
        ).last_hidden_state
        logps_N = token_logps(
            output_head(self.model),
            states_CTH[:, -answer - 1 : -1].flatten(0, 1),
            ids_CT[:, -answer:].flatten(),
            vocabulary=vocabulary(self.model),
        )
        found: list[float] = (-logps_N.view(len(suffixes), answer).double().sum(1)).tolist()
        return found

    def _prefix(self, number: int, place: Place, *, longest: int) -> Prefix | None:
        if not place.before or must_read_whole(self.model, longest):
            return None
        if number not in self._prefixes:
            self._prefixes[number] = Prefix(self.model, place.before)
        return self._prefixes[number]


def _mask(place: Place, length: int) -> list[bool]:
    before = len(place.before) + length + len(place.between)
    return [False] * before + [True] * len(place.answer)
