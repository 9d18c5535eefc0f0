"""From what a client asks for to a request of the engine, and back to what the client reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from omniform.architectures.model import Model
from omniform.engine.request import Completion, TokenLogprob
from omniform.engine.stop import Pieces
from omniform.serve.desk import Use
from omniform.serve.errors import APIError
from omniform.serve.wire import AllowedTools, ToolChoice, Writing

HIGHEST_SEED = 2**63 - 1

FINISH: Final = {"stop": "stop", "length": "length", "cancelled": "stop"}
"""Why an answer ended, in OpenAI's words."""


def settings_of(asked: Writing, use: Use, longest: int | None) -> dict[str, object]:
    """The engine's settings of what a client says of how to write.

    OpenAI draws with a temperature of 1 where nothing else is said; here a checkpoint's own settings come first.

    Args:
        longest: tokens of the answer at most; None: as many as fit.
    """
    settings: dict[str, object] = {}
    own = use.loaded.model.generation_config
    temperature = asked.temperature
    if temperature == 0 or (asked.top_p == 0 and temperature is None):
        settings["do_sample"] = False
    else:
        settings["do_sample"] = True
        if temperature is not None:
            settings["temperature"] = temperature
        if asked.top_p is not None:
            settings["top_p"] = asked.top_p
        if asked.top_k is not None:
            settings["top_k"] = asked.top_k
        elif getattr(own, "top_k", None) is None:
            settings["top_k"] = 0
    for name in ("min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "guide"):
        value = getattr(asked, name)
        if value is not None:
            settings[name] = value
    if asked.stop:
        settings["stop_strings"] = [asked.stop] if isinstance(asked.stop, str) else asked.stop
    if asked.seed is not None:
        settings["seed"] = asked.seed % HIGHEST_SEED
    if asked.logit_bias:
        settings["sequence_bias"] = [[[_token(name)], value] for name, value in asked.logit_bias.items()]
    if asked.min_tokens:
        settings["min_new_tokens"] = asked.min_tokens
    if longest is not None:
        settings["max_new_tokens"] = longest
    if use.adapter is not None:
        settings["adapter"] = use.adapter
    if asked.n not in (None, 1):
        settings["num_return_sequences"] = asked.n
        if not settings["do_sample"]:  # several answers are drawn, each of them the likeliest
            settings |= {"do_sample": True, "top_k": 1}
    return settings


def template_of(effort: str | None, given: Mapping[str, object] | None) -> dict[str, object]:
    """Variables of a chat template: those that a client gives, before what it says of how hard to think.

    Templates that know degrees read them as ``reasoning_effort``; others can only be told not to think.
    """
    told: dict[str, object] = {} if effort is None else {"reasoning_effort": effort}
    if effort == "none":
        told |= {"enable_thinking": False, "thinking": False}
    return {**told, **(given or {})}


def unread_effort(use: Use, effort: str | None, name: str) -> list[str]:
    """The field that says how hard to think, where the model's chat template reads none of it."""
    template = use.loaded.template
    read = effort is None or "reasoning_effort" in template or (effort == "none" and "thinking" in template)
    return [] if read else [name]


def choice_of(
    choice: object, tools: Sequence[Mapping[str, object]]
) -> tuple[str | Mapping[str, object], Sequence[Mapping[str, object]]]:
    """Which tool is to be called, and which are there to be: all, or those that a choice allows.

    Args:
        choice: ``None``, a text, or the model of a body.
        tools: as chats have them.

    Raises:
        APIError: a choice allows what there is not.
    """
    if choice is None or isinstance(choice, str):
        return choice or "auto", tools
    if not isinstance(choice, AllowedTools):
        assert isinstance(choice, ToolChoice)
        return choice.model_dump(), tools
    wanted = {one.function.name for one in choice.allowed_tools.tools}
    found = [tool for tool in tools if cast("Mapping[str, object]", tool["function"])["name"] in wanted]
    missing = wanted - {cast("Mapping[str, object]", tool["function"])["name"] for tool in found}
    if missing:
        raise APIError(
            400, f"tool_choice: there is no tool {min(missing)!r:.80}", param="tool_choice", code="invalid_value"
        )
    return choice.allowed_tools.mode, found


def _token(name: str) -> int:
    if not name.isdigit():
        raise APIError(400, "logit_bias: its keys are token ids", param="logit_bias", code="invalid_value")
    return int(name)


def usage(completion: Completion, reasoning: int = 0) -> dict[str, object]:
    """What a request cost in tokens."""
    written = sum(len(one.tokens) for one in completion.sequences)
    return {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": written,
        "total_tokens": completion.prompt_tokens + written,
        "prompt_tokens_details": {"cached_tokens": completion.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def usage_of(completions: Sequence[Completion]) -> dict[str, object]:
    """What several requests cost together."""
    read, written = (sum(n) for n in zip(*[_cost(one) for one in completions], strict=True))
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": sum(one.cached_tokens for one in completions)},
    }


def _cost(one: Completion) -> tuple[int, int]:
    return one.prompt_tokens, sum(len(answer.tokens) for answer in one.sequences)


def logprob_of(pieces: Pieces, one: TokenLogprob, top: int) -> dict[str, object]:
    """How likely a token was, as chats tell it."""

    def told(token: int, logprob: float) -> dict[str, object]:
        spelt = pieces[token]
        return {"token": spelt.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(spelt)}

    return {**told(one.token, one.logprob), "top_logprobs": [told(*other) for other in one.top[:top]]}


def longest_of(model: Model) -> int | None:
    """How many tokens a row of a model may have; None: no end is known."""
    return getattr(model, "max_positions", None)
