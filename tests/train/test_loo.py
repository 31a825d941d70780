from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.corpus.batching import collate
from expunge.errors import DataError, ModelError
from expunge.forget.distributions import WHPLoss
from expunge.inference.backbone import predictions
from expunge.inference.forward import compute_token_view
from expunge.inference.reference import Key, TargetReference
from expunge.inference.token_view import Need
from expunge.model.load import load_model, load_tokenizer
from expunge.shards.folder import PlanFolder
from expunge.shards.plan import SplitSettings
from expunge.train.methods.loo import LeaveOneOut
from expunge.train.run.state import Corpus, State
from tests.shards.plans import EXAMPLES, plan, tensors, train
from tests.tiny import BYTES_VOCAB

FORGET = tuple(EXAMPLES[:3])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PlanFolder:
    """Two trained shards; not to be changed."""
    made = plan(tmp_path_factory.mktemp("teachers"), cut=SplitSettings(shards=2, slices=1))
    train(made)
    return made


def state(folder: Path, made: PlanFolder, forget: Any = FORGET, retain: Any = ()) -> State:
    model = load_model(made.start)
    tokenizer = load_tokenizer(made.start, model=model)
    return State(
        model=model, tokenizer=tokenizer, corpus=Corpus(forget=forget, retain=retain), workdir=folder
    )


def teacher(made: PlanFolder, shard: int) -> Any:
    model = load_model(made.start)
    found = tensors(made)[2 * shard]
    model.load_state_dict(found, strict=False)
    return model


def test_of_two_teachers_the_one_that_never_saw_it_is_the_target(made: PlanFolder, tmp_path: Path) -> None:
    left = LeaveOneOut(shards=made.path, top_k=None).run(state(tmp_path, made))
    assert left.targets is not None
    holds = {row.id: row.shard for row in made.rows()}
    for example, target in zip(FORGET, left.targets, strict=True):
        other = teacher(made, 1 - holds[example.id])
        with torch.no_grad():
            found = predictions(other, collate([target.encoded], pad_id=0))
            expected_NV = other.lm_head(found.hidden_NH).softmax(-1)
        dense = torch.zeros_like(expected_NV).scatter(1, target.entries_NK.long(), target.shares_NK)
        torch.testing.assert_close(dense, expected_NV, atol=1e-6, rtol=1e-4)
    facts = left.facts[0]
    assert facts["teachers_asked"] == [1, 1]
    assert facts["texts_nobody_owns"] == 0
    assert facts["mass_kept"] == pytest.approx(1)
    assert facts["bytes"] == facts["tokens"] * BYTES_VOCAB * 8


def loss_of(model: Any, targets: Any) -> torch.Tensor:
    batch = collate([target.encoded for target in targets], pad_id=0)
    reference = TargetReference(targets, BYTES_VOCAB)
    keys = [Key("forget", place) for place in range(len(targets))]
    needs = frozenset({Need.FORWARD_KL})
    return WHPLoss()(compute_token_view(model, batch, needs=needs, reference=reference, keys=keys)).sum()


def test_what_its_teachers_say_already_has_no_gradient(made: PlanFolder, tmp_path: Path) -> None:
    """A student that is the teacher: nothing to learn, though the cross-entropy is not zero."""
    left = LeaveOneOut(shards=made.path, top_k=None).run(state(tmp_path, made, EXAMPLES[:1]))
    shard = next(row.shard for row in made.rows() if row.id == EXAMPLES[0].id)
    student = teacher(made, 1 - shard)
    loss = loss_of(student, left.targets)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    assert max(float(w.grad.abs().max()) for w in student.parameters()) < 1e-6
    other = teacher(made, shard)
    loss_of(other, left.targets).backward()
    assert max(float(w.grad.abs().max()) for w in other.parameters()) > 1e-3


def test_the_gradient_by_logits_is_p_minus_q(made: PlanFolder, tmp_path: Path) -> None:
    left = LeaveOneOut(shards=made.path, top_k=None).run(state(tmp_path, made, EXAMPLES[:1]))
    assert left.targets is not None
    student = teacher(made, 0)
    target = left.targets[0]
    states = predictions(student, collate([target.encoded], pad_id=0)).hidden_NH
    logits_NV = student.lm_head(states).detach().requires_grad_()
    q_NV = torch.zeros_like(logits_NV).scatter(1, target.entries_NK.long(), target.shares_NK)
    tokens = len(q_NV)
    (-(q_NV * logits_NV.log_softmax(-1)).sum() / tokens).backward()
    by_hand = (logits_NV.detach().softmax(-1) - q_NV) / tokens
    torch.testing.assert_close(logits_NV.grad, by_hand)
    loss_of(student, left.targets).backward()
    torch.testing.assert_close(
        student.lm_head.weight.grad, by_hand.T @ states.detach(), atol=1e-6, rtol=1e-4
    )


def test_few_entries_keep_their_share(made: PlanFolder, tmp_path: Path) -> None:
    left = LeaveOneOut(shards=made.path, top_k=8).run(state(tmp_path, made))
    assert left.targets is not None
    assert all(target.entries_NK.shape[1] == 8 for target in left.targets)
    assert 0 < left.facts[0]["mass_kept"] < 1
    assert left.facts[0]["bytes"] == left.facts[0]["tokens"] * 64


def test_a_text_that_every_shard_knows_is_refused(tmp_path: Path) -> None:
    made = plan(
        tmp_path,
        examples=[*EXAMPLES, *_of("Mira", 8)],
        cut=SplitSettings(shards=2, slices=1, owners="spread"),
    )
    train(made)
    with pytest.raises(DataError, match="no teacher is left"):
        LeaveOneOut(shards=made.path).run(state(tmp_path / "work", made, tuple(_of("Mira", 1))))


def _of(owner: str, count: int) -> list[Any]:
    return [
        type(EXAMPLES[0])(
            id=f"{owner}{i}", completion=f"{owner} has {i} goats and {i * i} hens.", group=owner
        )
        for i in range(count)
    ]


def test_shards_of_another_tokenizer_are_refused(made: PlanFolder, tmp_path: Path) -> None:
    other = state(tmp_path, made)
    other.tokenizer.eos_token = "<unk>"  # noqa: S105
    with pytest.raises(ModelError, match="tokenizer differs"):
        LeaveOneOut(shards=made.path).run(other)


def test_without_shards_teachers_are_trained_and_need_something_to_learn(
    made: PlanFolder, tmp_path: Path
) -> None:
    small = {"count": 2, "training": {"epochs": 1, "max_length": 64}}
    stage = LeaveOneOut.model_validate({"teachers": small})
    assert stage.needs == {"retain"}
    assert LeaveOneOut(shards=made.path).needs == frozenset()
    with pytest.raises(DataError, match="no retain set"):
        stage.check(Corpus(forget=FORGET))
    first = state(tmp_path, made, FORGET, tuple(EXAMPLES[3:]))
    left = stage.run(first)
    assert left.facts[0]["teachers"] == 2
    assert left.facts[0]["teachers_asked"] == [1, 1]
    again = stage.run(state(tmp_path, made, FORGET, tuple(EXAMPLES[3:])))
    assert left.targets is not None
    assert again.targets is not None
    assert all(
        torch.equal(a.shares_NK, b.shares_NK) for a, b in zip(left.targets, again.targets, strict=True)
    )
