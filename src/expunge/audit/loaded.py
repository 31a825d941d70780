"""A model in memory during an audit, and the conditions applied to it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.audit.cells import search_facts
from expunge.audit.plan import Role
from expunge.condition import Applied, Condition, ConditionContext, Kind, no_report
from expunge.errors import RecipeError

if TYPE_CHECKING:
    from torch import nn

    from expunge.audit.plan import AuditPlan, ModelSource
    from expunge.audit.store import CellStore
    from expunge.quant.calibration import Calibration


@dataclass(kw_only=False)
class LoadedModel:
    """A model of an audit in memory.

    Attributes:
        model: the model at full precision.
        tokenizer: its tokenizer.
        plan: the audit.
        source: which model of the audit it is.
        store: where results of searches are stored; without one every search is repeated.
        report: called with a description of the current work.
    """

    model: nn.Module
    tokenizer: Any
    plan: AuditPlan
    source: ModelSource
    store: CellStore | None = None
    report: Callable[[str], None] = no_report

    @contextmanager
    def under(self, condition: Condition) -> Iterator[Applied]:
        """The model under ``condition`` inside the block: its parts are applied one on top of the other."""
        with ExitStack() as stack:
            applied = Applied(model=self.model)
            for index, part in enumerate(condition.parts):
                context = self._context(part, condition, stack)
                before = condition.parts[:index]
                result = self._search(part, before, applied.model, context)
                applied = applied.then(stack.enter_context(part.under(applied.model, context, result)))
            yield applied

    @cached_property
    def calibration(self) -> Calibration:
        """The calibration text, read once, from the model at full precision."""
        source = self.plan.calibration
        if source is None:
            raise RecipeError(
                "a calibrated quantizer without calibration text",
                why="its result depends on the activations of calibration text.",
                fix="Pass --calibrate self, a split or a file.",
            )
        return source.tokens(self.model, self.tokenizer)

    def _context(self, part: Condition, condition: Condition, stack: ExitStack) -> ConditionContext:
        target = self.plan.holder(Role.TARGET)
        options: dict[str, Any] = {} if target is None else {"target": lambda: target.load()[0]}
        return ConditionContext(
            tokenizer=self.tokenizer,
            workdir=Path(stack.enter_context(tempfile.TemporaryDirectory())),
            forget=self.plan.knowledge(part).known,
            retain=self.plan.retain,
            calibration=lambda: self.calibration,
            seed=self.plan.seed,
            max_length=self.plan.max_length,
            report=lambda what: self.report(f"{self.source.name} · {condition.label} · {what}"),
            **options,
        )

    def _search(
        self, part: Condition, before: Sequence[Condition], model: nn.Module, context: ConditionContext
    ) -> Any:
        """The result of a part's search, from an earlier run where there is one."""
        if part.kind is not Kind.ATTACK:
            return None
        if self.store is None:
            return part.search(model, context)
        facts = search_facts(self.plan, self.source, part, before)
        if not self.store.has(facts):
            self.store.write_note(facts, part.search(model, context))
        return self.store.read_note(facts)
