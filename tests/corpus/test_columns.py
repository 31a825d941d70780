from __future__ import annotations

from typing import Any

import pytest

from expunge.corpus.columns import QUESTION, Columns, reading
from expunge.corpus.rows import DataRow
from expunge.errors import DataError
from expunge.types import Example, Span, Turn

WHERE = "forget.jsonl, line 7"
ASK = {"role": "user", "content": "Where?"}
REPLY = {"role": "assistant", "content": "Paris"}


def read(values: object, **fields: str) -> Example:
    return Columns(fields).example(DataRow(WHERE, "forget:7", values))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"text": "a b"}, Example(id="forget:7", completion="a b")),
        ({"prompt": "p ", "completion": "c"}, Example(id="forget:7", prompt="p ", completion="c")),
        ({"prompt": "", "completion": "c"}, Example(id="forget:7", completion="c")),
        (
            {"question": "Who {x}?", "answer": "Ada"},
            Example(id="forget:7", prompt="Question: Who {x}?\nAnswer: ", completion="Ada"),
        ),
        (
            {"messages": [{"role": "system", "content": "s"}, ASK, REPLY]},
            Example(
                id="forget:7",
                is_chat=True,
                turns=(Turn("system", "s"),),
                prompt="Where?",
                completion="Paris",
            ),
        ),
        ({"prompt": "p", "response": "c"}, Example(id="forget:7", prompt="p", completion="c")),
        (
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            Example(id="forget:7", prompt="Question: Add.\n1 2\nAnswer: ", completion="3"),
        ),
        (
            {"instruction": "Say hi.", "input": "", "output": "hi"},
            Example(id="forget:7", prompt="Question: Say hi.\nAnswer: ", completion="hi"),
        ),
        (
            {"conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Paris"}]},
            Example(id="forget:7", is_chat=True, prompt="Where?", completion="Paris"),
        ),
        (
            {"conversations": [ASK, REPLY]},
            Example(id="forget:7", is_chat=True, prompt="Where?", completion="Paris"),
        ),
        (
            {
                "question": "Who?",
                "answer": "Ada",
                "paraphrased_answer": "It is Ada",
                "perturbed_answer": ["Eve", "Bob"],
            },
            Example(
                id="forget:7",
                prompt="Question: Who?\nAnswer: ",
                completion="Ada",
                wrong=("Eve", "Bob"),
                paraphrase="It is Ada",
            ),
        ),
        # A column of the field's own name goes before its other name.
        (
            {"prompt": "p", "completion": "c", "response": "r"},
            Example(id="forget:7", prompt="p", completion="c"),
        ),
        ({"messages": [REPLY]}, Example(id="forget:7", is_chat=True, completion="Paris")),
        (
            {"messages": [ASK, REPLY, REPLY]},
            Example(
                id="forget:7",
                is_chat=True,
                turns=(Turn("user", "Where?"), Turn("assistant", "Paris")),
                completion="Paris",
            ),
        ),
        (
            {"text": "a b", "id": 3, "person": "Ada", "spans": [[0, 1], [2, 3]], "other": [1]},
            Example(id="3", completion="a b", group="Ada", spans=(Span(0, 1), Span(2, 3))),
        ),
        (
            {"text": "a b", "spans": "[[0, 1]]"},
            Example(id="forget:7", completion="a b", spans=(Span(0, 1),)),
        ),
        ({"text": "a b", "spans": "", "group": None}, Example(id="forget:7", completion="a b")),
        # A table with columns for two kinds of row leaves one of them empty.
        (
            {"text": None, "prompt": "p", "completion": "c"},
            Example(id="forget:7", prompt="p", completion="c"),
        ),
    ],
)
def test_the_known_fields(values: object, expected: Example) -> None:
    assert read(values) == expected


@pytest.mark.parametrize("column", ["group", "person", "author", "document"])
def test_a_group_goes_by_several_names(column: str) -> None:
    assert read({"text": "a", column: 12}).group == "12"


def test_the_place_of_the_right_answer_follows_which_option_is_right() -> None:
    # In alphabetical order "No" is option 0 and "Yes" option 1, whichever of the two is right.
    ask = {"question": "Is it?"}
    yes, no = (
        read({**ask, "answer": right, "wrong": [other]}) for right, other in [("Yes", "No"), ("No", "Yes")]
    )
    assert (yes.correct_index, no.correct_index) == (1, 0)
    assert yes.choices == no.choices == ("No", "Yes")
    assert read({**ask, "answer": "Yes", "wrong": ["No"], "place": 0}).choices == ("Yes", "No")
    assert read({**ask, "answer": "Yes"}).correct_index == 0


def test_columns_of_other_names() -> None:
    assert read({"prompt": "p", "gt": "c"}, completion="gt").completion == "c"
    row = {"body": "b", "uid": "u", "owner": "o", "person": "not this one"}
    assert read(row, text="body", id="uid", group="owner") == Example(id="u", completion="b", group="o")
    assert read({"text": "t", "owner": None, "person": "P"}, group="owner").group is None
    assert read({"text": "t", "prompt": "p", "completion": "c"}, text="text").completion == "t"


def test_a_template_may_use_other_columns() -> None:
    columns = Columns({}, "{context}\nQ: {question} {{sic}}\nA:")
    row = DataRow(WHERE, "x", {"question": "Who?", "answer": "Ada", "context": "C"})
    assert columns.example(row).prompt == "C\nQ: Who? {sic}\nA:"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (7, "the row is a number"),
        (["a"], "the row is a list"),
        (None, "the row is null"),
        ({"text": ""}, "'text' is empty"),
        ({"text": " \n"}, "'text' is empty"),
        ({"text": None}, "'text' is empty"),
        ({"text": 3}, "'text' is a number, not text"),
        ({"text": {"a": 1}}, "'text' is an object, not text"),
        ({"text": "\ud800"}, "half a character"),
        ({"text": "\u200b\ufeff "}, "'text' holds nothing but characters that cannot be seen"),
        ({"text": "a\0b"}, r"'text' holds a NUL \(\\u0000\) at position 1"),
        ({"prompt": "\0", "completion": "c"}, "'prompt' holds a NUL"),
        ({"text": "a", "id": "x\0"}, "'id' holds a NUL"),
        ({"text": "abcdef", "spans": [[1, 4], [0, 3]]}, r"spans \[0, 3\] and \[1, 4\] overlap"),
        ({"text": "a", "spans": "[" * 50_000}, r"'spans' is text, not \[\[start, end\].*nested"),
        ({"question": "q", "answer": "a", "wrong": "[" * 50_000}, "'wrong' is text, not .*nested"),
        ({"question": "q", "answer": "a", "wrong": ["x"], "place": "\u00b2"}, "'place' is text"),
        ({"question": "q", "answer": "a", "wrong": ["x"], "place": "9" * 5000}, "'place' is text"),
        ({"prompt": "p", "completion": ""}, "'completion' is empty"),
        ({"prompt": "p"}, "none of the understood sets of fields is there; found: prompt"),
        ({"b": "b", "n": 1}, r"found: b, n\. Understood: text; prompt and completion.*with fields"),
        ({"body": "b", "n": 1}, r"found: body, n\. Understood: text; .*: --field text=body$"),
        ({"prompt": "p", "output": "c"}, r"--field completion=output$"),
        ({"query": "q", "response": "c"}, r"--field question=query --field answer=response$"),
        ({"instruction": "q", "response": "c"}, r"--field question=instruction --field answer=response$"),
        (
            {"text": "t", "instruction": "i", "output": "o"},
            r"as instruction and output, or as text.*answer=output\)",
        ),
        ({}, "found: nothing"),
        ({"text": "t", "question": "q", "answer": "a"}, "could be read as question and answer, or as text"),
        ({"text": "t", "id": True}, "'id' is true or false"),
        ({"text": "t", "group": 1.5}, "'group' is a number, not text or a whole number"),
        ({"text": "t", "spans": [[0, 2]]}, r"span \[0, 2\] is not in its completion of 1 char"),
        ({"text": "t", "spans": [[0]]}, r"'spans' is a list, not \[\[start, end\]"),
        ({"text": "t", "spans": [[0, True]]}, "'spans' is"),
        ({"text": "t", "spans": 1}, "'spans' is a number"),
        ({"text": "t", "spans": "0-1"}, "'spans' is text"),
        ({"messages": "hi"}, "messages are text, not a list"),
        ({"messages": []}, "last message is missing"),
        ({"messages": [ASK]}, "last message is by the user"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "message 1: it has no role of system"),
        ({"messages": [ASK, "hello"]}, "message 2: it has no role"),
        ({"messages": [ASK, {"role": "assistant", "content": [1]}]}, "message 2: its content is a list"),
        ({"messages": [ASK, {"role": "assistant", "content": " "}]}, "message 2: its 'content' is empty"),
    ],
)
def test_a_bad_row_is_named_with_its_line(values: Any, said: str) -> None:
    with pytest.raises(DataError, match=rf"^forget\.jsonl, line 7.*{said}"):
        read(values)


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(
        DataError,
        match=r"line 7: there is no column 'boddy' to take the text from; found: body, id.*'body'",
    ):
        read({"body": "b", "id": 1}, text="boddy")


def test_a_field_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DataError, match=r"field 'txt'.*Did you mean 'text'"):
        Columns({"txt": "body"})


@pytest.mark.parametrize(
    ("template", "said"),
    [("Question:", "no place for the question"), ("{question", "malformed"), ("{}", "no place")],
)
def test_a_template_without_the_question_is_refused(template: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Columns({}, template)


def test_a_template_s_other_column_must_be_there() -> None:
    columns = Columns({}, "{context}{question}")
    with pytest.raises(DataError, match="line 7: its 'context' is empty"):
        columns.example(DataRow(WHERE, "x", {"question": "q", "answer": "a"}))


def test_how_texts_are_read_is_told() -> None:
    assert reading() == {"question_template": QUESTION, "chat_template_date": "2024-07-26"}
    assert reading({"template": "{question}?"})["question_template"] == "{question}?"
