"""What an audit covers: named models, conditions, metrics and probes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from expunge.attacks import KnowledgeSplit, split_knowledge
from expunge.audit.verdict import Rule
from expunge.condition import FULL, Chain, Condition, Kind
from expunge.errors import DataError, RecipeError
from expunge.metrics import metrics as registry
from expunge.record import hash_json
from expunge.types import Example

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

    from expunge.audit.run.missing_inputs import SkippedMetric
    from expunge.inference.served.endpoint import Endpoint
    from expunge.metrics.base import Metric
    from expunge.metrics.probes import Probes
    from expunge.quant.calibration import CalibrationSource

__all__ = ["FULL", "AuditPlan", "Kind", "ModelSource", "Role", "every_condition"]

REWRITTEN = ("forget", "paraphrase_questions", "choices", "neighbours", "retain")
"""The splits whose prompts an attack on the prompt rewrites."""
HALVED = ("forget", "paraphrase_questions", "choices")
"""The splits restricted to what the attacker does not know."""

Loader = Callable[[], tuple["nn.Module", Any]]
"""Returns a model and its tokenizer."""


class Role(StrEnum):
    """The role of a model in the audit; the retrained one never saw the forget set."""

    TARGET = "target"
    RETRAINED = "retrained"
    UNLEARNED = "unlearned"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model by name, loaded only if something of it must still be measured.

    ``hash`` identifies its bytes (``record.hash_folder`` of the checkpoint): scores are kept by it.
    ``load`` returns the model and its tokenizer; with several workers it must be picklable.
    """

    name: str
    role: Role
    hash: str
    load: Loader
    endpoint: Endpoint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPlan:
    """Models x conditions x metrics on one set of probes.

    Full precision is always measured, whether or not ``conditions`` names it: recovery is counted
    from there. ``seed`` and ``resamples`` are the bootstrap's. ``seeds`` names recipes, each by the models
    that are the same recipe run with several seeds. ``skipped`` are the metrics that lack something.
    ``calibration`` is where calibrated quantizers get their text. ``forget`` and ``retain`` are what
    attacks work with, which need not be what is asked. ``verdict_on`` names metrics that decide the verdict
    beside those whose role does.

    Raises:
        RecipeError: a name occurs twice, there are two targets or two retrained models, what is named
            as seeds of a recipe are not several unlearned models of their own, a calibrated quantizer has
            no text, an attack needs the target and there is none, or a metric cannot decide a verdict.
        DataError: an attack lacks examples it needs.
    """

    models: tuple[ModelSource, ...]
    metrics: tuple[Metric, ...]
    probes: Probes
    conditions: tuple[Condition, ...] = ()
    seed: int = 0
    resamples: int = 9_999
    max_length: int = 2048
    batch_tokens: int = 8192
    seeds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: tuple[SkippedMetric, ...] = ()
    calibration: CalibrationSource | None = None
    forget: tuple[Example, ...] = ()
    retain: tuple[Example, ...] = ()
    verdict_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for condition in self.conditions:
            for part in condition.parts:
                self._require_inputs(part)
        _refuse_twice("model", (*(source.name for source in self.models), *self.seeds))
        _refuse_twice("metric", (registry.name_of(metric) for metric in self.metrics))
        _refuse_twice("condition", (condition.label for condition in self.conditions))
        for role in (Role.TARGET, Role.RETRAINED):
            names = [source.name for source in self.models if source.role is role]
            if len(names) > 1:
                raise RecipeError(
                    f"two {role} models ({names[0]!r} and {names[1]!r})",
                    why=f"every other model is compared with the one {role} model.",
                    fix="Keep one of them, or run a second audit for the other.",
                )

        for name in self.verdict_on:
            _refuse_undecided(name, self.named_metrics.get(name), self.skipped)
        _refuse_no_seeds(self.seeds, {source.name: source.role for source in self.models})

    @property
    def columns(self) -> tuple[Condition, ...]:
        """Full precision, then the conditions in their order."""
        return (FULL, *(condition for condition in self.conditions if condition.label != FULL.label))

    @property
    def named_metrics(self) -> dict[str, Metric]:
        """The metrics by their registered names."""
        return {registry.name_of(metric): metric for metric in self.metrics}

    def calibration_of(self, condition: Condition) -> CalibrationSource | None:
        """Where ``condition`` gets the text it is calibrated on; ``None`` if it reads none."""
        calibrated = any("calibration" in part.needs for part in condition.parts)
        return self.calibration if calibrated else None

    def knowledge(self, condition: Condition) -> KnowledgeSplit:
        """What the attacker of a single condition knows of the forget set, and what is asked about."""
        return split_knowledge(self.forget, condition.attacker_knowledge, seed=self.seed)

    def probes_under(self, condition: Condition, rewrite_prompt: Callable[[Example], Example]) -> Probes:
        """What is asked under a condition: what its attacker does not know, as the attacker asks it."""
        probes = self.probes
        if condition.kind is not Kind.ATTACK:
            return probes
        known = {
            _owner(example)
            for part in condition.parts
            if part.attacker_knowledge == "half"
            for example in self.knowledge(part).known
        }
        if known:
            probes = replace(probes, **{name: _without(probes.split(name), known) for name in HALVED})
        return replace(
            probes,
            **{name: tuple(map(rewrite_prompt, probes.split(name))) for name in REWRITTEN},
        )

    def attack_facts(self, condition: Condition) -> dict[str, Any]:
        """What the attacks in a condition depend on besides the model; empty without one."""
        parts = [part for part in condition.parts if part.kind is Kind.ATTACK]
        return {"attack": [self._facts_of_attack(part) for part in parts]} if parts else {}

    def _facts_of_attack(self, attack: Condition) -> dict[str, Any]:
        target = self.holder(Role.TARGET)
        return {
            "label": attack.label,
            "settings": attack.model_dump(mode="json"),
            "known": hash_json([asdict(example) for example in self.knowledge(attack).known]),
            "retain": hash_json([asdict(example) for example in self.retain])
            if "retain" in attack.needs
            else None,
            "target": target.hash if target is not None and "target" in attack.needs else None,
            "seed": self.seed,
        }

    def _require_inputs(self, condition: Condition) -> None:
        """Refuse, before a model is loaded, a single condition that lacks what it needs."""
        if "calibration" in condition.needs:
            # Here, because reports import this module and need no torch.
            from expunge.quant.calibration import require_calibration

            require_calibration(condition.label, self.calibration)
        if "retain" in condition.needs and not self.retain:
            raise DataError(
                f"attack {condition.label!r}",
                why="it needs retain examples, and there are none.",
                fix="Pass --retain FILE.",
            )
        if "target" in condition.needs and self.holder(Role.TARGET) is None:
            raise RecipeError(
                f"attack {condition.label!r} without the target",
                why="it compares with the model before unlearning.",
                fix="Pass --target MODEL.",
            )
        self.knowledge(condition)  # refused now if the forget set cannot be halved

    def holder(self, role: Role) -> ModelSource | None:
        """The model that has ``role``, if any (the first)."""
        return next((source for source in self.models if source.role is role), None)


def every_condition(quantizers: Sequence[Condition], attacks: Sequence[Condition]) -> tuple[Condition, ...]:
    """The quantizers, the attacks, and every attack on every quantized model."""
    chains = [Chain(steps=(quantizer, attack)) for quantizer in quantizers for attack in attacks]
    return (*quantizers, *attacks, *chains)


def _owner(example: Example) -> str:
    return example.group or example.id


def _without(examples: Sequence[Example], owners: set[str]) -> tuple[Example, ...]:
    return tuple(example for example in examples if _owner(example) not in owners)


def _refuse_twice(kind: str, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise RecipeError(
            f"{kind} {twice[0]!r}",
            why="the audit names it more than once, so its scores would be ambiguous.",
            fix=f"Give every {kind} its own name and list it once.",
        )


def _refuse_undecided(name: str, metric: Metric | None, skipped: Iterable[SkippedMetric]) -> None:
    """Refuse a verdict on a metric that is not measured, or that cannot say more or less was forgotten."""
    if metric is None:
        lacks = next((", ".join(each.missing) for each in skipped if each.metric == name), "its inputs")
        raise RecipeError(
            f"a verdict on {name}",
            why=f"this audit cannot measure it: it lacks {lacks}.",
            fix=f"Pass what 'expunge metrics {name}' lists as needed, or decide on another metric.",
        )
    if Rule(on=(name,)).points_of(metric) is None:
        raise RecipeError(
            f"a verdict on {name}",
            why="only a metric decides of which lower is better, with a scale that has two ends, and that "
            "one model has alone.",
            fix="Name one that does, such as leak_at_k or rouge; 'expunge metrics' lists them.",
        )


def _refuse_no_seeds(seeds: Mapping[str, tuple[str, ...]], roles: Mapping[str, Role]) -> None:
    _refuse_twice("seed", (member for members in seeds.values() for member in members))
    for recipe, members in seeds.items():
        others = [member for member in members if roles.get(member) is not Role.UNLEARNED]
        if others:
            raise RecipeError(
                f"seeds of {recipe!r}",
                why=f"{others[0]!r} is not one of the unlearned models of this audit.",
                fix="Name checkpoints that one recipe made with several seeds.",
            )
        if len(members) < 2:
            raise RecipeError(
                f"seeds of {recipe!r}",
                why="one seed gives no spread between seeds.",
                fix="Name two or more (three or more for a useful interval), or leave out --seeds-of.",
            )
