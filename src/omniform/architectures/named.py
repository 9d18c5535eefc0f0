"""The ecosystem's class names as classes: ``LlamaForCausalLM`` builds, loads, is inherited from, and can be pickled.

A family composes its models from shared skeletons (``CausalLM``). For each name that a ``config.json`` may list,
:func:`named_class` makes a class once: a :class:`PreTrainedModel` over the skeleton that the family's build returns.
Its constructor builds the composed model and takes over what is in it. Nothing depends on the names.
"""

from __future__ import annotations

import functools
import logging
import os
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from omniform.architectures.adapted import meet_peft
from omniform.architectures.attention_choice import follow_config
from omniform.architectures.generation import GenerationMixin
from omniform.architectures.loss_functions import Loss, for_causal_lm, loss_named
from omniform.architectures.losses import scored
from omniform.architectures.model import INERT, Model, Origin
from omniform.architectures.own import Yielding, begin, is_taken, tie_declared, usual_beginning
from omniform.architectures.parameters import parameters_of
from omniform.architectures.signatures import spell_out
from omniform.architectures.surface import Surface, kept_tokens
from omniform.blocks.poolers import optional_parts
from omniform.core.config import Common, ModelConfig
from omniform.core.errors import InputError, OmniformError, check_arguments
from omniform.core.host import is_traced
from omniform.core.outputs import ModelOutput
from omniform.core.state import StatefulModule, mixers, number_mixers
from omniform.core.upstairs import upstairs
from omniform.weights.init import NoInitialising, initialise, initialising
from omniform.weights.keymap import KeyMap
from omniform.weights.tensors import allocate, home

if TYPE_CHECKING:
    from omniform.architectures.family import Architecture, Family

log = logging.getLogger("omniform")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a class belongs: its family, and which of the family's architectures it is."""

    family: Family
    architecture: Architecture


class PreTrainedModel(Surface):
    """Base of all models with a name of the ecosystem's; users' own models may inherit from it as well.

    A class of the user's own sets ``config_class``, calls ``super().__init__(config)`` and adds its modules, which are
    saved and loaded under their own names. One that inherits from a family's class adds to it, or overrides it.

    Args:
        config: from ``LlamaConfig(...)`` or :class:`omniform.AutoConfig`; may be left out where ``parts`` are given.
        add_pooling_layer: False to leave out the pooler of a base model that has one.
        parts: models that are there already, of classes that are made of several: ``encoder`` and ``decoder``.

    Raises:
        InputError: this is no config, or one of another family; there is no pooler to leave out.
    """

    place: ClassVar[Place | None] = None
    config_class: ClassVar[type[ModelConfig]] = ModelConfig
    base_model_prefix: ClassVar[str] = "model"
    begun: bool = False
    """Whether a model of the user's own has come to the end of its constructor (:meth:`post_init`)."""

    def __init__(self, config: ModelConfig | None = None, *, add_pooling_layer: bool = True, **parts: Model) -> None:
        kind = type(self)
        if parts or config is None:
            config = kind.around(config, parts)
        if not isinstance(config, ModelConfig):
            raise InputError("not a config", where=kind.__name__, expected="a config", found=type(config).__name__)
        place = kind.place
        if place is None:
            super().__init__()
            self._speak_both()
            self.bind(origin_of(kind, config))
            follow_config(self)
            return
        if config.model_type != place.family.model_type:
            raise InputError(
                "this config is of another family",
                where=kind.__name__,
                expected=repr(place.family.model_type),
                found=repr(config.model_type),
            )
        # Modules made where nothing is to be trained could not be trained later.
        with torch.inference_mode(False), torch.device("meta"), NoInitialising():
            self._become(place.architecture.build(config.spec, config.common))
        self.take_in(parts)
        if not config.common.causal:
            for mixer in mixers(self):
                mixer.look_both_ways()
        if not add_pooling_layer:
            self._without_pooler()
        for module in self.modules():  # a part that was a model for a moment numbered its own
            if isinstance(module, StatefulModule):
                module.slot = StatefulModule.slot
        for keeper in self.keepers():
            number_mixers(keeper)
        self.bind(origin_of(kind, config))
        _fix_padding(self, config.get_text_config())
        _name_inner(self, place.family, config)
        follow_config(self)
        spell_out(self)
        self._speak_both()
        where = home()
        if where.type != "meta":
            fresh = initialising()
            with torch.inference_mode(False):
                made = allocate(self, torch.get_default_dtype(), where)
                if fresh:
                    only = made if parts else None
                    initialise(self, config.common.initializer_range, only, self.beginnings())

    def _become(self, built: Model) -> None:
        self.__dict__.update(built.__dict__)
        if not isinstance(self, type(built)):
            self.__class__ = cast(type[Self], _over(type(self), type(built)))

    def _without_pooler(self) -> None:
        if "pooler" not in optional_parts(self):
            raise InputError("this model has no pooler to leave out", where="add_pooling_layer", found=False)
        self._modules["pooler"] = None

    # -- classes of the user's own -----------------------------------------------------------------------------------

    def __init_subclass__(cls, *, family: bool = False, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if cls.place is None and not family and "__call__" not in vars(cls):
            cls.__call__ = _called  # type: ignore[method-assign, assignment]
            for name in Yielding.NAMES - vars(cls).keys():
                setattr(cls, name, Yielding(name, cls))

    @classmethod
    def _named_in_body(cls) -> dict[str, object]:
        # What a user's class body annotates (``config: MyConfig``) is no part: its constructor makes them.
        return super()._named_in_body() if "_named_in_body" in vars(cls) else {}

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, (nn.Module, nn.Parameter)) and self.place is None and is_taken(name):
            raise InputError(
                "the name means something else in every model of omniform",
                where=f"{type(self).__name__}.{name}",
                remedy="Call this part otherwise.",
            )
        super().__setattr__(name, value)  # type: ignore[arg-type] # torch's word for anything

    @property
    def config(self) -> ModelConfig:
        """The checkpoint's config."""
        meet_peft()  # the first thing that it asks a model for
        return self.origin.config

    @config.setter
    def config(self, config: ModelConfig) -> None:
        self._origin = replace(self.origin, config=config)

    @property
    def loss_function(self) -> Loss:
        """The loss that a class of the user's own has set, or the usual one of what its name says it is for."""
        mine = self._modules.get("loss_function") or self.__dict__.get("_loss_function")
        return cast("Loss", mine) if mine is not None else loss_named(type(self).__name__)

    @loss_function.setter
    def loss_function(self, loss: Loss) -> None:
        self.__dict__["_loss_function"] = loss

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        # What a model of the user's own scores is told by its name and its labels; families' heads know.
        if type(self).place is not None:
            return super().loss_items(inputs)
        labels = inputs.get("labels")
        if not isinstance(labels, Tensor) or labels.is_floating_point():
            return None
        shifts = labels.dim() > 1 and self.loss_function is for_causal_lm and not self.config.is_encoder_decoder
        return scored(labels[..., 1:] if shifts else labels)

    def _inner_model(self) -> Model | None:
        inner = self._modules.get(self.base_model_prefix) if self.place is None else None
        return inner if isinstance(inner, Model) else super()._inner_model()

    def get_input_embeddings(self) -> nn.Module:
        """The table that turns token ids into vectors."""
        if self.place is None and self.base_model is self:
            for part in (self, *(self._modules.get(name) for name in ("embeddings", "model", "language_model"))):
                if part is not None and part._modules.get("embed_tokens") is not None:
                    return cast(nn.Module, part._modules["embed_tokens"])
        return super().get_input_embeddings()

    def can_generate(self) -> bool:
        """Whether ``generate`` works on this model."""
        return isinstance(self, GenerationMixin) or super().can_generate()

    def _init_weights(self, module: nn.Module) -> None:
        """How the tensors of one module of the user's own begin; a subclass may say otherwise."""
        usual_beginning(module, self.config.common.initializer_range)

    def post_init(self) -> None:
        """Give fresh weights to the modules that a class of the user's own added, and tie what it declares as tied."""
        if self.place is not None:
            super().post_init()
            return
        if initialising() and not any(tensor.is_meta for tensor in self.parameters()):
            begin(self)
        self.begun = True
        self.tie_weights()

    def tie_weights(self, *args: object, **kwargs: object) -> None:
        """Tie again what the config says is tied: after a library has built the modules its own way."""
        if self.place is None:
            tie_declared(self)
        else:
            super().tie_weights(*args, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: object = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **inputs: object,
    ) -> dict[str, object]:
        """See :meth:`Surface.prepare_inputs_for_generation`; of an encoder-decoder of the user's own, ids and their
        mask are the decoder's, beside the encoder's mask."""
        if self.place is not None or self.config.get("is_encoder_decoder") is not True:
            return super().prepare_inputs_for_generation(
                input_ids, past_key_values, attention_mask, inputs_embeds, **inputs
            )
        past = kept_tokens(past_key_values)
        new = input_ids[:, past:] if past < input_ids.shape[1] else input_ids[:, -1:]
        given = {**inputs, "past_key_values": past_key_values, "attention_mask": attention_mask}
        return {name: value for name, value in {**given, "decoder_input_ids": new}.items() if value is not None}

    def key_map(self) -> KeyMap:
        """See :meth:`Model.key_map`; in a model of the user's own, each named model in it lives as it does alone."""
        keys = super().key_map()
        if self.place is None:
            for name, part in self._modules.items():
                if isinstance(part, PreTrainedModel):
                    keys |= part.key_map().under(name, name)
        return keys

    def _twin(self) -> nn.Module:
        place = self.place
        if place is None:
            return nn.Module()
        with torch.device("meta"), NoInitialising():
            return place.architecture.build(self.config.spec, self.config.common)

    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> tuple[object, ...]:
        # What a model is leads to functions, which cannot be pickled; its class and its config lead there again.
        named, skeleton = vars(type(self)).get("made_of", (type(self), None))
        state = {name: value for name, value in self.__dict__.items() if name != "_origin"}
        origin = self._origin
        return _remade, (named, skeleton, origin and origin.config, origin and origin.name_or_path), state

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: object, **kwargs: object
    ) -> Self:
        """Load a checkpoint as this class; see :meth:`omniform.AutoModel.from_pretrained`."""
        if args:
            raise InputError("only the name is given by position", where=f"{cls.__name__}.from_pretrained")
        return cast(Self, upstairs("hub.checkpoint:load_class")(cls, pretrained_model_name_or_path, **kwargs))

    @classmethod
    def from_config(cls, config: ModelConfig, **kwargs: object) -> Self:
        """A model with fresh weights; see :meth:`omniform.AutoModel.from_config`."""
        return cast(Self, upstairs("hub.checkpoint:class_from_config")(cls, config, **kwargs))

    @classmethod
    def _from_config(cls, config: ModelConfig, **kwargs: object) -> Self:
        return cls.from_config(config, **kwargs)


def _called(self: PreTrainedModel, *args: object, **inputs: object) -> object:
    """Run the ``forward`` of a class of the user's own, whatever it takes and gives.

    What it cannot take is refused with the nearest name; where it takes ``**kwargs``, it gets all there is. Without a
    ``return_dict`` of its own, ``return_dict=False`` makes a tuple of its output.
    """
    own = parameters_of(type(self))
    plain = None
    if "return_dict" not in own.names and not own.open:
        plain = inputs.pop("return_dict", None)
    self._ask(inputs)
    if not own.open and not is_traced():
        for name in INERT:
            if name in inputs and name not in own.names:
                del inputs[name]
        check_arguments(f"{type(self).__name__}.forward", inputs, own.names)
    output = nn.Module.__call__(self, *args, **inputs)
    return output.to_tuple() if plain is False and isinstance(output, ModelOutput) else output


def model_class(
    name: str, family: Family, architecture: Architecture, base: type[PreTrainedModel], module: str
) -> type[PreTrainedModel]:
    """The class of one architecture.

    Args:
        base: the family's own base class (``LlamaPreTrainedModel``).
        module: where it is found, for pickle.
    """
    skeleton = architecture.skeleton
    bases = (base,) if skeleton is Model else (base, skeleton)
    body = {
        "__module__": module,
        "__qualname__": name,
        "__doc__": f"``{name}`` of the ecosystem: a ``{family.model_type}`` model as :class:`{skeleton.__name__}`.",
        "place": Place(family, architecture),
        "base_model_prefix": architecture.prefix or family.base.prefix or "model",
    }
    return type(name, bases, body)


def family_class(name: str, config_class: type[ModelConfig], module: str, prefix: str) -> type[PreTrainedModel]:
    """The base of a family's classes (``LlamaPreTrainedModel``), whose heads call the model without one ``prefix``."""
    body = {"__module__": module, "__qualname__": name, "config_class": config_class, "base_model_prefix": prefix}
    made: type[PreTrainedModel] = type(name, (PreTrainedModel,), body, family=True)
    return made


def returned(build: Callable[..., Model]) -> type[Model]:
    """The skeleton that a build function says it returns; :class:`Model` where it does not say."""
    plain = build.func if isinstance(build, functools.partial) else build
    try:
        hint = typing.get_type_hints(plain).get("return")
    except (NameError, TypeError):  # names that are imported for type checkers only
        return Model
    return hint if isinstance(hint, type) and issubclass(hint, Model) else Model


_OVER: dict[tuple[type[Model], type[Model]], type[Model]] = {}


def _over(named: type[Model], skeleton: type[Model]) -> type[Model]:
    """A named class over another skeleton than it was declared with, which a config may ask for (BERT as a decoder)."""
    if (named, skeleton) in _OVER:
        return _OVER[named, skeleton]
    body = {
        "__module__": named.__module__,
        "__qualname__": named.__qualname__,
        "made_of": (named, skeleton),
        "forward": skeleton.forward,  # the named class may have spelled out that of its own
    }
    made = type(named.__name__, (named, skeleton), body)
    return _OVER.setdefault((named, skeleton), made)


def _remade(
    named: type[PreTrainedModel], skeleton: type[Model] | None, config: ModelConfig | None, name_or_path: str | None
) -> PreTrainedModel:
    kind = named if skeleton is None else _over(named, skeleton)
    made = cast(PreTrainedModel, kind.__new__(kind))
    if config is not None:
        made.__dict__["_origin"] = origin_of(named, config, name_or_path or "")
    return made


def origin_of(kind: type[PreTrainedModel], config: ModelConfig, name_or_path: str = "") -> Origin:
    """What a model of this class is."""
    place = kind.place
    parts = _ad_hoc(kind, config) if place is None else (place.family, place.architecture)
    return Origin(config, *parts, name_or_path)


def _fix_padding(model: nn.Module, config: ModelConfig) -> None:
    """Keep the padding token's vector out of training where it is read, as the family's checkpoints were trained."""
    token = config.common.pad_token_id
    if token is None or type(config).learns_padding:
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] == "embed_tokens":
            rows = module.num_embeddings
            module.padding_idx = token % rows if -rows <= token < rows else None


def _name_inner(model: Model, family: Family, config: ModelConfig) -> None:
    """Make the base model inside a head what it is when it stands alone (``LlamaModel``), with the same config."""
    inner, base = model.base_model, family.base
    if inner is model or isinstance(inner, PreTrainedModel) or not isinstance(inner, base.skeleton):
        return
    if base.skeleton is Model:
        return
    named = family.classes[base.name]
    inner.__class__ = named if type(inner) in named.__mro__ else _over(named, type(inner))
    inner.bind(origin_of(named, config))


def _ad_hoc(kind: type[PreTrainedModel], config: ModelConfig) -> tuple[Family, Architecture]:
    """What a model of the user's own is: a family of one, whose weights have their own names."""
    from omniform.architectures.family import Architecture, Family

    def build(spec: object, common: Common) -> Model:
        raise OmniformError(f"{kind.__name__} is built by its own constructor")

    own = Architecture(kind.__name__, ("base",), build, _identity, kind.base_model_prefix)
    return Family(config.model_type, type(config).reader, {kind.__name__: own}), own


def _identity(spec: object) -> KeyMap:
    return KeyMap({})
