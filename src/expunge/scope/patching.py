"""Scopes by patching activations: causal tracing, attribution patching, path patching."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from expunge.component import Draws
from expunge.errors import RecipeError
from expunge.inference.backbone import eval_mode
from expunge.model.arch import blocks, unwrap
from expunge.model.intervention import Change, Site, capturing, intervening, plus, replaced
from expunge.scope import scopes
from expunge.scope.facts import Contrasts, batches, contrasts
from expunge.scope.localiser import ContrastLocaliser, LocaliserResult, bar
from expunge.scope.parts import ModelPart, States, changed, difference, parts_of, restored, scaled, states

if TYPE_CHECKING:
    from torch import Tensor, nn

    from expunge.scope.facts import LocaliserInputs


@scopes.register("causal_tracing")
class CausalTracingScope(ContrastLocaliser):
    """Scores each part by how much of the answer comes back when it alone continues as without noise.

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


@scopes.register("path_patching")
class PathPatchingScope(ContrastLocaliser):
    """Scores each MLP by what it sends to the first of the heads that write the answer.

    On the corrupt prompts, everything frozen: first each head in turn is given its clean output, the
    other heads keep theirs and MLPs are computed anew; those with the largest effect on M are the
    extraction heads. Then each MLP before their first block is given its clean output, all other parts
    keep theirs, and what that block then reads is put into a corrupt run of its own: the score is its M
    (1 clean, 0 corrupt). Without a budget those of at least ``threshold`` are taken; MLPs from that
    block on send it nothing and have the score 0.

    Source: Guo et al. 2025 (arXiv 2410.12949), fact lookup by path patching, with their 10 heads and 0.02.
    """

    decides: ClassVar[bool] = True

    modules: Literal["mlp"] = Field(default="mlp", description="The parts that are ranked: MLPs only.")
    heads: PositiveInt = Field(
        default=10, description="How many heads with the largest effect are taken as extraction heads."
    )
    threshold: NonNegativeFloat = Field(
        default=0.02,
        description=(
            "Without a budget, MLPs with at least this score are taken; 1 is the effect of the whole "
            "clean run."
        ),
    )

    def find(self, model: nn.Module, parts: list[ModelPart], evidence: LocaliserInputs) -> LocaliserResult:
        pairs = contrasts(evidence, items=self.items, file=self.contrast)
        device = next(model.parameters()).device
        run = list(batches(pairs, batch_size=evidence.batch_size, device=device))
        with eval_mode(model):
            runs = [_FrozenRuns(model, batch) for batch in run]
            ends = sum(one.clean for one in runs), sum(one.corrupt for one in runs)
            heads = parts_of(model, "heads")
            effects = {
                head.name: scaled(sum(one.of_head(head) for one in runs), *ends)
                for head in bar(heads, what="heads that write the answer", total=len(heads))
            }
            top = sorted(heads, key=lambda head: -abs(effects[head.name]))[: self.heads]
            receiver = min(head.site.block for head in top)
            _refuse_nothing_before(receiver, self.heads)
            senders = [part for part in parts if part.site.block < receiver]
            scores = {part.name: 0.0 for part in parts} | {
                part.name: scaled(sum(one.of_sender(part, receiver) for one in runs), *ends)
                for part in bar(senders, what="MLPs that look it up", total=len(senders))
            }
        facts = {"pairs": len(pairs), "heads": {head.name: effects[head.name] for head in top}}
        return LocaliserResult(scores, {**facts, "receiver": receiver})

    def select_parts(self, ranked: list[ModelPart], result: LocaliserResult) -> list[ModelPart]:
        taken = [part for part in ranked if abs(result.scores[part.name]) >= self.threshold]
        if not taken:
            raise RecipeError(
                "scope 'path_patching' finds no MLP",
                why=f"none before block {result.facts['receiver']} has an effect of {self.threshold}.",
                fix="Lower scope.threshold or scope.heads, or give a budget (scope.share, scope.count).",
            )
        return taken


class _FrozenRuns:
    """A batch with what every part holds in the clean and in the corrupt run, and Σ LD of both."""

    def __init__(self, model: nn.Module, batch: Contrasts) -> None:
        self.model, self.batch = model, batch
        self.layers = len(blocks(model))
        places: tuple[Any, ...] = ("heads", "attention", "mlp")
        sites = [Site(site, block) for site in places for block in range(self.layers)]
        self.held_clean: States = states(model, batch, batch.clean_BT, sites)
        self.held_corrupt: States = states(model, batch, batch.corrupt_BT, sites)
        self.clean = float(changed(model, batch, batch.clean_BT, {}).sum())
        self.corrupt = float(changed(model, batch, batch.corrupt_BT, {}).sum())

    def of_head(self, head: ModelPart) -> float:
        """Σ LD when one head is clean, the others are frozen and MLPs follow."""
        changes = {
            site: replaced(state) for site, state in self.held_corrupt.items() if site.place == "heads"
        }
        restored_head = restored(head, self.held_clean)
        frozen = changes[head.site]
        changes[head.site] = lambda state: restored_head(frozen(state))
        return float(changed(self.model, self.batch, self.batch.corrupt_BT, changes).sum())

    def of_sender(self, sender: ModelPart, receiver: int) -> float:
        """Σ LD when the receiver reads what one clean MLP sends it and nothing else follows the MLP."""
        changes = {
            site: replaced(state) for site, state in self.held_corrupt.items() if site.place != "heads"
        }
        changes[sender.site] = restored(sender, self.held_clean)
        read = Site("residual_in", receiver)
        with intervening(self.model, changes):
            sent = states(self.model, self.batch, self.batch.corrupt_BT, [read])
        given = {read: replaced(sent[read])}
        return float(changed(self.model, self.batch, self.batch.corrupt_BT, given).sum())


def _refuse_nothing_before(receiver: int, heads: int) -> None:
    if receiver == 0:
        raise RecipeError(
            "scope 'path_patching' finds no MLP",
            why=f"one of the {heads} heads that write the answer is in the first block.",
            fix="Lower scope.heads, or use another scope.",
        )
