"""Chat templates that mean harm or make no sense, and conversations that are none: typed errors, and nothing else."""

from __future__ import annotations

import random

import pytest
from test_chat_templates import CHATML, LLAMA2, LLAMA3, LLAVA, PARTS, PLAIN
from test_tokenizers_folders import llama, ours

from omniform.core.errors import ConfigError, InputError


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory):
    return {"llama": (ours(llama(tmp_path_factory.mktemp("hostile") / "llama")), None)}


HOSTILE = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__code__ }}",
    "{{ dict.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__['sys'] }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ joiner.__init__ }}",
    "{{ (''|attr('__class__')).__mro__ }}",
    "{{ '{0.__class__}'.format('') | length // 0 }}",
    "{{ '{0.__class__}'.format_map({}) }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ namespace(**{'__class__': 1}) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'a': 1}) }}",
    "{{ messages.clear() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends 'x' %}",
    "{% from 'x' import y %}",
    "{% for i in range(10000000000) %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10000000000 }}",
    "{{ [0] * 10000000000 }}",
    "{{ 9 ** 999999999 }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ '%*d' % (999999999, 1) }}",
    "{{ 10000000000 * 'a' }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{{ 'many letters' * 999 }}{% endfor %}{% endfor %}",
    "{{ messages | map('__class__') | list }}",
    "{{ messages | map(attribute='__class__') | list | first | upper }}",
    "{{ 'x'.center(99999999999) }}",
    "{{ 'x' | center(99999999999) }}",
    "{{ '1' | indent(width=99999999999) }}",
    "{{ '%99999999999d' | format(1) }}",
    "{{ '{:>99999999999}'.format('x') }}",
    "{{ 'x'.zfill(99999999999) }}",
    "{% if %}",
    "{{ ",
    "{% endfor %}",
    "{% for x in %}",
    "{{ a b }}",
    "{% unknown %}",
    "{{ x | nofilter }}",
    "{{ x is notest }}",
    "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    "{{ " + "-" * 20000 + "1 }}",
    "{% if x %}" * 300,
    "{{ undefined_thing.attribute }}",
    "{{ 1 / 0 }}",
    "{{ messages[99].content }}",
    "{{ 'a' + 1 }}",
    "{{ none() }}",
    "{{ raise_exception('no') }}",
    "{{ [1][5].x }}",
    "{{ '\\ud800' | tojson(ensure_ascii=true, indent='x', separators=1) }}",
]


@pytest.mark.parametrize("template", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_templates(tokenizers, template: str) -> None:
    mine, _ = tokenizers["llama"]
    messages = [dict(message) for message in PLAIN]
    with pytest.raises((ConfigError, InputError)) as caught:
        mine.apply_chat_template(messages, chat_template=template, tokenize=False)
    assert str(caught.value)
    assert messages == PLAIN


def test_damaged_templates(tokenizers) -> None:
    """Whatever becomes of a template, a typed error comes of it, or a prompt."""
    mine, _ = tokenizers["llama"]
    chance = random.Random(0)
    failures = 0
    for template in (LLAMA2, LLAMA3, CHATML, LLAVA):
        for _ in range(60):
            start = chance.randrange(len(template))
            end = min(len(template), start + chance.randrange(1, 12))
            noise = "".join(chance.choice("{}%#'\"().|[]-+* \nabz019_") for _ in range(chance.randrange(6)))
            damaged = template[:start] + noise + template[end:]
            try:
                mine.apply_chat_template(PARTS if template is LLAVA else PLAIN, chat_template=damaged, tokenize=False)
            except (ConfigError, InputError):
                failures += 1
    assert failures > 50


@pytest.mark.parametrize(
    "conversation",
    [
        [],
        [[]],
        None,
        "hello",
        ["hello"],
        [1],
        [None],
        [[{"role": "user"}], []],
        [[{"role": "user", "content": "x"}], ["y"]],
        {"role": "user"},
    ],
)
def test_malformed_conversations(tokenizers, conversation) -> None:
    mine, _ = tokenizers["llama"]
    with pytest.raises(InputError):
        mine.apply_chat_template(conversation, chat_template=CHATML)


def test_malformed_tools(tokenizers) -> None:
    mine, _ = tokenizers["llama"]
    for options in ({"tools": ["x"]}, {"tools": [int]}, {"documents": ["x"]}, {"documents": "x"}, {"chat_template": 3}):
        with pytest.raises(InputError):
            mine.apply_chat_template(PLAIN, **{"chat_template": LLAMA3, **options})
