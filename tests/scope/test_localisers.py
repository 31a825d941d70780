from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.corpus.batching import collate
from expunge.errors import DataError, RecipeError
from expunge.model.arch import blocks
from expunge.model.intervention import Site
from expunge.scope import scopes
from expunge.scope.facts import batches, contrasts, read_facts
from expunge.scope.localiser import Localiser, LocaliserResult, chosen_by
from expunge.scope.parts import changed, parts_of, restored, states
from expunge.scope.selection import Selection
from tests.scope.people import FORGET, RETAIN, TOKENIZER, evidence, unused
from tests.tiny import BYTES_VOCAB, tiny

CPU = torch.device("cpu")
CONTRASTING = ("attribution_patching", "causal_tracing", "path_patching")


def knowing(arch: str = "llama", **overrides: Any) -> Any:
    """A model that was taught the answers; those that are not Llamas have no final norm."""
    return copy.deepcopy(taught(arch, overrides.get("num_hidden_layers", 2)))


@cache
def taught(arch: str, layers: int) -> Any:
    model = tiny(arch, vocab_size=BYTES_VOCAB, num_hidden_layers=layers)
    if arch == "gpt2":
        model.transformer.ln_f = nn.Identity()
    elif arch == "gpt_neox":
        model.gpt_neox.final_layer_norm = nn.Identity()
    facts = read_facts([*FORGET, *RETAIN], TOKENIZER, max_length=256)
    batch = collate([fact.encoded for fact in facts], pad_id=0)
    answers = torch.tensor([fact.answer[0] for fact in facts])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(25):
        logits_BTV = model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
        nn.functional.cross_entropy(logits_BTV[batch.mask_BT], answers).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def located(model: nn.Module, name: str, **settings: Any) -> Selection:
    return chosen_by(scopes.build({"name": name, **settings}), model, evidence())


def scores(selection: Selection) -> dict[str, float]:
    return {part["name"]: part["score"] for part in selection.facts["parts"]}


def before(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", [*CONTRASTING, "random", "probe"])
def test_the_model_is_as_it_was_and_the_same_is_found_again(name: str) -> None:
    model = knowing(num_hidden_layers=3).train()
    model.model.layers[0].self_attn.o_proj.weight.data.zero_()  # or one of its heads writes the answer
    own, asking = before(model), [weight.requires_grad for weight in model.parameters()]
    settings = {"count": 1} | ({"heads": 1, "threshold": 0} if name == "path_patching" else {})
    first, again = (located(model, name, **settings) for _ in range(2))
    assert first.facts == again.facts
    assert first.rows.keys() == again.rows.keys()
    assert model.training
    assert all(torch.equal(tensor, own[key]) for key, tensor in model.state_dict().items())
    assert [weight.requires_grad for weight in model.parameters()] == asking
    assert all(weight.grad is None for weight in model.parameters())
    chosen = [part["name"] for part in first.facts["parts"] if part["chosen"]]
    assert len(chosen) == 1
    assert all(key.startswith(chosen[0]) for key in first.rows)
    assert first.facts["method"] == name


def ends(model: nn.Module) -> tuple[Any, float, float]:
    (batch,) = batches(contrasts(evidence(), items=64), batch_size=8, device=CPU)
    runs = (changed(model, batch, ids, {}) for ids in (batch.clean_BT, batch.corrupt_BT))
    return batch, *(float(run.double().sum()) for run in runs)


@pytest.mark.parametrize("arch", ["gpt2", "gpt_neox"])
def test_attribution_is_the_effect_of_patching_where_the_readout_is_linear(arch: str) -> None:
    model = knowing(arch)
    setattr(
        *((model.transformer, "ln_f") if arch == "gpt2" else (model.gpt_neox, "final_layer_norm")),
        nn.Identity(),
    )
    batch, clean, corrupt = ends(model)
    if clean < corrupt:
        batch = batch._replace(true_B=batch.false_B, false_B=batch.true_B)
    found = scores(located(model, "attribution_patching", modules="mlp", count=1))
    (last,) = (part for part in parts_of(model, "mlp") if part.site.block == 1)
    held = states(model, batch, batch.clean_BT, [last.site])
    gained = changed(model, batch, batch.corrupt_BT, {last.site: restored(last, held)})
    effect = (float(gained.double().sum()) - corrupt) / (clean - corrupt)
    assert found[last.name] == pytest.approx(effect, rel=1e-4)
    held = states(model, batch, batch.corrupt_BT, [last.site])
    lost = changed(model, batch, batch.clean_BT, {last.site: restored(last, held)})
    assert found[last.name] == pytest.approx((clean - float(lost.sum())) / (clean - corrupt), rel=1e-4)


def test_the_heads_of_a_block_carry_what_its_attention_does() -> None:
    model = knowing()
    heads = scores(located(model, "attribution_patching", modules="heads", count=1))
    whole = scores(located(model, "attribution_patching", modules="attention", count=1))
    for block in range(2):
        prefix = f"model.layers.{block}.self_attn"
        total = sum(value for name, value in heads.items() if name.startswith(prefix))
        assert total == pytest.approx(whole[prefix], rel=1e-4, abs=1e-6)


def test_attribution_does_not_depend_on_batches() -> None:
    model = knowing()
    scope = scopes.build({"name": "attribution_patching", "modules": "sublayers", "count": 1})
    one, many = (scores(chosen_by(scope, model, evidence(batch_size=size))) for size in (1, 8))
    assert one == pytest.approx(many, rel=1e-4)


def test_tracing_gives_a_silent_part_nothing_and_the_whole_stream_everything() -> None:
    model = knowing()
    model.model.layers[0].mlp.down_proj.weight.data.zero_()
    found = located(model, "causal_tracing", modules="sublayers", count=1, noise=20.0, samples=2)
    assert scores(found)["model.layers.0.mlp"] == pytest.approx(0, abs=1e-9)
    for block in blocks(model):
        block.self_attn.o_proj.weight.data.zero_()
    model.model.layers[1].mlp.down_proj.weight.data.zero_()
    assert not model.model.layers[0].mlp.down_proj.weight.any()
    # Nothing but the embedding of the last token is left, which no prompt differs in.
    with pytest.raises(DataError, match="does not distinguish"):
        located(model, "causal_tracing", count=1)


def test_tracing_is_what_restoring_one_part_brings() -> None:
    """One pair, by hand: the same noise, the part's clean output put back by a hook of our own."""
    model = knowing()
    shown = evidence(forget=FORGET[:1])
    (batch,) = batches(contrasts(shown, items=1), batch_size=1, device=CPU)
    generator = torch.Generator().manual_seed(0)
    embeddings = model.model.embed_tokens
    noise = torch.randn(*batch.clean_BT.shape, 32, generator=generator) * 2.0 * embeddings.weight.std()
    mlp = model.model.layers[0].mlp
    seen: list[Tensor] = []

    @torch.no_grad()
    def run(*, noisy: bool, patch: bool = False) -> float:
        states_BTH = embeddings(batch.clean_BT)
        if noisy:
            states_BTH = torch.where(batch.subject_BT[..., None], states_BTH + noise, states_BTH)
        hook = mlp.register_forward_hook(lambda _, __, out: seen[0] if patch else seen.append(out))
        logits = model(inputs_embeds=states_BTH).logits[0, batch.last_B[0]]
        hook.remove()
        return float(logits[batch.true_B[0]] - logits[batch.false_B[0]])

    clean, drowned = run(noisy=False), run(noisy=True)
    expected = (run(noisy=True, patch=True) - drowned) / (clean - drowned)
    scope = scopes.build({"name": "causal_tracing", "count": 1, "noise": 2.0, "samples": 1})
    if clean > drowned:
        assert scores(chosen_by(scope, model, shown))["model.layers.0.mlp"] == pytest.approx(
            expected, rel=1e-3
        )
    else:
        with pytest.raises(DataError, match="does not distinguish"):
            chosen_by(scope, model, shown)


def test_paths_carry_what_an_mlp_sends_and_nothing_that_follows_it() -> None:
    """What the receiver reads is the corrupt stream plus the difference of the sender's two outputs."""
    model = knowing(num_hidden_layers=3)
    model.model.layers[0].self_attn.o_proj.weight.data.zero_()
    found = located(model, "path_patching", heads=1, count=1)
    receiver = found.facts["receiver"]
    batch, clean, corrupt = ends(model)
    sites = [Site("mlp", block) for block in range(receiver)]
    held_clean = states(model, batch, batch.clean_BT, sites)
    read = Site("residual_in", receiver)
    held = states(model, batch, batch.corrupt_BT, [*sites, read])
    for site in sites:
        given = held[read] + held_clean[site] - held[site]
        gained = float(changed(model, batch, batch.corrupt_BT, {read: lambda _, g=given: g}).double().sum())
        expected = (gained - corrupt) / (clean - corrupt)
        name = f"model.layers.{site.block}.mlp"
        assert scores(found)[name] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert all(score == 0 for name, score in scores(found).items() if int(name.split(".")[2]) >= receiver)


def test_the_head_that_is_found_is_the_one_that_brings_most_back() -> None:
    """By hand: every other head and no MLP is held at what it was on the corrupt prompts."""
    model = knowing(num_hidden_layers=3)
    model.model.layers[0].self_attn.o_proj.weight.data.zero_()
    found = located(model, "path_patching", heads=1, count=1)
    ((name, effect),) = found.facts["heads"].items()
    batch, clean, corrupt = ends(model)
    gained = {}
    for part in parts_of(model, "heads"):
        sites = [Site("heads", block) for block in range(3)]
        given = dict(states(model, batch, batch.corrupt_BT, sites))
        mixed = given[part.site].clone()
        mixed[:, :, part.head] = states(model, batch, batch.clean_BT, sites)[part.site][:, :, part.head]
        given[part.site] = mixed
        run = changed(model, batch, batch.corrupt_BT, {s: lambda _, g=g: g for s, g in given.items()})
        gained[part.name] = (float(run.double().sum()) - corrupt) / (clean - corrupt)
    assert max(gained, key=lambda each: abs(gained[each])) == name
    assert gained[name] == pytest.approx(effect, rel=1e-4)


@pytest.mark.parametrize("name", CONTRASTING)
def test_a_model_that_tells_nothing_is_refused(name: str) -> None:
    model = knowing(num_hidden_layers=3)
    model.lm_head.weight.data.zero_()
    with pytest.raises(DataError, match="does not distinguish"):
        located(model, name, count=1)


def test_the_probe_finds_where_the_name_becomes_readable() -> None:
    """The last token of every name is the same; block 0 brings what stands before it."""
    model = tiny("llama", vocab_size=BYTES_VOCAB)
    found = located(model, "probe")
    accuracy = found.facts["accuracy"]
    assert found.facts["questions"] == len(RETAIN)
    assert accuracy[0] <= 0.4
    assert accuracy[1] == 1.0
    assert [part["chosen"] for part in found.facts["parts"]] == [True, False]
    assert scores(found)["model.layers.0.mlp"] == pytest.approx(accuracy[1] - accuracy[0])
    assert found.rows.keys() == {
        f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")
    }


def test_a_probe_that_reads_nothing_more_than_at_first_is_refused() -> None:
    model = tiny("llama", vocab_size=BYTES_VOCAB)
    for block in blocks(model):
        block.self_attn.o_proj.weight.data.zero_()
    with pytest.raises(RecipeError, match="finds no block"):
        located(model, "probe")
    with pytest.raises(DataError, match="nothing to fit a probe on"):
        chosen_by(scopes.build("probe"), model, evidence(retain=RETAIN[:4]))


@pytest.mark.parametrize(
    ("accuracy", "questions", "blocks_taken"),
    [
        ([0.31, 0.94, 1.0, 1.0, 1.0], 48, [0, 1]),  # .94 is further below 1 than 5 % of the climb
        ([0.31, 0.97, 1.0, 1.0, 1.0], 48, [0]),
        ([0.46, 0.68, 0.75, 0.79, 0.75], 28, [0, 1]),  # .75 is within one error (.077) of .79
        ([0.46, 0.68, 0.75, 0.79, 0.75], 28_000, [0, 1, 2]),
    ],
)
def test_the_probe_takes_what_comes_before_the_plateau(
    accuracy: list[float], questions: int, blocks_taken: list[int]
) -> None:
    parts = parts_of(tiny("llama", num_hidden_layers=4), "mlp")
    found = LocaliserResult({}, {"accuracy": accuracy, "questions": questions})
    taken = scopes.build("probe").select_parts(parts, found)
    assert [part.site.block for part in taken] == blocks_taken


def test_a_climb_within_the_error_is_none() -> None:
    parts = parts_of(tiny("llama"), "mlp")
    with pytest.raises(RecipeError, match="finds no block"):
        scopes.build("probe").select_parts(
            parts, LocaliserResult({}, {"accuracy": [0.5, 0.55, 0.5], "questions": 20})
        )


def test_as_many_weights_as_another_scope() -> None:
    model = tiny("llama", vocab_size=BYTES_VOCAB)
    pattern = r"layers\.0\.(mlp|self_attn)"
    budget = chosen_by(scopes.build({"name": "regex", "pattern": pattern}), model, evidence()).count(model)[
        0
    ]
    like = {"name": "regex", "pattern": pattern}
    for seed in range(4):
        shown = evidence(seed=seed)
        scope = scopes.build({"name": "random", "modules": "sublayers", "like": like})
        found = chosen_by(scope, model, shown)
        sizes = {part.name: Selection(part.rows).count(model)[0] for part in parts_of(model, "sublayers")}
        taken = [part["name"] for part in found.facts["parts"] if part["chosen"]]
        assert sum(sizes[name] for name in taken) == found.count(model)[0] >= budget
        last = min(taken, key=lambda name: scores(found)[name])
        assert found.count(model)[0] - sizes[last] < budget
    assert scope.model_dump()["like"] == like


def test_a_share_of_all_weights() -> None:
    model = tiny("llama", vocab_size=BYTES_VOCAB)
    total = sum(weight.numel() for weight in model.parameters())
    found = located(model, "random", modules="heads", share=0.05)
    chosen, _ = found.count(model)
    assert 0.05 * total <= chosen < 0.05 * total + 8 * 32 * 3


def test_chance_is_drawn_by_the_seed_of_the_run() -> None:
    model = tiny("llama", vocab_size=BYTES_VOCAB)
    scope = scopes.build({"name": "random", "modules": "heads", "count": 2})
    drawn = {tuple(chosen_by(scope, model, evidence(seed=seed)).rows) for seed in (0, 0, 1, 2)}
    assert 1 < len(drawn) <= 3


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"name": "random"}, "does not say how much"),
        ({"name": "causal_tracing"}, "does not say how much"),
        ({"name": "probe", "share": 0.1, "count": 2}, "share and count are two budgets"),
        ({"name": "probe", "modules": "heads"}, "modules"),
        ({"name": "path_patching", "modules": "attention"}, "modules"),
        ({"name": "random", "share": 1.5}, "share"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        scopes.build(settings)


def test_a_stage_that_shows_no_texts_is_told_so() -> None:
    scope = scopes.build("probe")
    assert isinstance(scope, Localiser)
    with pytest.raises(RecipeError, match="does not show it any"):
        scope.select(tiny("llama"), unused)


def test_only_the_probe_and_what_is_matched_to_it_need_a_retain_set() -> None:
    needing = {
        name: scopes.build({"name": name, **({} if name in ("probe", "path_patching") else {"count": 1})})
        for name in (*CONTRASTING, "probe", "random")
    }
    assert [name for name, scope in needing.items() if scope.needs_retain] == ["probe"]
    assert scopes.build({"name": "random", "like": "probe"}).needs_retain
    assert not scopes.build("all").needs_retain
