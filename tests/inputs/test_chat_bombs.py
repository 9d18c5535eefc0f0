"""Templates that mean to use up time or memory: each ends in a typed error or a small right answer, at once."""

from __future__ import annotations

import gc
import os
import resource
import time

import pytest

from omniform.core.errors import ConfigError, InputError, OmniformError
from omniform.inputs.text.template import compile_template, render

SECONDS, MEGABYTES = 2, 100

LOOP = "{% for i in range(40) %}"
DOUBLED = "{% set n = namespace(a=START, b=START) %}" + LOOP + "{% set n.a = STEP %}{% endfor %}{{ USE }}"
SHARED = (
    "{% set n = namespace(a=OPEN1CLOSE, b=OPEN1CLOSE) %}{% for i in range(60) %}"
    "{% set n.a = OPENn.a, n.aCLOSE %}{% set n.b = OPENn.b, n.bCLOSE %}{% endfor %}{{ USE }}"
)


def doubled(start: str, step: str, use: str = "n.a|length") -> str:
    return DOUBLED.replace("START", start).replace("STEP", step).replace("USE", use)


def shared(use: str, brackets: str = "[]") -> str:
    return SHARED.replace("USE", use).replace("OPEN", brackets[0]).replace("CLOSE", brackets[1])


LONG = "{% set a = 'a' * 1000000 %}"
HUGE = 9_999_999_999

BOMBS = [
    # doubling
    doubled("'x'", "n.a ~ n.a"), doubled("'x'", "n.a + n.a"), doubled("[1]", "n.a + n.a"), doubled("(1,)", "n.a * 2"),
    doubled("'x'", "[n.a, n.a]|join"), doubled("'x'", "n.a.replace('x', 'xx')"), doubled("'x'",
    "n.a|replace('x', n.a)"),
    doubled("'x'", "'%s%s' % (n.a, n.a)"), doubled("'x'", "'%s%s'|format(n.a, n.a)"), doubled("['x']",
    "[n.a|join]*2"),
    doubled("'x'", "'{0}{0}'.format(n.a)"), doubled("'<'|e", "n.a + n.a"), doubled("'x'", "n.a|e|e|e|e|string ~ '<'"),
    doubled("['<']", "[(n.a|string|tojson)]"), doubled("3", "n.a * n.a", "n.a > 1"), doubled("3", "n.a ** 2",
    "n.a > 1"),
    doubled("'x'", "(n.a ~ '-')|wordwrap(1, wrapstring=n.a)"), doubled("'x'", "n.a|indent(n.a, true)"),
    "{% set n = namespace(a='x') %}" + LOOP + "{% set x %}{{ n.a }}{{ n.a }}{% endset %}{% set n.a = x %}{% endfor %}",
    "{% macro d(x) %}{{ x }}{{ x }}{% endmacro %}{% set n = namespace(a='x') %}" + LOOP
    + "{% set n.a = d(n.a) %}{% endfor %}{{ n.a }}",
    # long and wide
    "{{ 'x'.center(HUGE) }}", "{{ 'x'|center(HUGE) }}", "{{ 'x'.ljust(HUGE) }}", "{{ '1'.zfill(HUGE) }}",
    "{{ '\t'.expandtabs(HUGE) }}", "{{ '{:HUGE}'.format(1) }}", "{{ '{:{w}}'.format('x', w=HUGE) }}",
    "{{ ('{:HUGE}'|attr('format'))(1) }}", "{{ '%HUGEd' % 1 }}", "{{ ('%' ~ HUGE ~ 'd') % 1 }}",
    "{{ '%*d' % (HUGE, 1) }}",
    "{{ '%.HUGEf'|format(1.5) }}", "{{ ('%HUGEd'|safe) % 1 }}", "{{ [1]|tojson(indent=HUGE) }}",
    "{{ ([1] * 9999)|tojson(indent='x' * 99999) }}", "{{ [1]|batch(HUGE, 'x')|list }}", "{{ [1]|slice(HUGE)|list }}",
    "{{ 'x'|indent(HUGE, true) }}", "{{ strftime_now('%HUGEd') }}", "{{ strftime_now('%c' * 99999) }}",
    "{{ [1] * HUGE }}", "{{ 'x' * HUGE }}", "{{ [[1] * 9999] * 9999 * 9999 }}", "{{ range(HUGE)|list }}",
    "{{ ('x' * 9999)|list|join('x' * 99999) }}", "{{ ('x' * 9999).replace('', 'y' * 99999) }}",
    "{{ ('%(a)s' * 20000) % {'a': 'x' * 10000} }}", "{{ ('{0}' * 5000).format('x' * 5000) }}",
    "{{ ([[1] * 9999] * 9999)|sum(start=[])|length }}", "{{ ([(1,) * 9999] * 9999)|sum(start=())|length }}",
    # numbers
    "{{ 9 ** 9 ** 9 ** 9 }}", "{{ 2 ** HUGE }}", "{{ 2 ** -HUGE }}", "{{ ('9' * 4000)|int ** 10 }}",
    "{{ 10 ** 4000 > 1 }}",
    "{{ ('f' * 400000)|int(base=16) > 1 }}", "{{ 1|round(-HUGE) }}", "{{ 1.5|round(HUGE, 'ceil') }}",
    "{{ 0x" + "f" * 9999 + " }}",
    "{{ ([2 ** 4000] * 99999)|sum > 1 }}", "{{ (-8) ** 0.5 }}", "{{ 2.0 ** HUGE }}",
    # work without size
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% macro f(n) %}{% if n %}{{ g(n - 1) }}{{ g(n - 1) }}{% endif %}{% endmacro %}"
    "{% macro g(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(60) }}",
    "{% macro d() %}{{ caller() }}{{ caller() }}{% endmacro %}" + "{% call d() %}" * 40 + "x" + "{% endcall %}" * 40,
    "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(9) %}{% endfor %}{% endfor %}{% endfor %}",
    "{% set l = 'x' * 9999 %}{% for a in l %}{% for b in l %}{% for c in l %}{% endfor %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}" + "{% set x = 1 %}" * 5000 + "{% endfor %}",
    "{% set r = range(99999) %}{% for i in r %}{{ 'x' in r }}{% endfor %}",
    "{{ range(99999)|select('in', range(99999))|list }}",
    "{% set l = [1] * 99999 %}{% for i in l %}{% set x = l[1:] %}{% endfor %}",
    "{{ [[1] * 99999] * 99|map('list')|list }}",
    "{% macro f() %}{% endmacro %}{% set l = [1] * 99999 %}{% for i in l %}{{ f(*l) }}{% endfor %}",
    "{% set l = [1] * 99999 %}{% for i in range(999) %}{{ loop.changed(l, [i] * 9999) }}{% endfor %}",
    LONG + "{{ a.rfind('b' ~ a) }}{{ a.rsplit('b' ~ a[:500000]) }}{{ a.rpartition('b' ~ a[:400000]) }}",
    LONG + "{{ a.find(a[:500000] ~ 'b') }}{{ a.count(a[:500000] ~ 'b') }}{{ (a[:500000] ~ 'b') in a }}",
    LONG + "{{ a.strip('b' * 500000 ~ 'a') }}", LONG + "{{ a|trim('b' * 500000 ~ 'a') }}", LONG + "{{ a|wordwrap(3) }}",
    "{{ ([LONG ~ 1, LONG ~ 2] * 5000)|sort }}".replace("LONG", "('x' * 300000)"),
    "{{ ([LONG ~ 1, LONG ~ 2] * 5000)|max }}".replace("LONG", "('x' * 300000)"),
    "{{ ([LONG ~ 1, LONG ~ 2] * 5000)|unique|list }}".replace("LONG", "('x' * 300000)"),
    "{% set n = namespace(a=[]) %}{% for i in range(9999) %}{% set n.a = n.a|map('upper') %}{% endfor %}{{ n.a|list }}",
    # parts that are shared, or hold themselves
    shared("n.a"), shared("n.a|string"), shared("n.a|tojson"), shared("n.a == n.b"), shared("n.a in [n.b]"),
    shared("n.a < n.b"),
    shared("{}[n.a]", "()"), shared("{n.a: 1}", "()"), shared("n.a in {}", "()"), shared("'%s' % n.a"),
    shared("'{}'.format(n.a)"),
    shared("[n.a]|unique|list", "()"), shared("dict([[n.a, 1]])", "()"), shared("[[n.a]]|sort"),
    shared("[n.a].index(n.b)"),
    "{% set n = namespace() %}{% set n.a = n %}{{ n }}",
    "{% set n = namespace() %}{% set n.a = [n] %}{{ n.a == [n] }}",
    "{% set n = namespace(a=1) %}{% for i in range(30000) %}{% set n.a = (n.a,) %}{% endfor %}{{ {}[n.a] }}",
    "{% set n = namespace(a=1) %}{% for i in range(30000) %}{% set n.a = [n.a] %}{% endfor %}{{ n.a|tojson }}",
    # before anything runs
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "{{ " + "not " * 5000 + "1 }}", "{{ " + "-" * 20000 + "1 }}",
    "{% for i in [1] %}" * 25 + "x" + "{% endfor %}" * 25, "{{ a" + ".a" * 40000 + " }}",
    "{{ 1" + " < 1" * 20000 + " }}",
    "x" * 1_000_000, "{{ 1 }}" * 100_000, "{{ " + "1," * 49000 + " }}", "{% set a = 1 %}" * 6000,
    "{{ 'x'|urlize }}", "{{ 'x'|striptags }}", "{{ {}|xmlattr }}", "{{ 'x'|pprint }}", "{{ 'x'.encode() }}",
    "{{ 'x'.translate({}) }}", "{% autoescape true %}{% endautoescape %}", "{% block a %}{% endblock %}",
]  # fmt: skip
BOMBS = [template.replace("HUGE", str(HUGE)) for template in BOMBS]


def attempt(template: str) -> str:
    """What becomes of a template, in the words of a report that is empty when all is well."""
    start = time.process_time()
    try:
        found = f"{len(render(template, {'messages': [{'role': 'user', 'content': 'hi'}]}))} characters"
    except OmniformError as error:
        found = str(error)
    spent = time.process_time() - start
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (
        "" if spent < SECONDS and size < attempt_limit and len(found) < 3000 else f"{spent:.1f} s, {size} KB: {found}"
    )


attempt_limit = 0


def test_bombs() -> None:
    """In a child, because what a bomb takes is never given back."""
    global attempt_limit
    render("{{ 1 }}", {})
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        gc.freeze()  # what the whole session has made is no bomb's, and walking over it copies its pages
        resource.setrlimit(resource.RLIMIT_CPU, (60, 61))
        attempt_limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + MEGABYTES * 1024
        for number, template in enumerate(BOMBS):
            try:
                said = attempt(template)
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(send, f"{number} {template[:200]!r}: {said[:200]}\n".encode() if said else b".\n")
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        lines = pipe.read().decode().splitlines()
    os.waitpid(child, 0)
    assert [line for line in lines if line != "."] == []
    assert len(lines) == len(BOMBS), f"the process died of {BOMBS[len(lines)][:200]!r}"


def test_errors_name_what_is_wrong() -> None:
    for template, error, said in (
        ("{{ 'x' * 999999999 }}", ConfigError, "budget"),
        ("{{ 'x'|urlize }}", ConfigError, "'urlize'"),
        ("{{ 'x'.encode() }}", ConfigError, "'encode'"),
        ("{{ 2 ** 99999 }}", ConfigError, "4096 bits"),
        ("{{ '%999999999d' % 1 }}", ConfigError, "wider"),
        ("{% block a %}{% endblock %}", ConfigError, "'block'"),
        ("x" * 200_000, ConfigError, "200000 characters"),
        ("{{ " + "1," * 49000 + " }}", ConfigError, "60000 tokens"),
        ("{{ " + "1," * 25000 + " }}", ConfigError, "20000 steps"),
        ("{{ messages|first }}{{ x.y }}", InputError, "'x' is undefined"),
    ):
        with pytest.raises(error, match=said):
            render(template, {"messages": [1]})


def test_limits_grow_with_the_messages() -> None:
    """A message of five megabytes is no bomb, and neither are thousands of messages."""
    template = (
        "{% set ns = namespace(last=0) %}{% for m in messages[::-1] %}{% if m.role == 'user' %}"
        "{% set ns.last = loop.index %}{% endif %}{% endfor %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% set content = m.content %}{% if '</think>' in content %}"
        "{% set content = content.split('</think>')[-1] %}{% endif %}"
        "{{ content.strip() | replace('\r', '') }}{{ m | tojson | length }}{% endfor %}"
    )
    for messages in (
        [{"role": "user", "content": "word </think> " * 350_000}],
        [{"role": "user", "content": f"message {number}"} for number in range(5000)],
    ):
        start = time.process_time()
        text = render(template, {"messages": messages})
        assert time.process_time() - start < 2
        assert text.count("<|im_start|>user\n") == len(messages)


def test_compiled_once() -> None:
    assert compile_template("{{ 'once' }}") is compile_template("{{ 'once' }}")
