"""Attribution patching: what restoring each part brings, to first order, from two runs and a gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from expunge.inference.backbone import eval_mode
from expunge.model.intervention import Site, capturing, intervening
from expunge.scope import scopes
from expunge.scope.facts import batches, contrasts
from expunge.scope.localiser import ContrastLocaliser, LocaliserResult, bar
from expunge.scope.parts import difference, scaled

if TYPE_CHECKING:
    from torch import Tensor, nn

    from expunge.scope.facts import Contrasts, LocaliserInputs
    from expunge.scope.parts import ModelPart


@scopes.register("attribution_patching")
class AttributionPatchingScope(ContrastLocaliser):
    """Scores each part by Σ (a_clean − a_corrupt) · ∂M/∂a_clean over pairs, positions and dimensions.

    M is scaled to 1 on the clean prompts and 0 on the corrupt ones, so a score is the share of the
    difference that the part carries; it is exact where M is linear in the part.

    Source: Guo et al. 2025 (arXiv 2410.12949), its output-tracing baseline; Nanda 2023, attribution
    patching.
    """

    def find(self, model: nn.Module, parts: list[ModelPart], evidence: LocaliserInputs) -> LocaliserResult:
        pairs = contrasts(evidence, items=self.items, file=self.contrast)
        device = next(model.parameters()).device
        totals = dict.fromkeys((part.name for part in parts), 0.0)
        clean = corrupt = 0.0
        with eval_mode(model):
            for batch in bar(
                batches(pairs, batch_size=evidence.batch_size, device=device),
                what="attribution patching",
                total=-(-len(pairs) // evidence.batch_size),
            ):
                slopes, gaps, ends = _slopes(model, batch, sorted({part.site for part in parts}))
                clean, corrupt = clean + ends[0], corrupt + ends[1]
                for part in parts:
                    totals[part.name] += _carried(part, gaps[part.site], slopes[part.site])
        scores = {name: scaled(corrupt + total, clean, corrupt) for name, total in totals.items()}
        return LocaliserResult(scores, {"pairs": len(pairs)})


def _slopes(
    model: nn.Module, batch: Contrasts, sites: list[Site]
) -> tuple[dict[Site, Tensor], dict[Site, Tensor], tuple[float, float]]:
    """By site ∂ΣLD/∂a in the clean run, and a_clean − a_corrupt; and ΣLD of both runs."""
    with torch.no_grad(), capturing(model, sites) as held:
        corrupt = difference(model, batch, batch.corrupt_BT).sum()
        other = dict(held)
    # The graph begins at what the first block reads, so that no weight has to ask for a gradient.
    leaf = {Site("residual_in", 0): lambda state: state.detach().requires_grad_()}
    with torch.enable_grad(), intervening(model, leaf), capturing(model, sites) as held:
        clean = difference(model, batch, batch.clean_BT).sum()
        slopes = torch.autograd.grad(clean, [held[site] for site in sites])
    gaps = {site: held[site].detach() - other[site] for site in sites}
    return dict(zip(sites, slopes, strict=True)), gaps, (clean.item(), corrupt.item())


def _carried(part: ModelPart, gap: Tensor, slope: Tensor) -> float:
    carried = gap.float() * slope.float()
    return float((carried if part.head is None else carried[:, :, part.head]).sum())
