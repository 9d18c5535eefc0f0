"""Chat templates against the reference: the prompts, the ids and the masks of every usual kind of template."""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Optional, Union

import pytest
import torch
from test_tokenizers_folders import gpt2, llama, llama3, llava, ours, reference

from omniform.core.errors import ConfigError, InputError, OmniformError

LLAMA2 = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system = none %}
    {%- set rest = messages %}
{%- endif %}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('user and assistant must take turns') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' }}
        {%- if loop.first and system %}{{- '<<SYS>>\\n' ~ system ~ '\\n<</SYS>>\\n\\n' }}{% endif %}
        {{- message['content'].strip() + ' [/INST]' }}
    {%- else %}
        {%- generation %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{%- endgeneration %}
    {%- endif %}
{%- endfor %}
"""

LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}
{%- set ns = namespace(tools_said=false, count=0) %}
{%- macro header(role) %}<|start_header_id|>{{ role }}<|end_header_id|>

{% endmacro %}
{%- for message in messages %}
    {%- set ns.count = ns.count + 1 %}
    {{- header(message.role) }}
    {%- if message.role == 'system' %}{{ 'Today: ' + date_string + '\\n' }}{% endif %}
    {%- if tools is not none and message.role == 'user' and not ns.tools_said %}
        {%- set ns.tools_said = true %}
        {%- for tool in tools %}
            {{- tool | tojson(indent=4) }}
            {{- '\\n\\n' }}
        {%- endfor %}
    {%- endif %}
    {%- if message.tool_calls is defined %}
        {%- if message.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {%- generation %}{{ '{"name": "' ~ call.name ~ '", ' }}"arguments": {{ call.arguments | tojson }}}
        {%- endgeneration %}
    {%- elif message.role == 'assistant' %}
        {%- generation %}{{ message.content | trim }}<|eot_id|>{% endgeneration %}
        {%- continue %}
    {%- elif message.content is string %}
        {{- message.content | trim }}
    {%- elif message.content is mapping or message.content is iterable %}
        {{- message.content | tojson }}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- for document in documents or [] %}
    {{- '\\n' ~ loop.index ~ '. ' ~ document.title ~ ': ' ~ document['text'] }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- header('assistant') }}
{%- endif %}
"""

CHATML = """\
{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}
<|im_start|>system
You help.<|im_end|>
{% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}
{% if message.thinking is defined %}
<think>{{ message.thinking }}|{{ message.reasoning_content }}</think>
{% endif %}
{% if loop.index > 20 %}{% break %}{% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think></think>
{% endif %}
{% endif %}
"""

LLAVA = """\
{% for message in messages %}{{ message['role'].upper() + ': ' }}\
{# the pictures come first #}\
{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}\
{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}\
{% if message['role'] == 'assistant' %}{% generation %}{{ part['text'] + ' ' }}{% endgeneration %}\
{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}\
{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""

PLAIN = [
    {"role": "system", "content": '  Be <b>kind</b> & "short".  '},
    {"role": "user", "content": "Hello world, 日本 & <s> </s> ünï?\n\n"},
    {"role": "assistant", "content": " The quick brown fox. ", "name": None},
    {"role": "user", "content": "And 'then'?"},
]
ANSWERED = [*PLAIN, {"role": "assistant", "content": "It jumps over the lazy dog. "}]
PARTS = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}, {"type": "image"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "a dog"}]},
    {"role": "user", "content": [{"type": "text", "text": "and that?"}]},
]


class Unit(Enum):
    METRIC = "metric"
    IMPERIAL = "imperial"


def weather(city: str, days: int = 3, unit: Literal["c", "f"] = "c") -> str:
    """
    Say what the weather will be.

    It asks a station.

    Args:
        city: The city, for instance
            "Paris, France".
        days: How many days. (choices: [1, 3, 7])
        unit: The unit
            of temperature: celsius or not.

    Returns:
        A sentence: what to wear.
    """
    return city


def everything(
    a: int,
    b: float | None,
    c: Optional[str],  # noqa: UP045
    d: Union[int, str, None],  # noqa: UP007
    e: list[int],
    f: dict[str, float],
    g: tuple[int, str],
    h: list,
    i: dict,
    j: Any,
    k: bool = True,
    m: list[int] | str = "x",
    n: Unit = Unit.METRIC,
    o: Literal[1, "two", None] = None,
    p: list[dict[str, list[int]]] = (),
    q: torch.Tensor = None,
) -> dict[str, int]:
    """All of it.

    Args:
        a: one
        b: two
        c: three: with a colon
        d: four
        e: five

        f: six
        g: seven
        h: eight
        i: nine
        j: ten
        k: eleven
        m: twelve
        n: thirteen
        o: fourteen
        p: fifteen
        q: sixteen
    """
    return {}


SCHEMA = {"type": "function", "function": {"name": "raw", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("chat")
    folders = {kind.__name__: kind(root / kind.__name__) for kind in (gpt2, llama, llama3, llava)}
    pairs = {name: (ours(folder), reference(folder)) for name, folder in folders.items()}
    for pair in pairs.values():
        for tokenizer in pair:
            tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return pairs


CASES = [
    ("llama", LLAMA2, PLAIN), ("llama", LLAMA2, ANSWERED), ("llama", LLAMA2, PLAIN[1:]),
    ("llama3", LLAMA3, PLAIN), ("llama3", LLAMA3, ANSWERED), ("gpt2", CHATML, PLAIN), ("gpt2", CHATML, PLAIN[1:]),
    ("llava", LLAVA, PARTS), ("llava", LLAVA, PARTS[:1]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "template", "messages"), CASES)
@pytest.mark.parametrize("prompt", [True, False])
def test_prompts(tokenizers, kind, template, messages, prompt) -> None:
    mine, theirs = tokenizers[kind]
    options = {"chat_template": template, "add_generation_prompt": prompt}
    assert mine.apply_chat_template(messages, tokenize=False, **options) == theirs.apply_chat_template(
        messages, tokenize=False, **options
    )
    a, b = mine.apply_chat_template(messages, **options), theirs.apply_chat_template(messages, **options)
    assert dict(a) == dict(b)
    assert mine.apply_chat_template(messages, return_dict=False, **options) == b["input_ids"]
    batch = [messages, messages[:1]]
    options |= {"padding": True, "return_tensors": "pt"}
    a, b = mine.apply_chat_template(batch, **options), theirs.apply_chat_template(batch, **options)
    assert sorted(a) == sorted(b) and all(torch.equal(a[name], b[name]) for name in b)
    a, b = mine.apply_chat_template(messages, **options), theirs.apply_chat_template(messages, **options)
    assert all(torch.equal(a[name], b[name]) for name in b) and a["input_ids"].ndim == 2
    short = {"chat_template": template, "truncation": True, "max_length": 6}
    assert (
        mine.apply_chat_template(messages, **short)["input_ids"]
        == theirs.apply_chat_template(messages, **short)["input_ids"]
    )


def test_one_bos(tokenizers) -> None:
    for kind, template in (("llama", LLAMA2), ("llama3", LLAMA3)):
        mine, _ = tokenizers[kind]
        ids = mine.apply_chat_template(PLAIN[1:2], chat_template=template)["input_ids"]
        assert mine("x")["input_ids"][0] == mine.bos_token_id, "this tokenizer adds one of its own"
        assert ids[0] == mine.bos_token_id and ids.count(mine.bos_token_id) == 1 + PLAIN[1]["content"].count(
            mine.bos_token
        )


@pytest.mark.parametrize(("kind", "template"), [("llama", LLAMA2), ("llama3", LLAMA3), ("llava", LLAVA)])
@pytest.mark.parametrize("batched", [True, False])
def test_assistant_mask(tokenizers, kind, template, batched) -> None:
    mine, theirs = tokenizers[kind]
    messages = PARTS if kind == "llava" else ANSWERED
    for more in ({}, {"return_tensors": "pt", "padding": True}, {"truncation": True, "max_length": 30}):
        options = {"chat_template": template, "return_assistant_tokens_mask": True, **more}
        chats = [messages, messages[:3]] if batched else messages
        a, b = mine.apply_chat_template(chats, **options), theirs.apply_chat_template(chats, **options)
        mask = (
            [list(map(int, row)) for row in a["assistant_masks"]]
            if batched or more.get("return_tensors")
            else a["assistant_masks"]
        )
        other = (
            [list(map(int, row)) for row in b["assistant_masks"]]
            if batched or more.get("return_tensors")
            else b["assistant_masks"]
        )
        assert mask == other
        if "max_length" not in more:
            assert any(mask[0] if isinstance(mask[0], list) else mask)
    assert "\ufdd0" not in mine.apply_chat_template(messages, chat_template=template, tokenize=False)


def test_tools_and_documents(tokenizers) -> None:
    mine, theirs = tokenizers["llama3"]
    call = {"name": "weather", "arguments": {"city": "日本 <x>"}}
    calls = [
        *PLAIN[:2],
        {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": {"degrees": 20.5, "sky": ["blue", None]}},
    ]  # fmt: skip
    documents = [{"title": "A & B", "text": "one"}, {"title": "C", "text": "two"}]
    for tools in ([weather], [everything, SCHEMA], [SCHEMA], [], None):
        options = {
            "chat_template": LLAMA3,
            "tools": tools,
            "documents": documents,
            "date_string": "1 May 2026",
            "tokenize": False,
        }
        assert mine.apply_chat_template(calls, **options) == theirs.apply_chat_template(calls, **options)


def test_schemas_of_functions() -> None:
    from transformers.utils.chat_template_utils import get_json_schema

    from omniform.inputs.text.schema import function_schema

    class Tools:
        def method(self, x: int) -> None:
            """Do it.

            Args:
                x: a number

            Raises:
                ValueError: never
            """

    def bare() -> int:
        """Only a summary."""
        return 1

    def strange(x: int) -> Tools:
        """What it gives back has no JSON.

        Args:
            x: a number
        """

    for function in (weather, everything, Tools().method, bare):
        assert json.dumps(function_schema(function)) == json.dumps(get_json_schema(function)), function

    def no_doc(x: int) -> None: ...

    def no_hint(x) -> None:
        """A.

        Args:
            x: y
        """

    def not_described(x: int) -> None:
        """A."""

    def odd(x: set[int]) -> None:
        """A.

        Args:
            x: y
        """

    for function in (no_doc, no_hint, not_described, odd):
        with pytest.raises(InputError):
            function_schema(function)


def test_named_templates(tokenizers) -> None:
    mine, theirs = tokenizers["gpt2"]
    named = {"default": CHATML, "tool_use": "{{ tools | tojson }}", "rag": "{{ documents | tojson }}"}
    mine.chat_template = theirs.chat_template = named
    try:
        for options in ({}, {"tools": [SCHEMA]}, {"chat_template": "rag", "documents": [{"title": "a", "text": "b"}]}):
            options["tokenize"] = False
            assert mine.apply_chat_template(PLAIN, **options) == theirs.apply_chat_template(PLAIN, **options)
        assert mine.get_chat_template("rag") == theirs.get_chat_template("rag")
        mine.chat_template = {"rag": "x"}
        with pytest.raises(InputError, match="no default"):
            mine.apply_chat_template(PLAIN)
        mine.chat_template = None
        with pytest.raises(InputError, match="no chat template"):
            mine.apply_chat_template(PLAIN)
    finally:
        mine.chat_template = theirs.chat_template = None


@pytest.mark.parametrize("content", ["An answer that is", "  spaces around  ", "ends in newline\n"])
def test_continuing(tokenizers, content: str) -> None:
    for kind, template in (("llama3", LLAMA3), ("gpt2", CHATML), ("llama", LLAMA2)):
        mine, theirs = tokenizers[kind]
        messages = [*PLAIN, {"role": "assistant", "content": content}]
        options = {"chat_template": template, "continue_final_message": True, "tokenize": False}
        assert mine.apply_chat_template(messages, **options) == theirs.apply_chat_template(messages, **options)
        assert messages[-1]["content"] == content
    mine, theirs = tokenizers["llava"]
    options = {"chat_template": LLAVA, "continue_final_message": True, "tokenize": False}
    assert mine.apply_chat_template(PARTS, **options) == theirs.apply_chat_template(PARTS, **options)
    mine, theirs = tokenizers["gpt2"]
    thinking = [*PLAIN, {"role": "assistant", "content": "x", "reasoning": content}]
    for which in ("thinking", "content"):
        options = {"chat_template": CHATML, "continue_final_message": which, "tokenize": False}
        assert mine.apply_chat_template(thinking, **options) == theirs.apply_chat_template(thinking, **options)
    for bad in (
        {"add_generation_prompt": True}, {"chat_template": "{{ messages[0].content }}"}, {"chat_template": "nothing"},
        {"return_assistant_tokens_mask": True, "tokenize": True},
    ):  # fmt: skip
        with pytest.raises(InputError):
            mine.apply_chat_template(thinking, **{**options, **bad})


def test_variables_and_plain_data(tokenizers) -> None:
    @dataclasses.dataclass
    class Message:
        role: str
        content: str

    class Secret(str):
        def leak(self) -> str:
            return "leaked"

    mine, theirs = tokenizers["gpt2"]
    for thinking in (True, False):
        options = {
            "chat_template": CHATML,
            "tokenize": False,
            "add_generation_prompt": True,
            "enable_thinking": thinking,
        }
        assert mine.apply_chat_template(PLAIN, **options) == theirs.apply_chat_template(PLAIN, **options)
    options = {"chat_template": CHATML, "tokenize": False}
    assert mine.apply_chat_template([Message("user", "hi")], **options) == mine.apply_chat_template(
        [{"role": "user", "content": "hi"}], **options
    )
    reasoned = [{"role": "assistant", "content": "x", "reasoning": "because"}]
    assert mine.apply_chat_template(reasoned, **options) == theirs.apply_chat_template(reasoned, **options)
    with pytest.raises(OmniformError):
        mine.apply_chat_template(
            [{"role": "user", "content": Secret("x")}], chat_template="{{ messages[0].content.leak() }}", tokenize=False
        )


SNIPPETS = [
    "{{ [1, 2] | tojson }}{{ {'é': '<&>', 'b': none} | tojson(indent=2, sort_keys=true) }}",
    "{{ dict(a=1) | tojson }} {{ dict.fromkeys(['x', 'y'], 0) | tojson }} {{ range(3) | list }}",
    "{% set ns = namespace(x=1) %}{% for i in range(3) %}{% set ns.x = ns.x * 2 %}{% endfor %}{{ ns.x }}",
    "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}"
    "{% if i > 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "  {% if true %}\n   a\n  {% endif %}\n b {{ 1 }}\n{#- comment -#}\n c",
    "{{ undefined_thing }}|{{ messages[0].nothing }}|{{ x | default('d') }}|{{ 'abc'[1:] }}|{{ 7 // 2 }}|{{ 2 ** 5 }}",
    "{{ '%s and %5.2f' % ('a', 3.14159) }} {{ '{:>5}'.format('x') }} {{ 'a' * 3 }} {{ 7 % 4 }} {{ 'A-B'.split('-') }}",
    "{{ messages | map(attribute='role') | join(',') }} "
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{% macro m(x) %}[{{ x }}{{ caller() if caller }}]{% endmacro %}"
    "{{ m('y') }}{% call m('z') %}c{% endcall %}{{ messages[-1].content | upper }}",
    "{{ messages[0].content.startswith(' ') }} {{ messages[0]['content'] | e }} "
    "{{ true and not false }} {{ none is none }}",
    "{% generation %}x{% endgeneration %}{% raw %}{{ y }}{% endraw %}{{ strftime_now('%%') }}",
    "{{ 'a b c d' | wordwrap(3) }}{{ 'x' | center(9) }}{{ 'a\nb' | indent(2) }}{{ '%s!' | format('y') }}",
    "{{ cycler('a', 'b').next() }}{{ joiner(',')() }}"
    "{{ messages | length }}{{ bos_token }}{{ eos_token }}{{ tools is none }}",
]


@pytest.mark.parametrize("template", SNIPPETS)
def test_the_language(tokenizers, template: str) -> None:
    mine, theirs = tokenizers["llama"]
    options = {"chat_template": template, "tokenize": False}
    assert mine.apply_chat_template(PLAIN, **options) == theirs.apply_chat_template(PLAIN, **options)


def test_templates_are_saved(tmp_path: Path) -> None:
    folder = gpt2(tmp_path / "a", chat_template=CHATML)
    assert ours(folder).chat_template == reference(folder).chat_template == CHATML
    ours(folder).save_files(tmp_path / "b")
    assert (tmp_path / "b" / "chat_template.jinja").read_text() == CHATML
    assert ours(tmp_path / "b").chat_template == reference(tmp_path / "b").chat_template == CHATML
    listed = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": "{{ tools }}"}]
    folder = gpt2(tmp_path / "c", chat_template=listed)
    assert ours(folder).chat_template == reference(folder).chat_template
    ours(folder).save_files(tmp_path / "d")
    assert ours(tmp_path / "d").chat_template == reference(tmp_path / "d").chat_template == ours(folder).chat_template
    (folder / "chat_template.jinja").write_text("file wins")
    assert ours(folder).chat_template == reference(folder).chat_template == "file wins"
    for bad in (3, [1], [{"name": "x"}], {"default": 3}):
        with pytest.raises(ConfigError):
            ours(gpt2(tmp_path / "e", chat_template=bad))
    escaping = ours(gpt2(tmp_path / "f", chat_template=[{"name": "../../x", "template": "y"}]))
    with pytest.raises(ConfigError):
        escaping.save_files(tmp_path / "g" / "h")
    assert not (tmp_path / "x.jinja").exists()
