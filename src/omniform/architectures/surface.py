"""What trainers, adapters and loaders of the ecosystem ask a model for: :class:`Surface`, the base of named models.

PEFT, accelerate and the reference's Trainer know these methods and attributes by name. None of them computes anything
that a forward needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Generic, Protocol, Self, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn

from omniform.architectures.adapter_methods import TakesAdapters
from omniform.architectures.loss_functions import loss_kind
from omniform.architectures.model import Model
from omniform.architectures.resize import PerToken, head_to, resized, swapped, table_to
from omniform.blocks.checkpointed import Checkpointed, GradientCheckpointingLayer
from omniform.core.auto_class import AutoNamed
from omniform.core.errors import InputError, UnknownAttributeError
from omniform.core.recompute import Recompute
from omniform.weights.init import initialise
from omniform.weights.tensors import named_tensors, tensors_and_ties, tie

T = TypeVar("T")

_DECODERS_TABLE = ("decoder_vocab_size",)
"""Keys, beside ``vocab_size``, that count the rows of a table of tokens (Marian)."""


class Fact(Generic[T]):
    """An attribute told by a model, and by its class as well as the class can tell it.

    Args:
        of_model: asked on a model.
        of_class: asked on a class.
    """

    def __init__(self, of_model: Callable[[Surface], T], of_class: Callable[[type[Surface]], T]) -> None:
        self._of_model = of_model
        self._of_class = of_class

    def __get__(self, model: Surface | None, kind: type[Surface]) -> T:
        return self._of_class(kind) if model is None else self._of_model(model)


class KnowsItsBits(Protocol):
    """What a model that is kept in fewer bits knows of how it was done."""

    def dequantize(self, model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
        """The model with plain weights again."""
        ...

    def is_serializable(self) -> bool:
        """Whether the model can be saved."""
        ...


@runtime_checkable
class Counts(Protocol):
    """A state that tells how many tokens it holds."""

    def get_seq_length(self) -> int: ...


class Surface(AutoNamed, TakesAdapters):
    """The ecosystem's names for what a model is and can do."""

    _usual_auto_class: ClassVar[str] = "AutoModel"

    framework: ClassVar[str] = "pt"
    supports_gradient_checkpointing: ClassVar[bool] = True
    is_parallelizable: ClassVar[bool] = False
    model_parallel: ClassVar[bool] = False
    is_quantized: ClassVar[bool] = False
    hf_quantizer: ClassVar[KnowsItsBits | None] = None
    quantization_method: ClassVar[str | None] = None
    _supports_sdpa: ClassVar[bool] = True
    _supports_flash_attn: ClassVar[bool] = False
    _supports_flash_attn_2: ClassVar[bool] = False
    _supports_flex_attn: ClassVar[bool] = False
    _supports_attention_backend: ClassVar[bool] = False
    _supports_cache_class: ClassVar[bool] = True
    _is_stateful: ClassVar[bool] = False
    _keep_in_fp32_modules: ClassVar[tuple[str, ...]] = ()
    _keys_to_ignore_on_save: ClassVar[Sequence[str] | None] = None
    _keys_to_ignore_on_load_missing: ClassVar[Sequence[str] | None] = None
    _keys_to_ignore_on_load_unexpected: ClassVar[Sequence[str] | None] = None
    _skip_keys_device_placement: ClassVar[str] = "past_key_values"

    main_input_name = Fact[str](lambda model: model.main_input, lambda kind: kind.main_input)
    loss_type = Fact["str | None"](lambda model: loss_kind(type(model).__name__), lambda kind: loss_kind(kind.__name__))
    _no_split_modules = Fact["list[str] | None"](lambda model: model._layers(), lambda kind: None)
    _tied_weights_keys = Fact["dict[str, str] | None"](
        lambda model: tensors_and_ties(model)[1] or None, lambda kind: None
    )
    all_tied_weights_keys = Fact["dict[str, str]"](lambda model: tensors_and_ties(model)[1], lambda kind: {})

    _checkpoint_conversion_mapping = Fact["dict[str, str]"](lambda model: model._renamings(), lambda kind: {})

    def _layers(self) -> list[str]:
        """Class names of what must stay on one device: the layers, found in the structure."""
        stacks = (module for module in self.modules() if isinstance(module, nn.ModuleList))
        return sorted({type(layer).__name__ for stack in stacks for layer in stack})

    def dequantize(self, dtype: torch.dtype | None = None) -> Self:
        """Give the model plain weights again, where its quantizer knows a way back.

        Raises:
            InputError: it is not quantized.
            MissingPartError: its quantizer knows none.
        """
        if self.hf_quantizer is None:
            raise InputError("this model is not quantized", where="dequantize")
        self.hf_quantizer.dequantize(self, dtype)
        self.transforms = tuple(t for t in self.transforms if not t.belongs_to(self.hf_quantizer))
        self.__dict__.update(hf_quantizer=None, is_quantized=False, quantization_method=None)
        for flag in ("is_loaded_in_8bit", "is_loaded_in_4bit"):
            self.__dict__.pop(flag, None)
        if "quantization_config" in self.config.raw:
            self.config.quantization_config = None
            self.config.raw.pop("quantization_config", None)  # to others' loaders null is a method too
        return self

    @property
    def hf_device_map(self) -> Mapping[str, int | str]:
        """See :attr:`placed_at`. A model that nobody has placed has no such attribute: to PEFT and accelerate, one that
        has it is spread over devices."""
        if not self.placed_at:
            raise UnknownAttributeError("this model was not placed", where="hf_device_map")
        return self.placed_at

    @hf_device_map.setter
    def hf_device_map(self, places: Mapping[str, int | str]) -> None:
        self.placed_at = places

    # -- tables of tokens --------------------------------------------------------------------------------------------

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another table of token vectors in every place of the old one; what is tied to it follows."""
        old, head = self.get_input_embeddings(), self.get_output_embeddings()
        was_tied = isinstance(head, nn.Linear) and isinstance(old, nn.Embedding) and head.weight is old.weight
        for table in [m for m in self.modules() if isinstance(m, nn.Embedding)]:
            if table is old or (isinstance(old, nn.Embedding) and table.weight is old.weight):
                swapped(self, table, value)
        if not isinstance(old, nn.Embedding):
            swapped(self, old, value)
        if was_tied and isinstance(head, nn.Linear) and isinstance(value, nn.Embedding):
            head.weight = value.weight

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another projection onto the vocabulary in the place of the old one.

        Raises:
            InputError: this model has none.
        """
        old = self.get_output_embeddings()
        if old is None:
            raise InputError("this model has no projection onto a vocabulary", where="set_output_embeddings")
        swapped(self, old, new_embeddings)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """Make room for more tokens, or for fewer; table, projection and config agree afterwards.

        Args:
            new_num_tokens: how many there are to be; as many as now by default.
            pad_to_multiple_of: round their number up to a multiple of this.
            mean_resizing: new rows are drawn around the mean of the old ones, very closely
                (https://nlp.stanford.edu/~johnhew/vocab-expansion.html); False: from the fresh weights' distribution.

        Raises:
            InputError: the numbers are no positive integers; this model has no table of tokens.
        """
        table = self.get_input_embeddings()
        if not isinstance(table, nn.Embedding):
            raise InputError("this model has no table of tokens", where="resize_token_embeddings")
        for name, number in (("new_num_tokens", new_num_tokens), ("pad_to_multiple_of", pad_to_multiple_of)):
            if number is not None and (type(number) is not int or number < 1):
                raise InputError("no number of tokens", where=name, expected="an integer >= 1", found=repr(number)[:80])
        wanted = table.num_embeddings if new_num_tokens is None else new_num_tokens
        if pad_to_multiple_of is not None:
            wanted = -(-wanted // pad_to_multiple_of) * pad_to_multiple_of
        if wanted == table.num_embeddings:
            return table
        if "weight" not in table._parameters:
            raise InputError(
                "a table that is kept in a file's blocks cannot grow",
                where="resize_token_embeddings",
                found=repr(table),
                remedy="Load the model with dequantize=True.",
            )
        std = None if mean_resizing else self.config.common.initializer_range
        head = self.get_output_embeddings()
        if isinstance(head, nn.Linear):
            head_to(self, head, table, wanted, std)
        for one in self.token_tables():
            if one.num_embeddings != wanted:
                table_to(self, one, resized(one.weight, wanted, std))
        for module in self.modules():
            if isinstance(module, PerToken):
                module.resize(wanted)
        text = self.config.get_text_config()
        said = [name for name in _DECODERS_TABLE if text.raw.get(name) is not None]
        text.update(dict.fromkeys(["vocab_size", *said], wanted))
        return table

    def tie_weights(self, *args: object, **kwargs: object) -> None:
        """Tie again what the config says is tied: after a library has built the modules its own way."""
        held = {path for path, _ in named_tensors(self)}
        for path, owner in tensors_and_ties(self._twin())[1].items():
            if owner in held:  # what is kept in a file's blocks has other names, and is one tensor as it was loaded
                tie(self, path, owner)

    def get_encoder(self) -> nn.Module:
        """The part that reads what a decoder answers; the model itself, where there is no such part."""
        return self.base_model._modules.get("encoder") or self

    def get_decoder(self) -> nn.Module:
        """The part that writes: the decoder, or the language model of several parts; the base model by default."""
        parts = self.base_model._modules
        return parts.get("decoder") or parts.get("language_model") or self.base_model

    # -- beginning ---------------------------------------------------------------------------------------------------

    def _twin(self) -> nn.Module:
        """The same model as its family builds it, without memory."""
        raise NotImplementedError

    def post_init(self) -> None:
        """Give fresh weights to the modules that a class of the user's own added."""
        own = {path for path, tensor in tensors_and_ties(self)[0].items() if not tensor.is_meta}
        initialise(self, self.config.common.initializer_range, own - tensors_and_ties(self._twin())[0].keys())

    def init_weights(self) -> None:
        """See :meth:`post_init`."""
        self.post_init()

    @property
    def warnings_issued(self) -> dict[str, bool]:
        """What trainers note for themselves."""
        notes: dict[str, bool] = self.__dict__.setdefault("_warnings_issued", {})
        return notes

    @property
    def model_tags(self) -> list[str]:
        """Words for the model's page on the Hub."""
        tags: list[str] = self.__dict__.setdefault("_model_tags", [])
        return tags

    def add_model_tags(self, tags: str | list[str]) -> None:
        """Note words for the model's page on the Hub."""
        new = [tags] if isinstance(tags, str) else tags
        self.model_tags.extend(tag for tag in new if tag not in self.model_tags)

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """A few token ids."""
        return {"input_ids": torch.tensor([[7, 6, 0, 0, 1], [1, 2, 3, 0, 0], [0, 0, 0, 4, 5]])}

    # -- training ----------------------------------------------------------------------------------------------------

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: Mapping[str, object] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """In training, keep layers' inputs only and compute the layers once more for their gradients.

        Args:
            gradient_checkpointing_kwargs: torch's own settings. ``use_reentrant`` and ``preserve_rng_state`` change
                nothing here: gradients are right either way.
            every_n_layers: compute one of so many layers of a stack once more, the first among them.
            offload: inputs wait in the host's memory meanwhile.

        Raises:
            InputError: no number of layers; neither True nor False.
            UnknownArgumentError: a setting that torch's checkpointing does not have.
        """
        self._recompute(Recompute.read(gradient_checkpointing_kwargs, every_n_layers, offload))

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, object] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """See :meth:`gradient_checkpointing_enable`."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, every_n_layers, offload)

    def activation_checkpointing_disable(self) -> None:
        """See :meth:`gradient_checkpointing_disable`."""
        self.gradient_checkpointing_disable()

    def gradient_checkpointing_disable(self) -> None:
        """Keep everything that gradients need."""
        self._recompute(None)

    def _recompute(self, how: Recompute | None) -> None:
        number = 0
        for module in self.modules():
            if isinstance(module, Model):
                module.__dict__["recompute"] = how
            if isinstance(module, Checkpointed):
                chosen = how is not None and how.picks(number)
                number += isinstance(module, GradientCheckpointingLayer)
                module.__dict__["_gradient_checkpointing_func"] = Recompute() if how is None else how
                module.__dict__["gradient_checkpointing"] = chosen

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether layers are computed once more for their gradients."""
        return self.recompute is not None

    def enable_input_require_grads(self) -> None:
        """Have the token vectors ask for gradients though their table does not train: adapters need them."""
        if "_grads_hook" not in self.__dict__:
            self.__dict__["_grads_hook"] = self.get_input_embeddings().register_forward_hook(_require_grads)

    def disable_input_require_grads(self) -> None:
        """Undo :meth:`enable_input_require_grads`."""
        if "_grads_hook" in self.__dict__:
            self.__dict__.pop("_grads_hook").remove()

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: object = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **inputs: object,
    ) -> dict[str, object]:
        """The inputs of the next forward, as the ecosystem's own loops of generation ask for them.

        Args:
            input_ids: all tokens so far. Shape: [B, T].
            past_key_values: state of those that were read.
            inputs_embeds: vectors of the prompt, instead of its ids, for the first forward.
        """
        past = kept_tokens(past_key_values)
        given: dict[str, object] = {**inputs, "past_key_values": past_key_values, "attention_mask": attention_mask}
        if inputs_embeds is not None and not past:
            given["inputs_embeds"], new = inputs_embeds, inputs_embeds.shape[1]
        else:
            given["input_ids"] = input_ids[:, past:] if past < input_ids.shape[1] else input_ids[:, -1:]
            new = cast(Tensor, given["input_ids"]).shape[1]
        if attention_mask is not None and attention_mask.dim() == 2 and "position_ids" in self.accepts():
            places = (attention_mask.long().cumsum(-1) - 1).masked_fill(attention_mask == 0, 0)
            given.setdefault("position_ids", places[:, -new:])
        return {name: value for name, value in given.items() if value is not None}


def kept_tokens(past: object) -> int:
    """How many tokens a state holds: a cache's own word, or the length of the first keys in a tuple of pairs."""
    if isinstance(past, Counts):
        return int(past.get_seq_length())
    while isinstance(past, (tuple, list)) and past:
        past = past[0]
    return past.shape[-2] if isinstance(past, Tensor) and past.dim() > 2 else 0


def _require_grads(module: nn.Module, inputs: object, output: Tensor) -> None:
    output.requires_grad_(True)
