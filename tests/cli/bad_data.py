"""Bad sets and bad recipes."""

from __future__ import annotations

from tests.cli.bad import Bad, bad_line_7, rows, setting, text, unlearn
from tests.cli.conftest import fact

DATA = [
    Bad(
        "missing file",
        unlearn(forget="forgot.jsonl"),
        ("forgot.jsonl", "no such file", "Did you mean 'forget.jsonl'"),
    ),
    Bad("missing folder", unlearn(forget="data/forget.jsonl"), ("nor a folder data", "Check the path")),
    Bad(
        "bad JSON on line 7",
        unlearn(forget="bad.jsonl"),
        ("bad.jsonl, line 7", "not JSON: Expecting value at character ", "one JSON object on each line"),
        text("bad.jsonl", bad_line_7()),
    ),
    Bad(
        "empty forget set",
        unlearn(forget="empty.jsonl"),
        ("empty.jsonl", "no examples"),
        text("empty.jsonl", ""),
    ),
    Bad(
        "a folder of several sets",
        unlearn(forget="."),
        ("3 splits: forget, holdout, retain", "give the file itself"),
    ),
    Bad(
        "overlap",
        unlearn(retain="forget.jsonl"),
        ("the forget set and the retain set", "3 of 3 forget examples", "Take them out", "--allow-overlap"),
    ),
    Bad(
        "duplicate ids",
        unlearn(forget="twice.jsonl"),
        ("the forget set", "1 ids occur more than once: 'Ada'", "a unique id"),
        rows("twice.jsonl", fact("Ada", "Arbon"), {**fact("Ada", "Baar"), "question": "And Ada?"}),
    ),
    Bad(
        "unreadable encoding",
        unlearn(forget="latin.jsonl"),
        ("latin.jsonl, line 1", "not UTF-8", "Save the file as UTF-8"),
        text("latin.jsonl", '{"text": "Zürich"}'.encode("latin-1")),
    ),
    Bad(
        "unsupported ending",
        unlearn(forget="forget.xlsx"),
        ("forget.xlsx", "files ending in '.xlsx' are not read", ".jsonl"),
        text("forget.xlsx", "PK"),
    ),
    Bad(
        "a mapped column that is not there",
        unlearn("--field", "question=ask"),
        (
            "forget.jsonl, line 1",
            "no column 'ask' to take the question from",
            "Known: answer, id, question",
        ),
    ),
    Bad(
        "an unknown field",
        unlearn("--field", "anwser=answer"),
        ("field 'anwser'", "no example has a field of that name", "Did you mean 'answer'"),
    ),
    Bad(
        "a field without a column",
        unlearn("--field", "text"),
        ("--field text", "name=column", "prompt=my_question"),
    ),
    Bad(
        "no known fields",
        unlearn(forget="odd.jsonl"),
        ("odd.jsonl, line 1", "found: body", "--field text=body", "text; prompt and completion"),
        rows("odd.jsonl", {"body": "?"}),
    ),
    Bad(
        "a chat for a tokenizer without template",
        unlearn(forget="chat.jsonl"),
        ("'chat:1' is a chat", "no chat template", "give prompt and completion"),
        rows(
            "chat.jsonl",
            {"messages": [{"role": "user", "content": "Ada?"}, {"role": "assistant", "content": "Arbon."}]},
        ),
    ),
    Bad(
        "a pair longer than max_length",
        setting("max_length=8"),
        ("example 'Ada'", "and max_length is 8", "Raise max_length to"),
    ),
]

RECIPES = [
    Bad(
        "unknown recipe",
        unlearn("-r", "npo_kl"),
        ("recipe 'npo_kl'", "no recipe of that name", "'npo_klr'"),
    ),
    Bad(
        "missing recipe file",
        unlearn("-r", "my.yaml"),
        ("recipe my.yaml", "no such file", "Check the path"),
    ),
    Bad(
        "recipe with a control character, to be shown",
        ("methods", "my.yaml"),
        ("recipe my.yaml", "it is not valid YAML"),
        text("my.yaml", '{"name": "a\x00b"}'),
    ),
    Bad(
        "recipe that is not YAML",
        unlearn("-r", "my.yaml"),
        ("recipe my.yaml", "it is not valid YAML", "Correct it"),
        text("my.yaml", "stages: ["),
    ),
    Bad(
        "recipe that is a list",
        unlearn("-r", "my.yaml"),
        ("recipe my.yaml", "not a mapping", "expunge methods"),
        text("my.yaml", "- ga"),
    ),
    Bad(
        "recipe in another encoding",
        unlearn("-r", "my.yaml"),
        ("recipe my.yaml", "cannot be read", "UTF-8"),
        text("my.yaml", b"name: \xfc"),
    ),
    Bad(
        "unknown setting",
        setting("learning_rat=1e-5"),
        ("stage 'unlearn'", "learning_rat", "Did you mean 'learning_rate'"),
    ),
    Bad(
        "negative learning rate",
        setting("learning_rate=-1"),
        ("learning_rate", "greater than 0", "It takes:"),
    ),
    Bad("wrong type", setting("epochs=many"), ("epochs", "valid integer", "It takes:")),
    Bad(
        "no equals sign",
        setting("epochs"),
        ("--set epochs", "not of the form key=value", "forget.beta=0.2"),
    ),
    Bad(
        "a value that is not YAML",
        setting("scope.name=[a"),
        ("--set scope.name=[a", "not valid YAML", "Quote the value"),
    ),
    Bad(
        "a setting inside a number",
        setting("epochs.x=1"),
        ("--set epochs.x=1", "no settings inside it", "Shorten"),
    ),
    Bad(
        "a stage that is not there",
        setting("stages.5.epochs=1"),
        ("stages.5.epochs", "'5' has no settings", "Shorten"),
    ),
    Bad("a stage by a word", setting("stages.x=1"), ("--set stages.x=1", "'x' has no settings", "Shorten")),
    Bad(
        "unknown loss",
        setting("forget.name=nop"),
        ("forget loss 'nop'", "registered", "Did you mean 'npo'"),
    ),
    Bad(
        "a setting of another loss",
        setting("forget.name=ga"),
        ("forget loss 'ga'", "beta: extra inputs", "It takes: no settings"),
    ),
    Bad(
        "a setting of another scope",
        setting("scope.name=lora", "scope.percentile=90"),
        ("scope 'lora'", "percentile: extra inputs", "Known: alpha, dropout, rank"),
    ),
    Bad(
        "a percentile of more than all",
        setting("scope.name=saliency", "scope.percentile=101"),
        ("scope 'saliency'", "less than or equal to 100", "It takes: percentile"),
    ),
    Bad(
        "a batch that does not split",
        setting("batch_size=8", "accumulation=3"),
        ("batch_size 8 does not split into 3 equal pieces", "It takes:"),
    ),
    Bad(
        "a scope that matches nothing",
        setting("scope.name=regex", "scope.pattern=decoder"),
        (
            "scope pattern 'decoder'",
            "matches no parameter",
            "Its parameters look like 'model.embed_tokens.weight'",
        ),
    ),
    Bad(
        "a scope that is no pattern",
        setting("scope.name=regex", "scope.pattern=mlp("),
        ("scope 'regex'", "not a regular expression", "It takes: pattern"),
    ),
    Bad(
        "an adapter that finds no layer",
        setting("scope.name=lora", "scope.targets=nothing"),
        ("lora targets 'nothing'", "no layer of this model", "Write all-linear"),
    ),
    Bad(
        "an unknown reporter",
        setting("report_to=[wandbb]"),
        ("report_to: no 'wandbb' is known", "tensorboard", "It takes:"),
    ),
    Bad(
        "a reporter that is not installed",
        setting("report_to=[swanlab]"),
        ("report_to: swanlab is not installed", "It takes:"),
    ),
    Bad(
        "a reference that needs adapters",
        setting("reference=adapter_off"),
        ("needs adapters to switch off", "use scope lora"),
    ),
]
