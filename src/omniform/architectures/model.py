"""The base of everything that can be loaded: :class:`Model`.

A model is a torch module whose ``forward`` takes the ecosystem's keyword arguments and returns a
:class:`~omniform.core.outputs.ModelOutput`. Its maths is in ``decode`` or ``encode`` methods that take a
:class:`~omniform.core.context.StepContext`, which the engine calls directly.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, Self, cast, runtime_checkable

import torch
from torch import Tensor, nn

from omniform.architectures.arrivals import check_kinds
from omniform.architectures.attention_choice import choose_attention
from omniform.architectures.labels import Targets, check_targets
from omniform.architectures.parameters import parameters_of, patched_names
from omniform.blocks.composed import Composed
from omniform.core.config import Beginning, ModelConfig
from omniform.core.context import Backend, StepContext, Tapped, Taps
from omniform.core.errors import InputError, MissingPartError, UnknownAttributeError, check_arguments
from omniform.core.generation import GenerationConfig
from omniform.core.host import is_all_true, is_traced
from omniform.core.outputs import ModelOutput
from omniform.core.pushing import PushToHub
from omniform.core.recompute import Recompute
from omniform.core.state import DenseState, HasModules
from omniform.core.streamed import Streamed
from omniform.core.upstairs import upstairs
from omniform.weights.counting import count_bytes, count_numbers

if TYPE_CHECKING:
    from omniform.architectures.family import Architecture, Family
    from omniform.architectures.named import PreTrainedModel
    from omniform.weights.keymap import KeyMap
    from omniform.weights.transform import Transform

INERT = ("use_cache", "cache_position", "num_items_in_batch", "synced_gpus")
"""Inputs that the ecosystem's loops give to any model; where a forward has no use for one, it changes nothing."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a built model is: its config, the architecture it was built as, where its weights came from."""

    config: ModelConfig
    family: Family
    architecture: Architecture
    name_or_path: str = ""

    def __reduce__(self) -> tuple[object, ...]:
        # Family and architecture lead to functions, which cannot be pickled; the class of that name leads there again.
        return _origin_again, (self.family.classes[self.architecture.name], self.config, self.name_or_path)


def _origin_again(kind: type[PreTrainedModel], config: ModelConfig, name_or_path: str) -> Origin:
    assert kind.place is not None
    return Origin(config, kind.place.family, kind.place.architecture, name_or_path)


@runtime_checkable
class BringsWeights(Protocol):
    """A hook that brings a module's weights before it is called."""

    execution_device: str | int | torch.device | None


@runtime_checkable
class KeepsFile(Protocol):
    """A model whose checkpoints hold a file of its own (``Model.own_file``)."""

    def read_own(self, path: Path) -> None:
        """Read it."""

    def write_own(self, path: Path) -> None:
        """Write it, where there is anything to write."""


class Model(PushToHub, Composed):
    """Base of all models; a subclass names its parts in its body.

    Attributes:
        attn_backend: how attention is computed (:mod:`omniform.blocks.kernels`).
        main_input: the name of the first argument of ``forward``.
        own_file: a further file of its checkpoints, which it reads and writes itself (:class:`KeepsFile`).
        recompute: how training computes layers once more for their gradients; None: it keeps what these need.
        generation_config: defaults of ``generate``: the checkpoint's, or those that its config holds, as old ones do.
        spelling: keys that the checkpoint spells in another of the known ways, to write them back the same.
        transforms: the edits that made it other than its family builds it.
        keymap: where its modules live in a checkpoint, if those edits have changed that.
        placed_at: where its parts were placed, by module path as the checkpoint spells it: an accelerator's index,
            ``"cpu"`` or ``"disk"``; nothing where nobody has placed them.
    """

    main_input = "input_ids"
    own_file: ClassVar[str] = ""
    recompute: ClassVar[Recompute | None] = None

    def __post_init__(self) -> None:
        self.attn_backend: Backend = "sdpa"
        self.generation_config = GenerationConfig()
        self.spelling: dict[str, str] = {}
        self.transforms: tuple[Transform, ...] = ()
        self.keymap: KeyMap | None = None
        self.placed_at: Mapping[str, int | str] = {}
        self._origin: Origin | None = None

    @classmethod
    def around(cls, config: ModelConfig | None, parts: Mapping[str, Model]) -> ModelConfig:
        """The config of a model that is made of models which are there already; few can be.

        Args:
            config: what else is to be so; None for the usual.
            parts: by the names of the constructor's arguments.
        """
        check_arguments(cls.__name__, parts, ())
        raise InputError("not a config", where=cls.__name__, expected="a config", found="None")

    def take_in(self, parts: Mapping[str, Model]) -> None:
        """Put these models in the places of those that were built for them; see :meth:`around`."""

    # -- running -----------------------------------------------------------------------------------------------------

    def __call__(self, *args: object, **inputs: object) -> ModelOutput:
        """Run ``forward``; an unknown keyword is refused with the nearest name.

        ``return_dict=False`` returns the output's entries as a plain tuple. ``loss_only=True`` says that nobody looks
        at anything but the loss: what it does not need may be left out of the output, and not be computed.
        """
        plain = inputs.pop("return_dict", None) is False
        lean = inputs.pop("loss_only", None) is True and self._leans()
        self._ask(inputs)
        if not is_traced():
            accepted = self.accepts() | patched_names(self)
            for name in INERT:
                if name in inputs and name not in accepted:
                    del inputs[name]
            check_arguments(f"{type(self).__name__}.forward", inputs, accepted)
            args, inputs = self._arrived(args, inputs, lean)
        output = cast(ModelOutput, super().__call__(*args, **inputs))
        return cast(ModelOutput, output.to_tuple()) if plain else output

    def _leans(self) -> bool:
        """Whether nobody sees what its forward gives but who called it, and no program was made for inputs of one kind.

        A forward of the user's own or a hook may look at the scores.
        """
        own = not type(self).forward.__module__.startswith("omniform.")
        return not own and not self._forward_hooks and self._compiled_call_impl is None

    def _ask(self, inputs: dict[str, object]) -> None:
        """Ask of a call what the config asks of all of them, where it does not say otherwise."""
        if self._origin is None:  # a part, which is asked by its whole
            return
        asked = self._origin.config.common
        wishes: dict[str, object] = {} if asked.use_cache else {"use_cache": False}
        if asked.output_hidden_states:
            wishes["output_hidden_states"] = True
        if asked.output_attentions:
            wishes["output_attentions"] = True
        for name, wish in wishes.items():
            if inputs.get(name) is None and name in self.accepts():
                inputs[name] = wish

    def arrive(self, inputs: dict[str, object]) -> None:
        """Look at the inputs of a call before anything is computed; they may be replaced by what means the same.

        This is where the numbers in them are checked: a forward never looks.

        Args:
            inputs: by name; changed in place.

        Raises:
            InputError: ids outside the vocabulary, shapes that do not fit.
        """

    def targets(self) -> Mapping[str, Targets]:
        """What a loss is computed against, by the names of the inputs, and what each may be.

        A subclass with a loss of its own says it of its own labels.
        """
        return {}

    def unpads(self) -> bool:
        """Whether padding can be left out of the text that it reads (``row_lengths``)."""
        return False

    def lighten(self, inputs: dict[str, object]) -> None:
        """Note in a call's inputs what its loss does not need, where only the loss is wanted (``loss_only``).

        A subclass says so that knows how much that is; the others compute all.

        Args:
            inputs: by name; changed in place.
        """

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        """What the loss of a call is the mean over: scored tokens, rows with a label, places, pixels.

        Whoever cuts a step's batch into pieces adds these up and gives the sum to every piece as
        ``num_items_in_batch``; the losses of the pieces then add up to that of the whole. A loss that is the sum of
        several means has as many counts. Losses that do not divide, as those that compare all rows with one another,
        have none.

        Args:
            inputs: of a call, by name, with its labels.

        Returns:
            The count, on the labels' device; Shape: [] or [parts]. None where the loss does not divide, or there is
            none.
        """
        return None

    def _arrived(
        self, args: tuple[object, ...], inputs: dict[str, object], lean: bool
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        own = parameters_of(type(self))
        named = {**dict(zip(own.ordered, args, strict=False)), **inputs}
        check_kinds(named)
        check_targets(self.targets(), named)
        if lean:
            self.lighten(named)
        self.arrive(named)
        # What follows those with names goes on by position, and so does what has no other way.
        kept = len(own.ordered) if len(args) > len(own.ordered) else min(own.unnamed, len(args))
        return (*(named.pop(name) for name in own.ordered[:kept]), *args[len(own.ordered) :]), named

    def accepts(self) -> frozenset[str]:
        """The names of the inputs that ``forward`` takes, those it passes on to its base model included."""
        own, inner = parameters_of(type(self)), self._inner_model()
        return own.names | inner.accepts() if own.passes_on and inner is not None else own.names

    def keeper(self) -> HasModules:
        """The part that keeps state between steps: the decoder, where there is one."""
        return self

    def keepers(self) -> tuple[HasModules, ...]:
        """All such parts, each of which keeps a state of its own: several in models that feed one another."""
        return (self.keeper(),)

    def step(
        self,
        tokens: Tensor,
        asked: Tapped | None = None,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        state: DenseState | None = None,
        texts: Tensor | None = None,
        bidirectional: Tensor | None = None,
    ) -> StepContext:
        """The context of one padded step.

        Args:
            tokens: Shape: [B, T, ...]; gives the number of rows, of tokens and the device.
            asked: what the caller wants to see on the way.
            attention_mask: Shape: [B, past + T], 1 for real tokens; or [B, 1, T, past + T].
            position_ids: Shape: [B, T]; counts on from the state's length by default.
            texts: which text of its row each token belongs to. Shape: [B or 1, T]; None where every row is one.
            bidirectional: see :class:`~omniform.core.context.StepContext`.
        """
        rows, new = tokens.shape[:2]
        past = 0 if state is None else state.length
        if position_ids is None:
            position_ids = torch.arange(past, past + new, device=tokens.device)[None]
            if state is not None and state.shift is not None:
                position_ids = position_ids + state.shift
        else:
            _check_position_ids(position_ids, rows, new)
        padding = allowed = None
        if attention_mask is not None:
            check_mask(attention_mask, rows, new, past)
            if attention_mask.dim() == 2:
                padding = attention_mask.bool()
            else:
                # Numbers to be added to the scores are 0 where attention is allowed, and none of them is above it.
                allowed = attention_mask > 0
                if attention_mask.is_floating_point():
                    allowed = allowed | ((attention_mask <= 0).all() & (attention_mask > -1))
        return StepContext(
            positions=position_ids,
            past=past,
            padding=padding,
            allowed=allowed,
            bidirectional=bidirectional,
            texts=texts,
            state=state,
            backend=self.attn_backend,
            taps=Taps(asked),
            recompute=self.recompute if self.training and state is None and torch.is_grad_enabled() else None,
        )

    # -- what it is --------------------------------------------------------------------------------------------------

    def bind(self, origin: Origin) -> Self:
        """Tie this model to its config and its architecture; done once, by whoever built it."""
        self._origin = origin
        # PEFT looks for it there, to note it in an adapter's config.
        self.__dict__["name_or_path"] = origin.name_or_path
        if self.can_generate():
            self.generation_config = GenerationConfig.from_model_config(origin.config)
        return self

    def beginnings(self) -> Callable[[str], Beginning | None]:
        """How fresh tensors begin, by their paths: as the config says, or as that of the model within which they are.

        A backbone has a config of its own, with a standard deviation of its own.
        """
        config = self.config
        found = [(path, m._origin) for path, m in self.named_modules() if isinstance(m, Model)]
        inner: list[tuple[str, ModelConfig]] = [
            (f"{path}.", own.config) for path, own in reversed(found) if own is not None and own.config is not config
        ]

        def begins(path: str) -> Beginning | None:
            how = config.beginning(path)
            home = next(((start, own) for start, own in inner if path.startswith(start)), None)
            if how is not None or home is None:
                return how
            start, own = home
            how = own.beginning(path.removeprefix(start))
            return own.common.initializer_range if how is None else how

        return begins

    @property
    def origin(self) -> Origin:
        """What this model is, beyond its modules."""
        if self._origin is None:
            raise UnknownAttributeError(
                "this module is a part of a model and has no config of its own", remedy="Ask the whole model."
            )
        return self._origin

    @property
    def bound(self) -> bool:
        """Whether it has a config of its own; parts of some models have none."""
        return self._origin is not None

    @property
    def config(self) -> ModelConfig:
        """The checkpoint's config."""
        return self.origin.config

    def key_map(self) -> KeyMap:
        """Where each of this model's modules lives in a checkpoint: as its family says, or as transforms left it."""
        return self.origin.architecture.keys(self.config.spec) if self.keymap is None else self.keymap

    @property
    def name_or_path(self) -> str:
        """The folder or the Hub id that the weights came from."""
        return self.origin.name_or_path

    @property
    def base_model(self) -> Model:
        """The model without its task head; itself, where there is none."""
        inner = self._inner_model()
        return self if inner is None else inner

    def _inner_model(self) -> Model | None:
        # Not by comparing with self: to torch.compile, what a property gives back is another object.
        inner = self._modules.get("model")
        return inner if isinstance(inner, Model) else None

    @property
    def device(self) -> torch.device:
        """Where the first parameter lies; where an offloading tool brings it to, if it lies elsewhere between calls."""
        device = next(self.parameters()).device
        if device.type == "meta":
            hooks = (vars(module).get("_hf_hook") for module in self.modules())  # accelerate's
            places = (h.execution_device for h in hooks if isinstance(h, BringsWeights))
            return torch.device(next((place for place in places if place is not None), device))
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first floating-point parameter."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Behind ``to``, ``cuda``, ``half`` and their like. What was spread over places for want of room in one has no
        # one place to go to.
        places = set(self.placed_at.values())
        if len(places) > 1 or "disk" in places:
            raise InputError(
                "a model that lies in several places, or on disk, cannot be moved or changed in dtype",
                where="hf_device_map",
                found=", ".join(sorted(map(str, places))),
                remedy="Load it again with another device_map or dtype.",
            )
        return cast(Self, super()._apply(fn, recurse))  # type: ignore[no-untyped-call]

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the model has learned, also those that it holds in blocks; tied weights count once."""
        return count_numbers(self, only_trainable=only_trainable, exclude_embeddings=exclude_embeddings)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes that all parameters take in memory, and all buffers: packed matrices as they are packed."""
        return count_bytes(self, buffers=return_buffers)

    def get_input_embeddings(self) -> nn.Module:
        """The table that turns token ids into vectors."""
        base = self.base_model
        if base is self:
            raise MissingPartError(f"{type(self).__name__} has no table of input embeddings")
        return base.get_input_embeddings()

    def token_tables(self) -> list[nn.Embedding]:
        """Every table of tokens: more than one where encoder and decoder have their own."""
        base = self.base_model
        if base is not self:
            return base.token_tables()
        table = self.get_input_embeddings()
        return [table] if isinstance(table, nn.Embedding) else []

    def get_output_embeddings(self) -> nn.Module | None:
        """The projection onto the vocabulary, or None."""
        return self._modules.get("lm_head")

    def can_generate(self) -> bool:
        """Whether ``generate`` works on this model."""
        return False

    def set_attn_implementation(self, attn_implementation: str | Mapping[str, object] | None) -> None:
        """Choose how attention is computed; see :func:`~omniform.architectures.attention_choice.choose_attention`.

        Args:
            attn_implementation: ``"sdpa"`` (fused), ``"eager"`` (written out), ``"native"``, ``"flex_attention"``,
                ``"flash_attention_2"`` or ``"flash_attention_3"``; or names by the keys of the configs within.

        Raises:
            InputError: no such implementation, no such part, or no device for it.
            DependencyError: its package is not installed.
        """
        choose_attention(self, attn_implementation)

    # -- what users expect on a model, done on higher floors -----------------------------------------------------------

    def generate(self, inputs: object = None, *given: object, **kwargs: object) -> object:
        """Write on from a prompt; see :func:`omniform.engine.generate.generate`.

        Args:
            given: by position, what the ecosystem's ``generate`` takes so: ``generation_config``, ``logits_processor``,
                ``stopping_criteria``, ``prefix_allowed_tokens_fn``, ``synced_gpus``, ``assistant_model``, ``streamer``,
                ``negative_prompt_ids``, ``negative_prompt_attention_mask``, ``custom_generate``.
        """
        return upstairs("engine.generate:generate")(self, inputs, *given, **kwargs)

    def stream(self, inputs: object = None, **kwargs: object) -> Iterator[Streamed]:
        """Write on from prompts, token by token; see :func:`omniform.engine.streaming.stream_pieces`."""
        return cast("Iterator[Streamed]", upstairs("engine.streaming:stream_pieces")(self, inputs, **kwargs))

    def astream(self, inputs: object = None, **kwargs: object) -> AsyncIterator[Streamed]:
        """The same for an event loop; see :func:`omniform.engine.streaming.astream`."""
        return cast("AsyncIterator[Streamed]", upstairs("engine.streaming:astream")(self, inputs, **kwargs))

    def generate_batch(self, inputs: Sequence[Sequence[int]], *args: object, **kwargs: object) -> object:
        """Answer many prompts, each for itself; see :func:`omniform.engine.generate.generate_batch`."""
        return upstairs("engine.generate:generate_batch")(self, inputs, *args, **kwargs)

    def init_continuous_batching(self, *args: object, **kwargs: object) -> object:
        """A manager of requests; see :class:`omniform.engine.manager.ContinuousBatchingManager`."""
        return upstairs("engine.manager:init_continuous_batching")(self, *args, **kwargs)

    def continuous_batching_context_manager(self, *args: object, **kwargs: object) -> object:
        """A manager that runs inside a block; see :mod:`omniform.engine.manager`."""
        return upstairs("engine.manager:continuous_batching_context_manager")(self, *args, **kwargs)

    def score(self, prompt: object, continuation: object, **kwargs: object) -> object:
        """How likely a continuation is; see :func:`omniform.engine.scoring.score`."""
        return upstairs("engine.scoring:score")(self, prompt, continuation, **kwargs)

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: Sequence[Tensor],
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """How the tokens of an answer scored; see :func:`omniform.engine.transitions.transition_scores`."""
        door = upstairs("engine.transitions:transition_scores")
        return cast(Tensor, door(sequences, scores, beam_indices, normalize_logits))

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: object) -> None:
        """Save config and weights to a folder; see :func:`omniform.hub.save.save_model`."""
        upstairs("hub.save:save_model")(self, save_directory, **kwargs)

    def export(self, format: str, path: str | os.PathLike[str], **kwargs: object) -> object:
        """Write it for another runtime: ``export("onnx", path)``; see :func:`omniform.export.exporting.export`.

        Args:
            format: ``"onnx"``, ``"torch"``, ``"aot"``, ``"gguf"`` or ``"safetensors"``.

        Raises:
            InputError: there is no such format.
        """
        return upstairs("export.exporting:export")(self, format, path, **kwargs)

    def save_gguf(self, path: str | os.PathLike[str], **kwargs: object) -> None:
        """Save config, tokenizer and weights as a GGUF file; see :func:`omniform.hub.gguf.writing.save_gguf`."""
        upstairs("hub.gguf.writing:save_gguf")(self, path, **kwargs)


def check_mask(mask: Tensor, rows: int, new: int, past: int) -> None:
    if mask.dim() == 4:
        fits = mask.shape[0] in (rows, 1) and tuple(mask.shape[2:]) == (new, past + new)
    else:
        fits = mask.dim() == 2 and mask.shape[0] in (rows, 1) and mask.shape[1] == past + new
    if not fits:
        raise InputError(
            "the mask does not cover the tokens",
            where="attention_mask",
            expected=f"shape [{rows}, {past + new}]" + (f" ({past} kept and {new} new tokens)" if past else ""),
            found=f"shape {list(mask.shape)}",
        )


def _check_position_ids(ids: Tensor, rows: int, new: int) -> None:
    # Positions may have one row for all, or (multi-axis rotary) an axis more in front.
    if ids.dim() == 0 or ids.shape[-1] != new or (ids.dim() > 1 and ids.shape[-2] not in (rows, 1)):
        raise InputError(
            "there is not one position per token",
            where="position_ids",
            expected=f"shape [{rows}, {new}]",
            found=f"shape {list(ids.shape)}",
        )


def arrive_masked(inputs: dict[str, object], *, rows: int, new: int, past: int = 0) -> None:
    """Check the mask of a call, and leave out one that masks nothing: without it there is less to do."""
    mask = inputs.get("attention_mask")
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise InputError(
            "a mask must be a tensor", where="attention_mask", expected="a tensor", found=type(mask).__name__
        )
    check_mask(mask, rows, new, past)
    if mask.dim() == 2 and is_all_true(mask):
        inputs["attention_mask"] = None
