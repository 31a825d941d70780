"""Chat templates are programs of strangers: whatever they do, the answer is a refusal, and soon."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from expunge.corpus import templates
from expunge.corpus.templates import TemplateFault, render
from expunge.corpus.tokenise import encode
from expunge.errors import DataError
from expunge.types import Example

from . import tokenizers_for_tests as known

MESSAGES = [{"role": "user", "content": "a"}]
QUICK = 0.5


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    render("started", MESSAGES, {})  # so that what is timed is not the start of the process
    monkeypatch.setattr(templates, "SECONDS", QUICK)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ 1 + 'a' }}", "TypeError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{% for i in range(10**12) %}x{% endfor %}", "OverflowError"),
        ("{{ messages[0]['content'].nothing.more }}", "no attribute"),
        ("{% if %}", "Expected an expression"),
        ("{{ raise_exception('no, not this') }}", "no, not this"),
        ("{{ ''.__class__.__mro__ }}", "__class__"),
        ("{% for i in range(1000) %}{{ 'x' * 10000 }}{% endfor %}", "more than 1,000,016 characters"),
    ],
)
def test_whatever_a_template_raises_is_its_refusal(template: str, why: str) -> None:
    with pytest.raises(TemplateFault, match=why):
        render(template, MESSAGES, {})
    assert render("{{ messages[0].content }}", MESSAGES, {}) == "a"  # the next one is not the worse for it


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{{ 7 ** (10 ** 9) }}",
    ],
)
def test_a_template_without_end_is_ended(template: str) -> None:
    start = time.perf_counter()
    with pytest.raises(TemplateFault, match="longer than"):
        render(template, MESSAGES, {})
    assert time.perf_counter() - start < QUICK + 5
    assert render("on", MESSAGES, {}) == "on"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded where the system can")
def test_a_template_that_wants_all_memory_gets_none() -> None:
    with pytest.raises(TemplateFault, match="MiB of memory"):
        render("{{ 'x' * 10 ** 11 }}", MESSAGES, {})


def test_an_error_is_shown_on_one_short_line() -> None:
    with pytest.raises(TemplateFault) as caught:
        render("{{ raise_exception('\x1b[2J\n' ~ 'long ' * 1000) }}", MESSAGES, {})
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_chat_whose_template_fails_is_refused_by_name() -> None:
    tokenizer = known.chatml()
    saved = tokenizer.chat_template
    example = Example(id="c", is_chat=True, prompt="who", completion="Ada")
    try:
        tokenizer.chat_template = "{{ 1 // 0 }}"
        with pytest.raises(
            DataError, match=r"'c'.*cannot write it: ZeroDivisionError.*chat_template.jinja"
        ):
            encode(example, tokenizer, max_length=64)
    finally:
        tokenizer.chat_template = saved


def test_the_process_that_renders_ends_with_its_parent() -> None:
    code = (
        "from expunge.corpus import templates as t; t.render('x', [], {});"
        "print(next(iter(t._WORKERS.values()))._process.pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    with pytest.raises(ProcessLookupError):
        _signal(int(done.stdout))


def _signal(process: int) -> None:
    import os

    os.kill(process, 0)
