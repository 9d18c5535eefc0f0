"""What a model of the user's own begins to write with: ids, vectors, what its encoder made of an input."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from omniform.architectures.named import PreTrainedModel
from omniform.architectures.parameters import parameters_of
from omniform.core.errors import InputError, brief
from omniform.core.outputs import ModelOutput
from omniform.engine.settings import Asked


@dataclass(slots=True)
class Prompt:
    """What rows begin with.

    Attributes:
        ids: tokens that are there; none where the prompt is vectors. Shape: [B, T].
        mask: which places of the prompt are real. Shape: [B, T], or [B, vectors].
        encoded: what the first step is told of an encoder's work, and the mask of its input; None without an encoder.
    """

    ids: Tensor
    mask: Tensor
    encoded: dict[str, object] | None = None


def prompt_of(model: PreTrainedModel, inputs: object, named: dict[str, object], asked: Asked) -> Prompt:
    """Read the prompt out of a call's inputs; what it is made of is taken out of ``named``.

    Raises:
        InputError: there is none, it is given twice, or rows differ in length.
    """
    if model.config.get("is_encoder_decoder") is True:
        return _behind_an_encoder(model, inputs, named, asked)
    vectors = named.get("inputs_embeds")
    if isinstance(vectors, Tensor) and inputs is None and "input_ids" not in named:
        if not parameters_of(type(model)).open and "inputs_embeds" not in parameters_of(type(model)).names:
            raise InputError("the forward takes no vectors", where="inputs_embeds", expected="input_ids")
        ids = torch.zeros(vectors.shape[0], 0, dtype=torch.long, device=model.device)
        return Prompt(ids, _mask(vectors.shape[:2], named, model.device))
    ids = ids_of(model, _one_of(inputs, named), model.config.get("bos_token_id"))
    return Prompt(ids, _mask(ids.shape, named, model.device, seen(ids, asked)))


def _one_of(inputs: object, named: dict[str, object], name: str = "input_ids") -> object:
    given = named.pop(name, None)
    if inputs is not None and given is not None:
        raise InputError("the prompt is given twice", where=name, expected="one of inputs and this name")
    return inputs if given is None else given


def ids_of(model: PreTrainedModel, given: object, start: object, where: str = "input_ids") -> Tensor:
    """Token ids that were given; a row of the first token where none were. Shape: [B, T]."""
    if given is None:
        given = [[start]] if isinstance(start, int) else None
    if isinstance(given, (list, tuple)):
        rows = [given] if all(isinstance(one, int) for one in given) else given
        if len({len(row) for row in rows}) > 1:
            raise InputError("rows differ in length", where=where, remedy="Pad them, with an attention_mask.")
        given = torch.tensor(rows)
    if not isinstance(given, Tensor) or given.dim() != 2 or given.is_floating_point() or not given.numel():
        found = f"shape {list(given.shape)}, {given.dtype}" if isinstance(given, Tensor) else brief(given)
        raise InputError("no prompts", where=where, expected="token ids of shape [batch, tokens]", found=found)
    return given.to(model.device, torch.long)


def seen(ids: Tensor, asked: Asked) -> Tensor:
    """Which tokens are real where nobody says: all but padding, if it cannot be an end as well. Shape: [B, T]."""
    pad, end = asked.known.get("pad_token_id"), asked.known.get("eos_token_id")
    if not isinstance(pad, int) or pad in (end if isinstance(end, (list, tuple)) else (end,)):
        return torch.ones_like(ids)
    return (ids != pad).long()


def _mask(
    shape: torch.Size | tuple[int, ...], named: dict[str, object], device: torch.device, usual: Tensor | None = None
) -> Tensor:
    """Which places are real: as it is given, else as usual, or all. Shape: [B, T]."""
    given = named.pop("attention_mask", None)
    if isinstance(given, Tensor):
        if given.shape != shape:
            expected, found = f"shape {list(shape)}", f"shape {list(given.shape)}"
            raise InputError(
                "the mask does not cover the tokens", where="attention_mask", expected=expected, found=found
            )
        return given.to(device, torch.long)
    return torch.ones(*shape, dtype=torch.long, device=device) if usual is None else usual


# -- encoders --------------------------------------------------------------------------------------------------------


def _behind_an_encoder(model: PreTrainedModel, inputs: object, named: dict[str, object], asked: Asked) -> Prompt:
    """Let the encoder read its input once; the decoder begins with its first token, or with what is given."""
    encoded: dict[str, object] = {}
    rows: int | None = None
    if named.get("encoder_outputs") is None:
        read = _read(model, inputs, named)
        encoded["encoder_outputs"], rows, mask = read.output, read.rows, read.mask
        if mask is not None:
            encoded["attention_mask"] = mask
    else:
        encoded["encoder_outputs"] = named.pop("encoder_outputs")
        if named.get("attention_mask") is not None:
            encoded["attention_mask"] = named.pop("attention_mask")
    start = asked.values["decoder_start_token_id"]
    first = start[0] if isinstance(start, (list, tuple)) and start else start
    first = model.config.get("bos_token_id") if first is None else first
    ids = ids_of(model, named.pop("decoder_input_ids", None), first, "decoder_input_ids")
    if rows is not None and len(ids) == 1:
        ids = ids.expand(rows, -1)
    if isinstance(first, int) and not bool((ids[:, 0] == first).any()):
        ids = torch.cat((torch.full_like(ids[:, :1], first), ids), dim=1)
    given = named.pop("decoder_attention_mask", None)
    mask = given.to(ids.device, torch.long) if isinstance(given, Tensor) else torch.ones_like(ids)
    return Prompt(ids, mask, encoded)


@dataclass(slots=True)
class _Read:
    output: object
    rows: int
    mask: Tensor | None


def _read(model: PreTrainedModel, inputs: object, named: dict[str, object]) -> _Read:
    name = model.main_input_name
    given = _one_of(inputs, named, name)
    if name == "input_ids" and given is None and isinstance(named.get("inputs_embeds"), Tensor):
        name, given = "inputs_embeds", named.pop("inputs_embeds")
    elif name == "input_ids":
        given = ids_of(model, given, None)
    if not isinstance(given, Tensor):
        raise InputError("nothing for the encoder to read", where=name, expected="a tensor", found=brief(given))
    mask = named.get("attention_mask")
    encoder = model.get_encoder()
    taken = inspect.signature(encoder.forward).parameters.values()
    everything, names = any(p.kind is p.VAR_KEYWORD for p in taken), {p.name for p in taken}
    told = {
        key: named.pop(key)
        for key in [*named]
        if not key.startswith(("decoder_", "cross_attn")) and (everything or key in names)
    }
    if "return_dict" in names:
        told["return_dict"] = True
    output = encoder(**{**told, name: given.to(model.device)})
    named.pop("attention_mask", None)
    return _Read(output, len(given), mask if isinstance(mask, Tensor) else None)


def repeated(value: object, rows: int, each: int) -> object:
    """A value with each row as often as it has answers; tensors within outputs, mappings and tuples too."""
    if isinstance(value, Tensor):
        return value.repeat_interleave(each, 0) if value.shape[:1] == (rows,) else value
    if isinstance(value, ModelOutput):
        made = type(value).__new__(type(value))
        for name in value.__dataclass_fields__:  # type: ignore[attr-defined] # every output is a dataclass
            object.__setattr__(made, name, repeated(value.get(name), rows, each))
        return made
    if isinstance(value, Mapping):
        return {name: repeated(one, rows, each) for name, one in value.items()}
    if type(value) in (tuple, list):
        return type(value)(repeated(one, rows, each) for one in value)  # type: ignore[call-arg, attr-defined]
    return value
