"""From what a caller hands over to prompts: ids in any shape, inputs of every modality, texts and chats."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from omniform.architectures.encoder_decoder import EncoderOutputs, encoder_output
from omniform.architectures.generative import Generative, RowLayout, rows_of
from omniform.blocks.embeddings import check_ids
from omniform.core.batch import Batch
from omniform.core.errors import InputError, LengthError, brief, check_arguments
from omniform.core.generation import as_settings
from omniform.core.outputs import HeardOutput
from omniform.engine.cache_calls import refuse_cache
from omniform.engine.parts import Parts, refuse_whole
from omniform.engine.prompts import Prompts, as_prompts, columns_of
from omniform.engine.request import NAMELESS, Prompt
from omniform.engine.settings import Asked, Settings, table_of
from omniform.engine.text import Decodes
from omniform.engine.vectors import vector_prompts

log = logging.getLogger("omniform")

AnyPrompt = str | Tensor | Sequence[int] | Mapping[str, object] | Sequence[Mapping[str, object]]
"""One prompt: a text, token ids, a processor's batch of one row, or a chat."""


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
        parts: the objects that the call brought along.
    """

    prompt: Prompt
    settings: Callable[[int], Settings]
    parts: Parts


def read_call(
    model: Generative,
    reader: Reader | None,
    prompt: AnyPrompt,
    asked: Mapping[str, object],
    place: int = 0,
    told: set[str] | None = None,
) -> Call:
    """Understand one prompt with its settings, the ``place``-th of its call.

    Args:
        asked: settings by name, over those of a ``generation_config`` among them.
        told: what the call's other prompts were warned of.

    Raises:
        InputError: a prompt or a setting that cannot be used, or more than one row.
        UnknownArgumentError: an unknown setting, with the nearest name.
    """
    given = dict(asked)
    config = as_settings(given.pop("generation_config", None))
    check_arguments("submit", given, table_of(model))
    refuse_whole(model, given)
    settings = Asked(model, config, given, told=told)
    refuse_cache(settings)
    prompts, _ = prompts_of(model, named_inputs(model, reader, prompt), settings)
    if len(prompts) != 1:
        raise InputError("a request has one row", where="prompt", expected="one row", found=f"{len(prompts)} rows")
    return Call(replace(prompts[0], place=place), settings, settings.parts)


def settings_of_each(prompts: object, settings: object, common: Mapping[str, object]) -> list[Mapping[str, object]]:
    """The settings of every prompt of a batch, its own over the common ones.

    Raises:
        InputError: no list of prompts, or not one mapping of settings per prompt.
    """
    if not isinstance(prompts, (list, tuple)):
        raise InputError("these are no prompts", where="prompts", expected="a list of them", found=brief(prompts))
    if settings is None:
        return [common] * len(prompts)
    if not isinstance(settings, (list, tuple)) or not all(isinstance(own, Mapping) for own in settings):
        raise InputError(
            "one mapping of settings per prompt", where="settings", expected="a list of them", found=brief(settings)
        )
    if len(settings) != len(prompts):
        raise InputError(
            "one mapping of settings per prompt", where="settings", expected=len(prompts), found=len(settings)
        )
    return [{**common, **{str(name): value for name, value in own.items()}} for own in settings]


def named_inputs(model: Generative, reader: Reader | None, prompt: AnyPrompt) -> dict[str, object]:
    """One prompt as the model's inputs by name.

    Raises:
        InputError: it is none of the forms that a prompt can have, or a text without a tokenizer.
    """
    if prompt is None or (isinstance(prompt, Mapping) and not prompt):
        raise InputError(
            "there is no prompt", where="prompt", expected="token ids, a text or a chat", found=brief(prompt)
        )
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
    model: Generative, named: Mapping[str, object], asked: Asked, *, holes: bool = False, cached: int = 0
) -> tuple[list[Prompt], Tensor | None]:
    """The rows of a call.

    Args:
        named: the model's inputs; ids as a tensor, padded on either side, or as rows of any lengths.
        asked: the call's settings.
        holes: whether padding may also stand between real tokens.
        cached: how many columns of the ids a cache has read; pictures and sounds in them need not be given again.

    Returns:
        The rows, and the ids to give back in front of the answers as the caller laid them out, Shape: [B, T]; None
        where the model chooses its own decoder prompts.

    Raises:
        InputError: inputs that the model cannot read, or that do not fit together.
    """
    # Trainers hand over a whole batch, whose labels nothing that is written depends on.
    given = {name: value for name, value in named.items() if value is not None and name != "labels"}
    given = model.read_inputs(given)
    if model.encoder_inputs:
        prompts, whole = _encoded(model, given, asked, holes)
    else:
        prompts, whole = _plain(model, given, asked, holes or model.padded_within, cached)
    return [replace(prompt, place=place) for place, prompt in enumerate(prompts)], whole


def _as_row(prompt: object) -> object:
    return prompt[None] if isinstance(prompt, Tensor) and prompt.dim() == 1 else prompt


def _plain(
    model: Generative, named: dict[str, object], asked: Asked, holes: bool, cached: int
) -> tuple[list[Prompt], Tensor | None]:
    if named.get("inputs_embeds") is not None:
        return vector_prompts(model, named)
    if named.get("input_ids") is None:
        named["input_ids"] = _begun_by(model, asked, "there is no prompt")
    ids, mask = _ids(named.pop("input_ids"), "input_ids"), _mask(named.pop("attention_mask", None), "attention_mask")
    mask = _told_by_padding(asked, ids) if mask is None else mask
    prompts = as_prompts(ids, mask, asked.pad_token_id, model.device, holes=holes)
    _check(model, prompts)
    rows = _rows(prompts)
    layouts = _told(model, named, ids, mask, holes=holes)
    _refuse_other_places(named.pop("position_ids", None), prompts, ids, mask)
    features = _features(model, named)
    try:
        items = model.items(rows, features)
    except InputError:
        if not cached:
            raise
        rows = _without_known(model, rows, columns_of(ids, mask, len(rows)), cached)
        items = model.items(rows, features)
    whole = ids.to(model.device) if isinstance(ids, Tensor) and ids.dim() == 2 else prompts.ids
    columns = columns_of(ids, mask, len(rows))
    parts = zip(rows, items, columns, [None] * len(rows) if layouts is None else layouts, strict=True)
    return [Prompt(tuple(r), tuple(own), columns=c, layout=layout) for r, own, c, layout in parts], whole


def _told(
    model: Generative, named: dict[str, object], ids: object, mask: Tensor | None, *, holes: bool
) -> Sequence[RowLayout | None] | None:
    """The layout of each prompt, where numbers that come with its tokens tell it; takes these out of the inputs."""
    beside: dict[str, list[list[int]]] = {}
    if model.tokenwise.isdisjoint(named):
        return None
    lengths = list(map(len, _rows(as_prompts(ids, mask, 0, torch.device("cpu"), holes=holes))))
    for name in model.tokenwise & named.keys():
        value = named.pop(name)
        numbers = _ids(torch.tensor(value) if isinstance(value, list) and isinstance(ids, Tensor) else value, name)
        fits = not isinstance(ids, Tensor) or (isinstance(numbers, Tensor) and numbers.shape == ids.shape)
        rows = _rows(as_prompts(numbers, mask, 0, torch.device("cpu"), holes=holes)) if fits else []
        if list(map(len, rows)) != lengths:
            raise InputError("there is one number for each token", where=name, expected=f"rows of {lengths} numbers")
        beside[name] = rows
    return [model.told_layout({name: rows[row] for name, rows in beside.items()}) for row in range(len(lengths))]


def _encoded(
    model: Generative, named: dict[str, object], asked: Asked, goes_on: bool
) -> tuple[list[Prompt], Tensor | None]:
    start = named.pop("decoder_input_ids", None)
    start = None if start is None else _ids(start, "decoder_input_ids")
    mask = _mask(named.pop("decoder_attention_mask", None), "decoder_attention_mask")
    beside = {name for name in named if name.startswith("decoder_")}
    if beside:
        raise InputError(
            "an answer cannot begin with this", where=", ".join(sorted(beside)), expected="decoder_input_ids"
        )
    encoder = _encoder_rows(model, named, asked)
    _warn_of_nothing_read(encoder, asked)
    options = asked.own(len(encoder))
    if start is None:
        return [Prompt((), (), inputs, own) for inputs, own in zip(encoder, options, strict=True)], None
    prompts = as_prompts(start, mask, asked.pad_token_id, model.device)
    rows = _rows(prompts)
    if len(rows) != len(encoder):
        raise InputError(
            "encoder and decoder have different numbers of rows",
            where="decoder_input_ids",
            expected=f"{len(encoder)} rows, as the encoder's",
            found=f"{len(rows)} rows",
        )
    columns = columns_of(start, mask, len(rows))
    starts = [own.get("decoder_start_token_id", model.start_token_id) for own in options]
    opened = rows if goes_on else model.opened(rows, starts)
    if opened != rows:
        rows = opened
        prompts = as_prompts(rows, None, asked.pad_token_id, model.device)
        columns = [None if own is None else torch.cat((own.new_zeros(1), own + 1)) for own in columns]
    _check(model, prompts)
    each = zip(rows, encoder, columns, strict=True)
    return [Prompt(tuple(row), (), inputs, columns=own) for row, inputs, own in each], prompts.ids


def _encoder_rows(model: Generative, named: dict[str, object], asked: Asked) -> list[dict[str, Tensor]]:
    """An encoder's inputs row by row, each a batch of one, padding on the right cut off; or what it gave, likewise."""
    if named.get("encoder_outputs") is not None:
        out = encoder_output(cast(EncoderOutputs, named["encoder_outputs"]))
        hidden, mask = out.last_hidden_state, _masked(named)
        if isinstance(out, HeardOutput) and out.attention_mask is not None:
            mask = {"attention_mask": out.attention_mask}
        told = _features(model, {"encoder_outputs": hidden, **mask})
        return _by_row(rows_of(told), told, hidden.shape[:2])
    if named.get("input_ids") is not None:
        named = {**named, "input_ids": _as_row(_ids(named["input_ids"], "input_ids"))}
    ids = named.get("input_ids")
    if "input_ids" in model.encoder_inputs and ids is not None:
        if not isinstance(ids, Tensor):
            prompts = as_prompts(ids, None, asked.pad_token_id, model.device)
            return [{"input_ids": torch.tensor([row], device=model.device)} for row in _rows(prompts)]
        table = model.get_input_embeddings()
        if isinstance(table, torch.nn.Embedding):
            check_ids(ids, table.num_embeddings)
    features = _features(model, named)
    if model.main_input not in features and "inputs_embeds" not in features:
        ids = features["input_ids"] = _begun_by(model, asked, "the encoder has nothing to read").to(model.device)
    return _by_row(model.by_row(features), features, ids.shape if isinstance(ids, Tensor) else None)


def _begun_by(model: Generative, asked: Asked, problem: str) -> Tensor:
    """What is read where nothing was given: the token that texts begin with. Shape: [1, 1]."""
    said = asked.values["bos_token_id"]
    begin = said[0] if isinstance(said, tuple) and said else model.config.common.bos_token_id
    if begin is None or model.main_input != "input_ids":
        raise InputError(problem, where=model.main_input, expected="a tensor", found="none")
    return torch.tensor([[begin]])


def _masked(named: Mapping[str, object]) -> dict[str, object]:
    mask = named.get("attention_mask")
    return {} if mask is None else {"attention_mask": mask}


def _warn_of_nothing_read(rows: Sequence[Mapping[str, Tensor]], asked: Asked) -> None:
    """Say so where rules look at the encoder's tokens, and what it reads is sound or vectors."""
    rules = [n for n in ("encoder_repetition_penalty", "encoder_no_repeat_ngram_size") if asked.named & {n}]
    if rules and not all("input_ids" in row for row in rows):
        log.warning("no effect where the encoder reads no tokens: %s", ", ".join(rules))


def _by_row(
    rows: list[dict[str, Tensor]], features: Mapping[str, Tensor], tokens: tuple[int, ...] | None
) -> list[dict[str, Tensor]]:
    """Batches of one without the padding behind them; ``tokens``: the shape of a mask that says what is padding."""
    mask = features.get("attention_mask")
    return [_cut(row) for row in rows] if mask is not None and mask.shape == tokens else rows


def _cut(row: dict[str, Tensor]) -> dict[str, Tensor]:
    real = row["attention_mask"][0] != 0
    length = int(real.sum())
    if length == 0 or not bool(real[:length].all()):
        return row  # padding on the left, or holes: the encoder gets its mask
    tokens = row["attention_mask"].shape
    cut = {name: value[:, :length] if value.shape[:2] == tokens else value for name, value in row.items()}
    return {name: value for name, value in cut.items() if name != "attention_mask"}


def _rows(prompts: Prompts) -> list[list[int]]:
    if prompts.real is None:
        return [row.tolist() for row in prompts.ids]
    return [row[real].tolist() for row, real in zip(prompts.ids, prompts.real, strict=True)]


def _told_by_padding(asked: Asked, ids: object) -> Tensor | None:
    """The mask that a prompt's padding tokens imply, where there are any and padding is no end of a row.

    The ecosystem infers it for decoders, and not for encoders.
    """
    pads, ends = asked.values["pad_token_id"], asked.values["eos_token_id"]
    if not isinstance(pads, tuple) or not isinstance(ends, tuple) or not pads or not isinstance(ids, Tensor):
        return None
    return None if pads[0] in ends or not bool((ids == pads[0]).any()) else (ids != pads[0]).long()


def _without_known(
    model: Generative, rows: Sequence[Sequence[int]], columns: Sequence[Tensor | None], cached: int
) -> list[list[int]]:
    """Rows without the placeholders of pictures and sounds that a cache has read already.

    Args:
        columns: where each row's tokens stand; None for the last ones.
        cached: how many columns the cache holds.
    """
    longest, found = max(map(len, rows)), []
    for row, own in zip(rows, columns, strict=True):
        places = range(longest - len(row), longest) if own is None else own.tolist()
        read = [place < cached and token in model.placeholders for place, token in zip(places, row, strict=True)]
        found.append([NAMELESS if known else token for token, known in zip(row, read, strict=True)])
    return found


def _refuse_other_places(given: object, prompts: Prompts, ids: object, mask: Tensor | None) -> None:
    """Raise :class:`InputError` unless positions, where a caller gives some, are those that the rows have anyway."""
    if given is None:
        return
    places = _tensor(given, "position_ids").cpu()
    real = torch.ones(prompts.ids.shape) if mask is None or not isinstance(ids, Tensor) else mask.cpu()
    own = (real.bool().cumsum(-1) - 1).masked_fill(~real.bool(), -1)
    if places.dim() != 2 or places.shape[1] != own.shape[1] or not bool(((places == own) | (own < 0)).all()):
        raise InputError(
            "positions are counted from each row's first token",
            where="position_ids",
            expected="0, 1, 2... for the tokens that are no padding",
            found=brief(places.tolist()),
            remedy="Leave them out.",
        )


def mask_of(named: Mapping[str, object], asked: Asked) -> Tensor | None:
    """The mask of a decoder's prompts, as the caller gave it or as padding implies it; None where nothing tells."""
    mask = _mask(named.get("attention_mask"), "attention_mask")
    return _told_by_padding(asked, _ids(named.get("input_ids"), "input_ids")) if mask is None else mask


def features_of(model: Generative, named: Mapping[str, object]) -> dict[str, Tensor]:
    """The inputs that are tensors, where the model is, and as precise as it is."""
    return _features(
        model, {name: value for name, value in named.items() if isinstance(value, (Tensor, np.ndarray, bool))}
    )


def _features(model: Generative, named: Mapping[str, object]) -> dict[str, Tensor]:
    features: dict[str, Tensor] = {}
    for name, value in named.items():
        tensor = _tensor(value, name)
        features[name] = tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
    return features


def _ids(value: object, name: str) -> object:
    """Token ids as a caller hands them over: arrays as tensors of whole numbers; rows in a list stay as they are."""
    if not isinstance(value, (Tensor, np.ndarray)):
        return value
    ids = _tensor(value, name)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise InputError(
            "prompts must be rows of token ids",
            where=name,
            expected="integers of shape [batch, tokens]",
            found=f"{ids.dtype} of shape {list(ids.shape)}",
        )
    return ids.long()


def _mask(value: object, name: str) -> Tensor | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        try:
            value = torch.tensor(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise InputError("a mask is rows of 0 and 1", where=name, found=brief(value)) from None
    mask = _tensor(value, name)
    if mask.is_complex():
        raise InputError("a mask is rows of 0 and 1", where=name, found=str(mask.dtype))
    return mask


def _tensor(value: object, name: str) -> Tensor:
    """A dense tensor with values, of a tensor, an array, or of what is so or not."""
    try:
        tensor = torch.as_tensor(value) if isinstance(value, (np.ndarray, bool)) else value
        if isinstance(tensor, Tensor) and not tensor.is_meta:
            return tensor.to_dense() if tensor.layout is not torch.strided else tensor
    except (TypeError, ValueError, RuntimeError):
        pass
    raise InputError(
        "inputs must be tensors",
        where=name,
        expected="a tensor with values",
        found=brief(value),
        remedy="Call the processor with return_tensors='pt'.",
    )


def _check(model: Generative, prompts: Prompts) -> None:
    table = model.get_input_embeddings()
    if isinstance(table, torch.nn.Embedding):
        check_ids(model.named_by_table(prompts.ids), table.num_embeddings)
    limit = model.max_positions
    if limit is not None and prompts.longest > limit:
        raise LengthError(
            "the prompt is longer than the model's positions",
            where="input_ids",
            expected=f"at most {limit} tokens",
            found=f"{prompts.longest} tokens",
            remedy="Shorten it; where positions are rotary, max_position_embeddings=... on loading allows more.",
        )
