"""The parts of an audit under attack: every metric of every model, under no attack and under each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from expunge.attacks import Attack, attacks
from expunge.attacks.material import KnowledgeSplit, split_knowledge
from expunge.audit.plan import Role
from expunge.errors import DataError, RecipeError
from expunge.metrics.probes import Probes
from expunge.record import hash_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from expunge.audit.plan import AuditPlan, ModelSource
    from expunge.types import Example

NO_ATTACK = "none"
REWORDED = ("forget", "paraphrase_questions", "choices", "neighbours", "retain")
"""The splits an attack on the prompt is carried out on."""
HALVED = ("forget", "paraphrase_questions", "choices")
"""The splits of which only what the attacker does not know is asked."""


def parse_attack(text: str) -> Attack:
    """``name`` or ``name:setting=value,setting=value`` as an attack.

    Raises:
        RecipeError: the name or a setting is unknown, or what follows the colon is no list of settings.
    """
    name, _, settings = text.partition(":")
    pairs = [pair.partition("=") for pair in settings.split(",") if settings]
    if not all(sign and key for key, sign, _ in pairs):
        raise RecipeError(
            f"--attack {text}",
            why=f"{settings!r} is no list of settings.",
            fix=f"Write {name}:setting=value, more after commas.",
        )
    return attacks.build({"name": name, **{key: value for key, _, value in pairs}})


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackPart:
    """One metric of one model under one attack (or none). Equal facts, equal result."""

    source: ModelSource
    label: str
    metric: str
    facts: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.source.name} · {self.label} · {self.metric}"


@dataclass(frozen=True, kw_only=True)
class AttackPlan:
    """What is measured (``audit``), the attacks by what was typed, and the texts an attacker may have.

    Raises:
        RecipeError: there is no target, or an attack is named twice or not at all.
        DataError: an attack lacks what it needs.
    """

    audit: AuditPlan
    attacks: Mapping[str, Attack]
    forget: Sequence[Example]
    retain: Sequence[Example]

    def __post_init__(self) -> None:
        for label, attack in self.attacks.items():
            if "retain" in attack.needs and not self.retain:
                raise DataError(
                    f"attack {label!r}",
                    why="it works with examples that are to be kept, and there are none.",
                    fix="Pass --retain FILE.",
                )
            self.halves(label)  # refused now, and not after the attacks before it

    @cached_property
    def target(self) -> ModelSource:
        """The model before unlearning."""
        found = self.audit.holder(Role.TARGET)
        if found is None:
            raise RecipeError(
                "an attack without the target",
                why="what an attack brings back is a share of what was known before unlearning.",
                fix="Pass --target MODEL.",
            )
        return found

    def halves(self, label: str) -> KnowledgeSplit:
        """What the attacker knows of the forget set, and what is asked about."""
        return split_knowledge(self.forget, self.attacks[label].attacker_knowledge, seed=self.audit.seed)

    def probes(self, label: str, rewrite_prompt: Callable[[Example], Example]) -> Probes:
        """What is asked under an attack: what its attacker does not know, as it puts the questions."""
        probes = self.audit.probes
        if label == NO_ATTACK:
            return probes
        if self.attacks[label].attacker_knowledge == "half":
            known = {_owner(example) for example in self.halves(label).known}
            probes = replace(probes, **{name: _without(probes.split(name), known) for name in HALVED})
        return replace(
            probes,
            **{name: tuple(rewrite_prompt(each) for each in probes.split(name)) for name in REWORDED},
        )

    def parts(self) -> Iterator[AttackPart]:
        """Every part, model by model and attack by attack."""
        for source in self.audit.models:
            for label in (NO_ATTACK, *self.attacks):
                for name, metric in self.audit.named_metrics.items():
                    yield AttackPart(
                        source=source,
                        label=label,
                        metric=name,
                        facts={
                            **self.attack_facts(source, label),
                            "metric": [name, metric.model_dump(mode="json")],
                            "probes": self.audit.probes.hash,
                        },
                    )

    def attack_facts(self, source: ModelSource | None, label: str) -> dict[str, Any]:
        """What an attack on a model depends on; on no model, what a search without it depends on."""
        facts: dict[str, Any] = {
            "model": source and source.hash,
            "max_length": self.audit.max_length,
            "attack": None,
        }
        if label == NO_ATTACK:
            return facts
        attack = self.attacks[label]
        return facts | {
            "attack": [attacks.name_of(attack), attack.model_dump(mode="json")],
            "known": hash_json([asdict(each) for each in self.halves(label).known]),
            "kept": hash_json([asdict(each) for each in self.retain]) if "retain" in attack.needs else None,
            "target": self.target.hash if "target" in attack.needs else None,
            "seed": self.audit.seed,
        }


def _owner(example: Example) -> str:
    return example.group or example.id


def _without(examples: Sequence[Example], owners: set[str]) -> tuple[Example, ...]:
    return tuple(example for example in examples if _owner(example) not in owners)
