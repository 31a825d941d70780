from __future__ import annotations

import gc
import json
import threading
from pathlib import Path

import pytest
import torch

from expunge.audit.run.plan import Role
from expunge.errors import DataError, ModelError
from expunge.inference.observer import Observer
from expunge.inspector.generate import TruthTokens, formed, read_prompt, read_truth
from expunge.inspector.items import erased
from expunge.inspector.logit_lens import read_layers
from expunge.inspector.models import ModelPool, open_registry
from expunge.inspector.service import GeneratedAnswer, Inquiry, InspectorService, ModelRef, streamed
from expunge.model.load import load_model, load_tokenizer
from expunge.quant import parse_quantizer
from expunge.quant.buckets import diagnose
from tests.inspector.conftest import save
from tests.report.made import prompt_of, truth_of
from tests.tiny import ARCHITECTURES, tiny, tiny_tokenizer

GIB = 2**30


@pytest.fixture
def service(audit: Path) -> InspectorService:
    return InspectorService(open_registry([audit]), ModelPool(GIB), max_tokens=8)


def last(service: InspectorService, prompt: str, *asked: ModelRef) -> list[GeneratedAnswer]:
    return list(service.answers(Inquiry(prompt), asked))[-1]


def expected(path: Path, prompt: str, precision: str) -> str:
    model, tokenizer = load_model(path), load_tokenizer(path)
    if precision == "full":
        return Observer(model, tokenizer, max_length=256).greedy([prompt], max_new_tokens=8)[0]
    with parse_quantizer(precision).applied(model):
        return Observer(model, tokenizer, max_length=256).greedy([prompt], max_new_tokens=8)[0]


@pytest.mark.parametrize("precision", ["full", "int3", "int4"])
def test_answers_are_those_of_the_observer(service: InspectorService, precision: str) -> None:
    path = service.registry.find("fragile").path
    (said,) = last(service, "who is there", ModelRef("fragile", precision))
    assert said.text == expected(path, "who is there", precision)
    assert said.over


def test_answers_grow_token_by_token(service: InspectorService) -> None:
    rows = list(service.answers(Inquiry("who"), [ModelRef("target"), ModelRef("fragile")]))
    assert len({row[0].text for row in rows}) > 2
    assert not rows[0][1].text  # one model after the other


def test_two_browsers_do_not_mix(service: InspectorService) -> None:
    precisions = ["full", "int3", "int4", "int8"]
    alone = {each: expected(service.registry.find("fragile").path, "the cat", each) for each in precisions}
    assert len(set(alone.values())) > 1
    found: dict[int, list[GeneratedAnswer]] = {}

    def ask(number: int) -> None:
        found[number] = last(service, "the cat", ModelRef("fragile", precisions[number % 4]))

    browsers = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for each in browsers:
        each.start()
    for each in browsers:
        each.join()
    assert [found[n][0].text for n in range(8)] == [alone[precisions[n % 4]] for n in range(8)]


def test_a_path_is_no_name(service: InspectorService, audit: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "secret", seed=5)
    for name in (str(other), "../secret", str(audit), ""):
        (said,) = last(service, "hello", ModelRef(name))
        assert "not named on the command line" in said.note
        assert not said.text
    assert service.pool.held == []


def test_an_epoch_that_was_not_kept_is_refused(service: InspectorService) -> None:
    (said,) = last(service, "hello", ModelRef("fragile", epoch=3))
    assert "it was not kept" in said.note


def test_kept_epochs_are_opened(tmp_path: Path) -> None:
    run = save(tmp_path / "run", seed=0)
    save(run / "epoch-2", seed=7)
    registry = open_registry([run])
    (model,) = registry.models
    assert sorted(model.epochs) == [2]
    service = InspectorService(registry, ModelPool(GIB), max_tokens=8)
    (said,) = last(service, "hello", ModelRef("run", epoch=2))
    assert said.text == expected(run / "epoch-2", "hello", "full")


def test_one_model_that_fails_leaves_the_others(service: InspectorService) -> None:
    bad, good = last(service, "hello", ModelRef("target", "int99"), ModelRef("target"))
    assert "int99" in bad.note or "bits" in bad.note
    assert good.text


def test_too_little_memory_is_told(service: InspectorService, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: Path) -> None:
        raise torch.OutOfMemoryError("no room for 7 GiB")

    monkeypatch.setattr(service.pool, "load", load)
    (said,) = last(service, "hello", ModelRef("target"))
    assert "no room for 7 GiB" in said.note
    assert "--budget" in said.note


def test_the_least_recently_used_is_let_go(audit: Path) -> None:
    registry = open_registry([audit])
    target, retrained, fragile = (model.path for model in registry.models)
    pool = ModelPool(GIB)
    with pool.borrow(target) as lent:
        size = lent.bytes
    pool = ModelPool(int(size * 2.5))
    for path in (target, retrained, target, fragile):
        with pool.borrow(path):
            assert pool.used <= pool.budget
    assert pool.held == [target, fragile]
    with pool.borrow(target, "int4"):  # a view counts as much again
        assert pool.held == [target]
        assert pool.used == 2 * size


def test_what_does_not_fit_is_refused(audit: Path) -> None:
    (path, *_) = (model.path for model in open_registry([audit]).models)
    with pytest.raises(ModelError, match="--budget"), ModelPool(1000).borrow(path):
        pass


def test_a_view_leaves_no_trace(service: InspectorService) -> None:
    path = service.registry.find("target").path
    with service.pool.borrow(path) as lent:
        before = {name: each.clone() for name, each in lent.model.named_parameters()}
    last(service, "hello", ModelRef("target", "int3"))
    with service.pool.borrow(path) as lent:
        assert all(torch.equal(each, before[name]) for name, each in lent.model.named_parameters())


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_the_last_layer_is_the_model_itself(arch: str) -> None:
    model = tiny(arch)
    truth = TruthTokens([1, 5, 9, 22, 40, 7], 3)
    reading = read_layers(model, truth)
    with torch.no_grad():
        p_TV = model(input_ids=torch.tensor([truth.ids])).logits[0].float().softmax(-1)
    own = [float(p_TV[place - 1, truth.ids[place]]) for place in range(3, 6)]
    assert [seen.probability for seen in reading.strip] == pytest.approx(own, abs=1e-5)
    ranks = [int((p_TV[place - 1] > p_TV[place - 1, truth.ids[place]]).sum()) + 1 for place in range(3, 6)]
    assert [seen.rank for seen in reading.strip] == ranks


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_a_layer_is_what_a_model_that_ends_there_says(arch: str) -> None:
    deep, short = tiny(arch), tiny(arch)
    truth = TruthTokens([1, 5, 9, 22, 40, 7], 3)
    backbone = short.base_model
    blocks = next(each for each in backbone.modules() if isinstance(each, torch.nn.ModuleList))
    del blocks[1]
    short.config.num_hidden_layers = 1
    backbone.config.num_hidden_layers = 1
    first = read_layers(deep, truth).layers[0]
    with torch.no_grad():
        p_TV = short(input_ids=torch.tensor([truth.ids]), use_cache=False).logits[0].float().softmax(-1)
    own = [float(p_TV[place - 1, truth.ids[place]]) for place in range(3, 6)]
    assert [seen.probability for seen in first] == pytest.approx(own, abs=1e-5)


def test_long_prompts_are_cut_and_say_so(service: InspectorService) -> None:
    (said,) = last(service, "word " * 20_000, ModelRef("target"))
    assert said.text
    assert "tokens of the prompt were left out" in said.note
    tokenizer = tiny_tokenizer(all_bytes=True)
    cut = read_prompt(formed("abcdefgh", "written"), tokenizer, room=4)
    assert cut.ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(cut.ids[1:]) == "fgh"
    assert cut.dropped == 5


def test_a_truth_keeps_its_tokens_when_the_prompt_is_cut() -> None:
    tokenizer = tiny_tokenizer(all_bytes=True)
    read = read_truth(formed("x" * 500, "written", " cat"), tokenizer, room=20)
    assert len(read.ids) <= 20
    assert tokenizer.decode(read.ids[read.begins :]) == " cat"


def test_items_come_by_how_much_came_back(service: InspectorService) -> None:
    assert service.items
    rises = [item.rise for item in service.items]
    assert rises == sorted(rises, reverse=True)
    top = service.items[0]
    assert (top.model, top.precision, top.full, top.rise) == ("fragile", "int4", 0.0, 100.0)
    assert service.truth_of(prompt_of(1)) == truth_of(1)
    assert service.truth_of("something else") is None


def test_a_truth_is_read_token_by_token(service: InspectorService) -> None:
    (said,) = list(service.answers(Inquiry("the cat", " is in"), [ModelRef("target", "int4")]))[-1]
    assert said.look is not None
    assert "".join(said.look.tokens) == " is in"
    assert len(said.look.reading.layers) == len(said.look.best) == 2
    path = service.registry.find("target").path
    model, tokenizer = load_model(path), load_tokenizer(path)
    with parse_quantizer("int4").applied(model):
        assert said.look.reading == read_layers(
            model, read_truth(formed("the cat", "written", " is in"), tokenizer, room=64)
        )


def test_what_the_audit_used_can_be_chosen(service: InspectorService) -> None:
    assert service.precisions[0] == "full"
    assert {"int8", "int4", "int3", "nf4", "fp4"} <= set(service.precisions)


def test_a_shelf_knows_roles(service: InspectorService) -> None:
    assert [model.name for model in service.registry.of(Role.UNLEARNED)] == ["fragile"]


def test_a_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        open_registry([tmp_path])


def test_an_audit_whose_models_are_gone_is_refused(audit: Path, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_bytes((audit / "summary.json").read_bytes())
    with pytest.raises(DataError, match="nothing to inspect"):
        open_registry([tmp_path])


def test_no_diagnostics_no_weights(audit: Path) -> None:
    assert erased([audit], "fragile", "nothing") == []


def test_what_no_audit_looked_at_is_read_from_the_weights(service: InspectorService) -> None:
    target, fragile = (load_model(service.registry.find(name).path) for name in ("target", "fragile"))
    report = diagnose(target, fragile, parse_quantizer("int3"))
    wanted = [(each.name, each.weights, each.changed, each.erased) for each in report.tensors]
    assert [tuple(each) for each in service.erased(ModelRef("fragile", "int3"))] == wanted
    assert sum(each.share for each in service.erased(ModelRef("fragile", "int3"))) > 0


def test_tensors_of_an_audit_are_not_read_again(
    service: InspectorService, audit: Path, tmp_path: Path
) -> None:
    summary = json.loads((audit / "summary.json").read_text())
    tensor = {"name": "a", "weights": 9, "changed": 4, "erased": 3}
    summary["diagnostics"][0]["content"]["tensors"] = [tensor]
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (found,) = erased([tmp_path], "fragile", "int4")
    assert (tuple(found), found.share) == (("a", 9, 4, 3), 0.75)


def test_without_a_target_nothing_is_compared(tmp_path: Path) -> None:
    service = InspectorService(open_registry([save(tmp_path / "alone", seed=0)]), ModelPool(GIB))
    with pytest.raises(ModelError, match="requires its target"):
        service.erased(ModelRef("alone", "int4"))


def test_who_leaves_stops_the_work() -> None:
    ended = threading.Event()

    def work(tell: object, stopped: object) -> None:
        assert callable(tell)
        assert callable(stopped)
        while not stopped():
            tell(1)
        ended.set()

    news = streamed(work)
    assert next(iter(news)) == 1
    del news
    gc.collect()
    assert ended.wait(5)


def test_what_the_work_raises_is_raised_to_the_listener() -> None:
    def work(tell: object, stopped: object) -> None:
        raise DataError("no", why="no", fix="no")

    with pytest.raises(DataError):
        list(streamed(work))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "[" * 5000 + "]" * 5000,
        '{"models": 7}',
        '{"models": [{"name": "a"}]}',
        '{"models": [{"name": "a", "role": "owner", "path": "x"}]}',
        '{"models": [{"name": [], "role": "target", "path": {}}]}',
    ],
)
def test_sources_that_no_audit_writes_are_refused(content: str, audit: Path, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_bytes((audit / "summary.json").read_bytes())
    (tmp_path / "sources.json").write_text(content)
    with pytest.raises(DataError, match=r"sources\.json"):
        open_registry([tmp_path])


def test_the_forms_of_a_prompt() -> None:
    assert formed("Who?", "written").prompt == "Who?"
    assert formed(" Who? ", "question").prompt == "Question: Who?\nAnswer: "
    asked = "Question: Who?\nAnswer:"
    assert formed(asked, "question").prompt == asked  # an item of the audit is in that form already
    assert formed("", "question").prompt == ""
    chat = formed("Who?", "chat", "Ada")
    assert (chat.prompt, chat.completion, chat.is_chat) == ("Who?", "Ada", True)


def test_sampled_answers_are_the_same_again_and_those_of_the_same_prompt(service: InspectorService) -> None:
    first, second = (
        list(service.answers(Inquiry("who", samples=5), [ModelRef("fragile")]))[-1][0] for _ in range(2)
    )
    assert first.drawn == second.drawn
    assert len(set(first.drawn)) > 1
    assert first.text == last(service, "who", ModelRef("fragile"))[0].text
