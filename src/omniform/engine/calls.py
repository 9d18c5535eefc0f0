"""From what a caller hands over to prompts: ids in any shape, inputs of every modality, texts and chats."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import torch
from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.blocks.embeddings import check_ids
from omniform.core.batch import Batch
from omniform.core.errors import InputError, check_arguments
from omniform.core.generation import SETTINGS
from omniform.engine.prompts import Prompts, as_prompts
from omniform.engine.request import Prompt
from omniform.engine.settings import Settings, known_settings, read_settings
from omniform.engine.text import Decodes

log = logging.getLogger("omniform")

AnyPrompt = str | Tensor | Sequence[int] | Mapping[str, object] | Sequence[Mapping[str, object]]
"""One prompt: a text, token ids, a processor's batch of one row, or a chat."""

_OPENING = (
    "decoder_start_token_id", "language", "task", "return_timestamps", "lang_to_id", "task_to_id",
    "no_timestamps_token_id", "forced_decoder_ids", "is_multilingual",
)  # fmt: skip


class Reader(Decodes, Protocol):
    """What turns a question into a model's inputs: a processor, or a tokenizer where there is only text."""

    chat_template: object

    def __call__(self, **inputs: object) -> Batch: ...

    def apply_chat_template(self, conversation: list[dict[str, object]], **options: object) -> object: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One prompt and its settings, understood.

    Attributes:
        prompt: what it begins with.
        settings: how to choose tokens and when to stop, given the number of tokens in the prompt.
    """

    prompt: Prompt
    settings: Callable[[int], Settings]


def read_call(model: Generative, reader: Reader | None, prompt: AnyPrompt, asked: Mapping[str, object]) -> Call:
    """Understand one prompt with its settings.

    Raises:
        InputError: a prompt or a setting that cannot be used, or more than one row.
        UnknownArgumentError: an unknown setting, with the nearest name.
    """
    check_arguments("submit", asked, SETTINGS)
    prompts, _ = prompts_of(model, named_inputs(model, reader, prompt), asked)
    if len(prompts) != 1:
        raise InputError("a request has one row", where="prompt", expected="one row", found=f"{len(prompts)} rows")
    return Call(prompts[0], lambda length: settings_for(model, asked, length))


def settings_for(model: Generative, asked: Mapping[str, object], prompt: int) -> Settings:
    """The settings of a call, its answer no longer than the model's positions.

    Args:
        prompt: tokens in the prompt.
    """
    settings = read_settings(model, asked, prompt)
    limit = model.max_positions
    # The last token written is never read again, so an answer may end one past the last position.
    if limit is None or prompt + settings.max_new_tokens <= limit + 1:
        return settings
    log.warning("the answer is cut at the model's %d positions, after %d tokens", limit, limit - prompt + 1)
    return replace(settings, max_new_tokens=limit - prompt + 1)


def named_inputs(model: Generative, reader: Reader | None, prompt: AnyPrompt) -> dict[str, object]:
    """One prompt as the model's inputs by name.

    Raises:
        InputError: it is none of the forms that a prompt can have, or a text without a tokenizer.
    """
    if isinstance(prompt, Mapping):
        wanted = model.accepts() | model.encoder_inputs
        return {str(name): value for name, value in prompt.items() if name in wanted or not isinstance(prompt, Batch)}
    chat = isinstance(prompt, (list, tuple)) and bool(prompt) and all(isinstance(m, Mapping) for m in prompt)
    if not isinstance(prompt, str) and not chat:
        return {"input_ids": [prompt] if isinstance(prompt, (list, tuple)) else _as_row(prompt)}
    if reader is None:
        raise InputError(
            "a text needs a tokenizer to be read",
            where="prompt",
            expected="token ids",
            found="a chat" if chat else "a text",
            remedy="Give the Engine the checkpoint's processor or tokenizer.",
        )
    if chat:
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        batch = reader.apply_chat_template([dict(m) for m in cast("Sequence[Mapping[str, object]]", prompt)], **options)
    else:
        batch = reader(text=prompt, return_tensors="pt")
    return named_inputs(model, reader, cast(Batch, batch))


def prompts_of(
    model: Generative, named: Mapping[str, object], asked: Mapping[str, object]
) -> tuple[list[Prompt], Tensor | None]:
    """The rows of a call.

    Args:
        named: the model's inputs; ids as a tensor, padded on either side, or as rows of any lengths.
        asked: the call's settings.

    Returns:
        The rows, and the ids to give back in front of the answers as the caller laid them out, Shape: [B, T]; None
        where the model chooses its own openings.

    Raises:
        InputError: inputs that the model cannot read, or that do not fit together.
    """
    given = {name: value for name, value in named.items() if value is not None}
    return _encoded(model, given, asked) if model.encoder_inputs else _plain(model, given, asked)


def pad_token(model: Generative, asked: Mapping[str, object]) -> int:
    """What fills short rows."""
    known = known_settings(model, asked)
    for name in ("pad_token_id", "eos_token_id"):
        value = known.get(name)
        if isinstance(value, Sequence) and value:
            value = value[0]
        if isinstance(value, int) and value >= 0:
            return value
    return 0


def _as_row(prompt: object) -> object:
    return prompt[None] if isinstance(prompt, Tensor) and prompt.dim() == 1 else prompt


def _plain(
    model: Generative, named: dict[str, object], asked: Mapping[str, object]
) -> tuple[list[Prompt], Tensor | None]:
    if named.get("input_ids") is None:
        raise InputError("there is no prompt", where="input_ids", expected="token ids")
    ids, mask = named.pop("input_ids"), cast("Tensor | None", named.pop("attention_mask", None))
    mask = _told_by_padding(model, asked, ids) if mask is None else mask
    prompts = as_prompts(ids, mask, pad_token(model, asked), model.device)
    _check(model, prompts)
    rows = _rows(prompts)
    items = model.items(rows, _features(model, named))
    whole = ids.to(model.device) if isinstance(ids, Tensor) and ids.dim() == 2 else prompts.ids
    return [Prompt(tuple(row), tuple(own)) for row, own in zip(rows, items, strict=True)], whole


def _encoded(
    model: Generative, named: dict[str, object], asked: Mapping[str, object]
) -> tuple[list[Prompt], Tensor | None]:
    start = named.pop("decoder_input_ids", None)
    mask = cast("Tensor | None", named.pop("decoder_attention_mask", None))
    encoder = _encoder_rows(model, named, asked)
    options = [{n: v for n, v in known_settings(model, asked).items() if n in _OPENING} for _ in encoder]
    language = asked.get("language")
    if isinstance(language, (list, tuple)):
        if len(language) != len(encoder):
            raise InputError("one language per row", where="language", expected=len(encoder), found=len(language))
        for own, one in zip(options, language, strict=True):
            own["language"] = one
    if start is None:
        return [Prompt((), (), inputs, own) for inputs, own in zip(encoder, options, strict=True)], None
    prompts = as_prompts(start, mask, pad_token(model, asked), model.device)
    _check(model, prompts)
    rows = _rows(prompts)
    if len(rows) != len(encoder):
        raise InputError(
            "encoder and decoder have different numbers of rows",
            where="decoder_input_ids",
            expected=f"{len(encoder)} rows, as the encoder's",
            found=f"{len(rows)} rows",
        )
    return [Prompt(tuple(row), (), inputs) for row, inputs in zip(rows, encoder, strict=True)], prompts.ids


def _encoder_rows(model: Generative, named: dict[str, object], asked: Mapping[str, object]) -> list[dict[str, Tensor]]:
    """An encoder's inputs row by row, each a batch of one, padding on the right cut off."""
    ids, mask = named.get("input_ids"), named.get("attention_mask")
    if "input_ids" in model.encoder_inputs and ids is not None:
        if not isinstance(ids, Tensor):
            prompts = as_prompts(ids, None, pad_token(model, asked), model.device)
            return [{"input_ids": torch.tensor([row], device=model.device)} for row in _rows(prompts)]
        table = model.get_input_embeddings()
        if isinstance(table, torch.nn.Embedding):
            check_ids(ids, table.num_embeddings)
    features = _features(model, named)
    if model.main_input not in features and "inputs_embeds" not in features:
        raise InputError("the encoder has nothing to read", where=model.main_input, expected="a tensor", found="none")
    count = next(iter(features.values())).shape[0]
    for name, value in features.items():
        if value.shape[0] != count:
            raise InputError("inputs have different numbers of rows", where=name, expected=count, found=value.shape[0])
    rows = [{name: value[i : i + 1] for name, value in features.items()} for i in range(count)]
    if isinstance(ids, Tensor) and isinstance(mask, Tensor) and mask.shape == ids.shape:
        rows = [_cut(row) for row in rows]
    return rows


def _cut(row: dict[str, Tensor]) -> dict[str, Tensor]:
    real = row["attention_mask"][0] != 0
    length = int(real.sum())
    if length == 0 or not bool(real[:length].all()):
        return row  # padding on the left, or holes: the encoder gets its mask
    return {name: value[:, :length] for name, value in row.items() if name != "attention_mask"}


def _rows(prompts: Prompts) -> list[list[int]]:
    if prompts.real is None:
        return [row.tolist() for row in prompts.ids]
    return [row[real].tolist() for row, real in zip(prompts.ids, prompts.real, strict=True)]


def _told_by_padding(model: Generative, asked: Mapping[str, object], ids: object) -> Tensor | None:
    """The mask that a prompt's padding tokens imply, where there are any and padding is no end of a row.

    The ecosystem infers it for decoders, and not for encoders.
    """
    known = known_settings(model, asked)
    pad, eos = known.get("pad_token_id"), known.get("eos_token_id")
    ends = eos if isinstance(eos, (list, tuple)) else [eos]
    if not isinstance(ids, Tensor) or not isinstance(pad, int) or pad in ends or not bool((ids == pad).any()):
        return None
    return (ids != pad).long()


def _features(model: Generative, named: Mapping[str, object]) -> dict[str, Tensor]:
    features: dict[str, Tensor] = {}
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise InputError(
                "inputs must be tensors",
                where=name,
                expected="a tensor",
                found=type(value).__name__,
                remedy="Call the processor with return_tensors='pt'.",
            )
        floats = value.is_floating_point()
        features[name] = value.to(model.device, model.dtype if floats else None)
    return features


def _check(model: Generative, prompts: Prompts) -> None:
    table = model.get_input_embeddings()
    if isinstance(table, torch.nn.Embedding):
        check_ids(prompts.ids, table.num_embeddings)
    limit = model.max_positions
    if limit is not None and prompts.longest > limit:
        raise InputError(
            "the prompt is longer than the model's positions",
            where="input_ids",
            expected=f"at most {limit} tokens",
            found=f"{prompts.longest} tokens",
            remedy="Shorten it.",
        )
