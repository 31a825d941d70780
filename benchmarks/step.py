"""One NPO_KLR training step, ours against the plain way: same model, same data, same result.

    python -m benchmarks.step [--scope all|blocks|sure] [--turns 5] [--tiny]

Each scope is timed in a process of its own, plain and ours in turns; the memory of either is taken in
one more process each.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from benchmarks.compare import (
    Peak,
    in_own_process,
    in_turns,
    memory_ratios,
    one_thread,
    same,
    wait_until_quiet,
    write_result,
)
from benchmarks.plain_step import PlainStep, Tokens
from expunge.corpus.batching import Batch, ForgetRetainPair, PairBatch, collate_pairs
from expunge.corpus.tokenise import Encoded
from expunge.forget.preference import NPO
from expunge.inference.reference import Key, cache_reference
from expunge.model.arch import output_layer
from expunge.record import Stopwatch
from expunge.retain.losses import KLR
from expunge.scope import Scope
from expunge.scope.by_name import AllParameters, MatchingNames
from expunge.scope.saliency import SalientModules
from expunge.scope.selection import ScopeGuard
from expunge.train.objective.pair import PairObjective
from expunge.train.objective.reference import forget_gradient

BLOCKS = r"\.layers\."
SCOPES: dict[str, Scope] = {
    "all": AllParameters(),
    "blocks": MatchingNames(pattern=BLOCKS),
    "sure": SalientModules(percentile=90, granularity="tensor"),
}
TITLES = {
    "all": "every weight",
    "blocks": "the weights of the blocks",
    "sure": "SURE: the most salient tenth of the matrices",
}
LEARNING_RATE, BETA = 1e-5, 0.1
SHAKE = 1e-3
"""How far the blocks are from the reference when the step is taken, so that the KL is not zero."""
TOLERANCE = 1e-4
MEASURED_STEPS = 3
MODULE = "benchmarks.step"
SHOWN = ("times_faster", "peak_share", "peak_share_above_model")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The size of the model and of a batch, which is so many forget and as many retain sequences."""

    hidden: int = 512
    layers: int = 4
    heads: int = 8
    vocabulary: int = 32000
    batch: int = 4
    length: int = 256

    def model(self) -> PreTrainedModel:
        """A Llama with random weights, always the same ones."""
        config = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=round(self.hidden * 8 / 3 / 32) * 32,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            max_position_embeddings=self.length,
            tie_word_embeddings=False,
        )
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        return model

    def pairs(self) -> list[ForgetRetainPair]:
        """Random tokens; all of them count but the first."""
        torch.manual_seed(1)
        mask = [False] + [True] * (self.length - 1)

        def sequence() -> Encoded:
            return Encoded(torch.randint(self.vocabulary, (self.length,)).tolist(), mask, "random")

        return [ForgetRetainPair(sequence(), sequence(), i, i) for i in range(self.batch)]


TINY = Setting(hidden=64, layers=2, heads=2, vocabulary=1000, batch=2, length=32)


class OurStep:
    """The step as the ``unlearn`` stage takes it: cached reference, chunked logits, guarded scope."""

    def __init__(self, model: PreTrainedModel, pairs: Sequence[ForgetRetainPair], scope: Scope) -> None:
        self.model = model
        forget = [pair.forget for pair in pairs]
        self.selection = scope.select(model, lambda: saliency(model, forget))
        guard = ScopeGuard(model, self.selection)
        head = output_layer(model).get_parameter("weight")
        names = {name for name, weight in model.named_parameters() if weight is head}
        reference = cache_reference(
            model,
            logps_of=[(Key("forget", pair.forget_id), pair.forget) for pair in pairs],
            states_of=[(Key("retain", i), pair.retain) for i, pair in enumerate(pairs) if pair.retain],
            pad_id=0,
            head_may_change=bool(names & self.selection.rows.keys()),
        )
        self.objective = PairObjective(NPO(beta=BETA), KLR(), reference)
        self.optimizer = torch.optim.AdamW(
            [weight for weight in model.parameters() if weight.requires_grad], lr=LEARNING_RATE
        )
        guard.attach(self.optimizer)

    def __call__(self, batch: PairBatch) -> float:
        """Forward, backward and update."""
        loss = self.backward(batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def backward(self, batch: PairBatch) -> float:
        """The loss, its gradients left in the model."""
        terms = self.objective(self.model, batch)
        loss = torch.stack(list(terms.values())).sum() / len(batch.forget_ids)
        loss.backward()
        return float(loss.detach())


def saliency(model: PreTrainedModel, forget: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """What SURE chooses by."""
    return forget_gradient(model, NPO(beta=BETA), forget, pad_id=0, batch_size=len(forget))


def plain_step(model: PreTrainedModel, scope: str, chosen: set[str]) -> PlainStep:
    """The plain way under a scope: SURE's mask is laid on gradients that are all computed."""
    names = {name for name, _ in model.named_parameters()}
    trained = {name for name in names if re.search(BLOCKS, name)} if scope == "blocks" else names
    masked = names - chosen if scope == "sure" else set()
    return PlainStep(model, trained=trained, masked=masked, lr=LEARNING_RATE, beta=BETA)


def tokens(batch: Batch) -> Tokens:
    """A batch as the plain way takes it."""
    return Tokens(batch.input_ids_BT, batch.attention_mask_BT, batch.mask_BT)


@torch.no_grad()
def shake(model: PreTrainedModel) -> None:
    """Move the blocks away from the reference, always to the same place."""
    torch.manual_seed(2)
    for name, weight in model.named_parameters():
        if re.search(BLOCKS, name):
            weight.add_(torch.randn_like(weight), alpha=SHAKE)


def time_scope(setting: Setting, scope: str, turns: int) -> dict[str, Any]:
    """Check that both ways agree, then take turns."""
    pairs = setting.pairs()
    batch = collate_pairs(pairs, pad_id=0)
    ours = OurStep(setting.model(), pairs, SCOPES[scope])
    plain = plain_step(setting.model(), scope, set(ours.selection.rows))
    sides = (tokens(batch.forget), tokens(batch.retain))  # type: ignore[arg-type]
    for model in (ours.model, plain.model):
        shake(model)
    agreement = check(ours, plain, batch, sides)
    found = in_turns(lambda: plain(*sides), lambda: ours(batch), warm_up=1, turns=turns)
    chosen, total = ours.selection.count(ours.model)
    return {
        **found.summary,
        **agreement,
        "weights": total,
        "weights_that_may_change": chosen,
        "tensors_that_may_change": sorted(ours.selection.rows) if scope == "sure" else None,
    }


def check(
    ours: OurStep, plain: PlainStep, batch: PairBatch, sides: tuple[Tokens, Tokens]
) -> dict[str, Any]:
    """The same loss and the same gradients of everything that may change, or an error."""
    losses = ours.backward(batch), plain.backward(*sides)
    named = dict(plain.model.named_parameters())
    own = {name: w.grad for name, w in ours.model.named_parameters() if w.grad is not None}
    if own.keys() != ours.selection.rows.keys():
        raise ValueError("a weight that may change got no gradient, or another got one")
    theirs = [named[name].grad for name in own]
    gap = same(list(own.values()), theirs)
    if abs(losses[0] - losses[1]) > TOLERANCE * abs(losses[1]) or gap > TOLERANCE:
        raise ValueError(f"the two ways differ: losses {losses}, gradients by {gap:.1e}")
    for model in (ours.model, plain.model):
        model.zero_grad(set_to_none=True)
    return {"loss": losses[1], "loss_gap": abs(losses[0] - losses[1]), "relative_gradient_gap": gap}


def memory_of(setting: Setting, scope: str, way: str, chosen: set[str]) -> dict[str, float]:
    """The peak of a process that does nothing but a few steps one way."""
    pairs = setting.pairs()
    batch = collate_pairs(pairs, pad_id=0)
    model = setting.model()
    peak = Peak()
    if way == "ours":
        ours = OurStep(model, pairs, SCOPES[scope])
        shake(model)
        for _ in range(MEASURED_STEPS):
            ours(batch)
    else:
        plain = plain_step(model, scope, chosen)
        shake(model)
        for _ in range(MEASURED_STEPS):
            plain(tokens(batch.forget), tokens(batch.retain))  # type: ignore[arg-type]
    return peak.summary


def measure(scope: str, *, tiny: bool, turns: int) -> dict[str, Any]:
    """Time and memory of one scope, each in processes of its own."""
    size = ["--tiny"] if tiny else []
    timed = in_own_process(MODULE, "--part=time", f"--scope={scope}", f"--turns={turns}", *size)
    chosen = ",".join(timed["tensors_that_may_change"] or ())
    memory = {
        way: in_own_process(MODULE, f"--part={way}", f"--scope={scope}", f"--chosen={chosen}", *size)
        for way in ("plain", "ours")
    }
    return {"title": TITLES[scope], **timed, **memory_ratios(memory["plain"], memory["ours"])}


def main() -> None:
    """Measure every scope asked for and keep each result."""
    asked = _options()
    setting = TINY if asked.tiny else Setting(**json.loads(asked.sizes))
    if asked.part:
        one_thread()
        chosen = set(asked.chosen.split(","))
        found: dict[str, Any] = (
            time_scope(setting, asked.scope, asked.turns)
            if asked.part == "time"
            else memory_of(setting, asked.scope, asked.part, chosen)
        )
        print(json.dumps(found))
        return
    for scope in [asked.scope] if asked.scope else SCOPES:
        load = 0.0 if asked.tiny else wait_until_quiet()
        watch = Stopwatch()
        found = measure(scope, tiny=asked.tiny, turns=asked.turns)
        print(scope, json.dumps({name: found[name] for name in SHOWN}), flush=True)
        if not asked.tiny:
            write_result(f"step-{scope}", watch, load_before=load, setting=asdict(setting), **found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scope", choices=SCOPES, help="one scope alone")
    parser.add_argument("--turns", type=int, default=5, help="turns each way")
    parser.add_argument(
        "--tiny", action="store_true", help="a size to try the benchmark with; keeps nothing"
    )
    parser.add_argument("--part", choices=("time", "plain", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--chosen", default="", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", default="{}", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
