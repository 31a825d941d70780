from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from expunge.corpus.tokenise import encode, encode_prompt
from expunge.errors import ModelError
from expunge.shards.ensemble import Ensemble, Prediction, chosen_tokens, mean_logps, open_ensemble, predict
from expunge.shards.folder import PlanFolder, Training
from expunge.shards.plan import SplitSettings
from expunge.shards.shard import put_weights, start_model
from expunge.train.methods.loo import owners_of
from expunge.types import Example
from tests.shards.plans import EXAMPLES, TRAINING, delete, plan, train

LORA = Training.model_validate(TRAINING.model_dump() | {"lora": {"rank": 2}})


@pytest.fixture(scope="module", params=["whole", "lora"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PlanFolder:
    """Three trained shards; not to be changed."""
    made = plan(
        tmp_path_factory.mktemp("ensemble"),
        cut=SplitSettings(shards=3, slices=1),
        training=LORA if request.param == "lora" else TRAINING,
    )
    train(made)
    return made


@pytest.fixture(scope="module")
def ensemble(made: PlanFolder) -> Ensemble:
    return open_ensemble(made)


def logits(plan: PlanFolder, ids: list[int]) -> Tensor:
    """The last token's logits of each shard, loaded one by one and run plainly: [S, V]."""
    found = []
    for shard in range(3):
        model, _ = start_model(plan.start, plan.manifest.training, seed=0)
        put_weights(dict(model.named_parameters()), plan.last_weights(shard, plan.rows()))
        with torch.no_grad():
            found.append(model.eval()(input_ids=torch.tensor([ids])).logits[0, -1])
    return torch.stack(found)


@pytest.mark.parametrize("by", ["probability", "vote"])
def test_greedy_text_is_that_of_asking_each_shard_anew_for_every_token(
    made: PlanFolder, ensemble: Ensemble, by: str
) -> None:
    prompts = [encode_prompt(example, ensemble.tokenizer) for example in EXAMPLES[:4]]
    said = ensemble.generate(prompts, max_new_tokens=4, eos_ids=frozenset({2}), by=by)  # type: ignore[arg-type]
    for prompt, answer in zip(prompts[:2], said[:2], strict=True):
        text = list(prompt)
        for _ in range(4):
            p_SV = logits(made, text).softmax(-1)
            if by == "probability":
                token = int(p_SV.mean(0).argmax())
            else:
                votes = torch.bincount(p_SV.argmax(-1), minlength=p_SV.shape[1]).float()
                token = int((votes + p_SV.mean(0) * 0.5).argmax())
            if token == 2:
                break
            text.append(token)
        assert answer == text[len(prompt) :]


def test_shards_differ(ensemble: Ensemble) -> None:
    pieces = encode(EXAMPLES[0], ensemble.tokenizer, max_length=64)
    logps = ensemble.logps(pieces)[0]
    assert logps.shape[0] == 3
    assert not torch.equal(logps[0], logps[1])


def test_votes_and_means_by_hand() -> None:
    p = torch.tensor([[[0.4, 0.6, 0.0]], [[0.4, 0.6, 0.0]], [[1.0, 0.0, 0.0]]]).clamp(min=1e-9)
    assert chosen_tokens(p.log(), "vote").tolist() == [1]
    assert chosen_tokens(p.log(), "probability").tolist() == [0]
    tie = torch.tensor([[[0.1, 0.9]], [[0.6, 0.4]]])
    assert chosen_tokens(tie.log(), "vote").tolist() == [1]
    assert mean_logps(torch.tensor([[0.5], [0.25]]).log()).exp().tolist() == pytest.approx([0.375])


def test_the_mean_of_some_members_is_theirs_alone(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = encode(EXAMPLES[1], ensemble.tokenizer, max_length=64)
    logps = ensemble.logps(pieces)[0]
    token_N = torch.tensor(pieces[0].input_ids)[torch.tensor(pieces[0].mask)]

    def shares_of(chosen: list[int], top_k: int | None) -> Tensor:
        found = ensemble.shares(pieces, chosen, top_k=top_k)
        dense = torch.zeros(len(token_N), 287)
        return dense.scatter(1, found.entries_NK, found.shares_NK * found.mass_N[:, None])

    own = shares_of([1], None).gather(1, token_N[:, None])[:, 0]
    torch.testing.assert_close(own, logps[1].exp())
    two = shares_of([0, 2], None)
    torch.testing.assert_close(two.sum(1), torch.ones(len(token_N)))
    torch.testing.assert_close(two, (shares_of([0], None) + shares_of([2], None)) / 2)
    few = ensemble.shares(pieces, [0, 2], top_k=5)
    assert few.entries_NK.shape[1] == 5
    torch.testing.assert_close(few.shares_NK.sum(1), torch.ones(len(token_N)))
    assert (few.mass_N < 1).all()
    with monkeypatch.context() as patch:
        patch.setattr("expunge.shards.ensemble.ROWS", 2)
        torch.testing.assert_close(shares_of([0, 2], None), two)
    whatever = {name: torch.full_like(w, 9.0) for name, w in ensemble.sets[1].items()}
    changed = Ensemble(
        ensemble.model, ensemble.tokenizer, [ensemble.sets[0], whatever, ensemble.sets[2]], [0, 1, 2]
    )
    assert torch.equal(changed.shares(pieces, [0, 2], top_k=5).shares_NK, few.shares_NK)


def test_choices_are_voted_on(ensemble: Ensemble) -> None:
    asked = [
        Example(
            id="q",
            prompt="Where is Ada?",
            completion=" In Arlen.",
            wrong=(" In Bern.", " Out."),
            correct_index=1,
            group="g",
        )
    ]
    for by in ("probability", "vote"):
        row = predict(ensemble, asked, by=by, max_new_tokens=2, max_length=64)[0]  # type: ignore[arg-type]
        assert row["label"] == 1
        assert len(row["votes"]) == 3
        assert sum(row["shares"]) == pytest.approx(1)
        assert row["choice"] in (0, 1, 2)
        assert row["group"] == "g"
    per_token = [
        ensemble.logps(
            encode(
                Example(id="x", prompt="Where is Ada?", completion=each), ensemble.tokenizer, max_length=64
            )
        )[0]
        for each in asked[0].choices
    ]
    votes = torch.stack([logps.mean(-1) for logps in per_token]).argmax(0).tolist()
    assert row["votes"] == votes


def test_predictions_are_written_one_a_line(made: PlanFolder, tmp_path: Path) -> None:
    data = tmp_path / "q.jsonl"
    data.write_text(json.dumps({"prompt": "Where is Ada?", "completion": " In Arlen."}) + "\n")
    rows = Prediction(plan=made, data=str(data), output=tmp_path / "a.jsonl", max_new_tokens=3).run()
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == rows
    assert rows[0]["logp"] < 0
    assert rows[0]["tokens"] > 3


def test_what_is_not_trained_cannot_be_asked(tmp_path: Path) -> None:
    untrained = plan(tmp_path)
    with pytest.raises(ModelError, match="shard 0 is not trained"):
        open_ensemble(untrained)


def test_owners_are_found_by_text_by_group_and_by_likeness(tmp_path: Path) -> None:
    long = "the goat of the miller eats the harp of the mason on the hill in the rain at night"
    held = [
        *EXAMPLES[:5],
        Example(id="long", completion=long),
        Example(id="m", completion="Mira.", group="Mira"),
    ]
    made = plan(tmp_path, examples=held, cut=SplitSettings(shards=3, slices=1))
    shard = {row.id: row.shard for row in made.rows()}
    asked = [
        Example(id="any", completion=EXAMPLES[0].completion, prompt=EXAMPLES[0].prompt),
        Example(id="any", completion=long.upper() + "!"),
        Example(id="any", completion="Something else of hers.", group="Mira"),
        Example(id="any", completion="Nobody's."),
    ]
    assert owners_of(made, asked) == [{shard["e0"]}, {shard["long"]}, {shard["m"]}, set()]
    delete(made, "long")
    assert owners_of(made, asked)[1] == set()


def test_batches_are_padded_without_a_trace(ensemble: Ensemble) -> None:
    pieces = [encode(example, ensemble.tokenizer, max_length=64)[0] for example in EXAMPLES[:5]]
    together = ensemble.logps(pieces)
    for piece, logps in zip(pieces, together, strict=True):
        torch.testing.assert_close(ensemble.logps([piece])[0], logps, atol=1e-5, rtol=1e-5)
