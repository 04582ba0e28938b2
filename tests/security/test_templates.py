"""Chat templates are code that comes with a model: they reach nothing, and take little time and memory."""

from __future__ import annotations

import resource
import time
from typing import Any

import pytest

from tests.support import tiny
from trainer.common.errors import UserError
from trainer.config.schema import DataConfig
from trainer.data.masking import chat_templates
from trainer.data.masking.chat_templates import choose
from trainer.data.masking.loss_mask import LossMasker
from trainer.data.rows.messages import BadRow

EXAMPLE: Any = {"messages": [{"role": "user", "content": "{{ 7*7 }}"}, {"role": "assistant", "content": "b"}]}
TWICE = "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}"


def masker(template: str) -> LossMasker:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template or tokenizer.chat_template
    return LossMasker(choose(DataConfig(), tokenizer, {}), DataConfig())


def test_a_template_is_rendered_in_the_sandbox() -> None:
    assert "{{ 7*7 }}" in masker("").one(EXAMPLE).text
    with pytest.raises(BadRow, match="refuses"):
        masker("{{ messages.__class__.__mro__[1].__subclasses__() }}").one(EXAMPLE)


HOSTILE = {
    "nested loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "0.5 s"),
    "a long loop in a filter": ("{{ lipsum(n=10**7)|length }}", "0.5 s"),
    "a huge number": ("{% set n = messages|length + 1 %}{{ (n**(10**8)) % 7 }}", "0.5 s"),
    "a padded text": ("{{ 'x'.center(3000000000) }}", "of memory"),
    "a padded number": ("{{ '%3000000000d' % 1 }}", "of memory"),
    "a formatted number": ("{{ '{:3000000000}'.format(1) }}", "of memory"),
    "a repeated text": ("{{ ('a' * 10**10)|length }}", "of memory"),
    "a repeated list": ("{{ ([0] * 10**9)|length }}", "of memory"),
    "a replacement": ("{{ ('a' * 10**7).replace('a', 'b' * 10**4)|length }}", "of memory"),
    "tabs": ("{{ ('\t' * 10**6).expandtabs(10**6)|length }}", "of memory"),
    "batches": ("{{ range(99999)|batch(10**9, 'x')|list|length }}", "of memory"),
    "doubled again and again": (TWICE + "{{ ns.a|tojson }}", "0.5 s"),
    "a long text": ("{% for a in range(99999) %}{{ 'x' * 50 }}{% endfor %}", "a text of 4,999,950 characters"),
    "no end": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    "too deep for the parser": ("{{" + "(" * 5000 + "1" + ")" * 5000 + "}}", "recursion"),
    "too deep for Python": ("{% for a in messages %}" * 25 + "{% endfor %}" * 25, "too many statically nested"),
    "not a template": ("{% if %}", "Expected an expression"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_that_takes_too_much_is_refused_in_a_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template, reason = HOSTILE[name]
    monkeypatch.setattr(chat_templates, "RENDER_SECONDS", 0.5)
    monkeypatch.setattr(chat_templates, "RENDER_BYTES", 2**27)
    limits, started, peak = resource.getrlimit(resource.RLIMIT_AS), time.process_time(), _peak()
    with pytest.raises(UserError, match=reason) as caught:
        masker(template).all([EXAMPLE] * 3)
    assert caught.value.problem.startswith("The chat template of the model ")
    assert caught.value.cause == "model"
    assert time.process_time() - started < 10
    assert _peak() - peak < 2**28
    assert resource.getrlimit(resource.RLIMIT_AS) == limits


@pytest.mark.parametrize(("template", "error"), [("{{ 1 / 0 }}", "ZeroDivision"), ("{{ range(10**6) }}", "Overflow")])
def test_whatever_a_template_raises_is_the_reason_of_the_row(template: str, error: str) -> None:
    with pytest.raises(BadRow, match=error):
        masker(template).one(EXAMPLE)


def _peak() -> int:
    """Bytes that this process ever held at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
