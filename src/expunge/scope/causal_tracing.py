"""Causal tracing: what restoring each part brings back when the subject is drowned in noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field, PositiveFloat

from expunge.component import Draws
from expunge.inference.backbone import eval_mode
from expunge.model.arch import unwrap
from expunge.model.intervention import Change, Site, plus
from expunge.scope import scopes
from expunge.scope.facts import batches, contrasts
from expunge.scope.localiser import ContrastLocaliser, LocaliserResult, bar
from expunge.scope.parts import changed, restored, scaled, states

if TYPE_CHECKING:
    from torch import Tensor, nn

    from expunge.scope.facts import Contrasts, LocaliserInputs
    from expunge.scope.parts import ModelPart


@scopes.register("causal_tracing")
class CausalTracingScope(ContrastLocaliser):
    """Scores each part by how much of the answer comes back when it alone goes on as without noise.

    The embeddings of the subject (where the prompt differs from its contrast) get normal noise, drawn
    from the run's seed. The score is scaled to 0 for the noisy and 1 for the clean run; a part is
    restored at every position.

    Source: Meng et al. 2022 (arXiv 2202.05262); as a baseline in Guo et al. 2025 (arXiv 2410.12949).
    """

    noise: PositiveFloat = Field(
        default=3.0,
        description="Standard deviation of the noise, as a multiple of that of all embedding weights.",
    )
    samples: Draws = Field(
        default=3, description="How many draws of the noise each score is averaged over."
    )

    def find(self, model: nn.Module, parts: list[ModelPart], evidence: LocaliserInputs) -> LocaliserResult:
        pairs = contrasts(evidence, items=self.items, file=self.contrast)
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(evidence.seed)
        totals = dict.fromkeys((part.name for part in parts), 0.0)
        clean = noisy = 0.0
        with eval_mode(model):
            for batch in bar(
                batches(pairs, batch_size=evidence.batch_size, device=device),
                what="causal tracing",
                total=-(-len(pairs) // evidence.batch_size),
            ):
                held = states(model, batch, batch.clean_BT, sorted({part.site for part in parts}))
                clean += self.samples * float(changed(model, batch, batch.clean_BT, {}).sum())
                for _ in range(self.samples):
                    drowned = {Site("residual_in", 0): self._drowning(model, batch, generator)}
                    noisy += float(changed(model, batch, batch.clean_BT, drowned).sum())
                    for part in parts:
                        both = {**drowned, part.site: restored(part, held)}
                        totals[part.name] += float(changed(model, batch, batch.clean_BT, both).sum())
        scores = {name: scaled(total, clean, noisy) for name, total in totals.items()}
        return LocaliserResult(scores, {"pairs": len(pairs)})

    def _drowning(self, model: nn.Module, batch: Contrasts, generator: torch.Generator) -> Change:
        embeddings: Tensor = unwrap(model).get_input_embeddings().weight  # type: ignore[operator]
        sigma = self.noise * float(embeddings.detach().float().std())
        shape = (*batch.clean_BT.shape, embeddings.shape[1])
        push_BTH = sigma * torch.randn(shape, generator=generator)
        return plus(push_BTH.to(embeddings.device), batch.subject_BT)
