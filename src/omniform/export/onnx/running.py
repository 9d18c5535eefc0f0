"""An exported folder as a model: :class:`OnnxModel`. onnxruntime computes; settings and searches are the engine's own.

What a graph reads and gives is told by the folder (:mod:`omniform.export.onnx.layout`). The family's modules stand
beside it without weights, for what they know of inputs: which ids there are, what their output is called.
"""

from __future__ import annotations

import logging
import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor, nn

from omniform.architectures.generation import GenerationMixin
from omniform.architectures.generative import Generative
from omniform.architectures.model import Model, Origin
from omniform.architectures.named import PreTrainedModel
from omniform.architectures.speech import SpeechToText
from omniform.architectures.surface import Surface, kept_tokens
from omniform.core.config import ModelConfig
from omniform.core.errors import InputError, OmniformError, RepoError, brief, check_arguments
from omniform.core.generation import GenerationConfig
from omniform.core.outputs import BaseModelOutput, ModelOutput
from omniform.export.onnx.layout import BRANCH, Graph, Layout, Role, missing, read_layout
from omniform.export.onnx.sessions import Held, OnnxCache, Session
from omniform.hub.checkpoint import load_config, saved_class
from omniform.weights.init import NoInitialising

log = logging.getLogger("omniform")

_CALL: Final = frozenset({"use_cache", "return_dict"})
_WRITERS: Final = frozenset({"decoder_input_ids", "decoder_attention_mask", "encoder_outputs"})
_VERIFIED: Final = "certificate.json says of each file what it was when onnxruntime and torch were seen to agree"


class OnnxModel(Surface):
    """A model that onnxruntime runs, with the forward of the model that was exported. It cannot be trained.

    :meth:`from_pretrained` makes one; one that writes is an :class:`OnnxWriter`.
    """

    def __init__(self, layout: Layout, twin: PreTrainedModel) -> None:
        super().__init__()
        self.__dict__["layout"] = layout
        self.__dict__["twin"] = twin  # of no weights: it is no part of this one
        self.__dict__["sessions"] = {role: Session(layout.folder, layout.graphs[role]) for role in _used(layout)}
        self.main_input = twin.main_input
        self.bind(Origin(twin.config, twin.origin.family, twin.origin.architecture, str(layout.folder)))
        self.eval()

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], *, verify: bool = True) -> OnnxModel:
        """Open an exported folder.

        Args:
            folder: what ``omniform export`` wrote, or another folder of this layout (optimum's) with a config.
            verify: refuse files that are not what they were when they were certified.

        Raises:
            RepoError: this is no such folder; a file is gone, or was changed after its certificate.
            InputError: onnxruntime cannot load a file.
            DependencyError: onnxruntime is not installed.
        """
        layout = _checked(folder, verify)
        if cls is OnnxModel or cls is OnnxWriter:
            twin = _twin(layout)
            return (OnnxWriter if twin.can_generate() else OnnxModel)(layout, twin)
        return cls(layout, _twin(layout))

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where tensors go in and out: the processor's memory."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """What goes in and out."""
        return torch.float32

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the files that are held."""
        folder, held = self._layout.folder, [session.graph.file for session in self._sessions.values()]
        files = [folder / name for file in held for name in (file, f"{file}_data")]
        return sum(path.stat().st_size for path in files if path.is_file())

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: object) -> None:
        """Refused: the folder is what there is to copy.

        Raises:
            InputError: always.
        """
        raise InputError(
            "an exported model is not saved", where="save_pretrained", found=str(self._layout.folder),
            remedy="Copy its folder, or save the model that it was exported from.",
        )  # fmt: skip

    @property
    def _layout(self) -> Layout:
        return cast(Layout, self.__dict__["layout"])

    @property
    def _twin_model(self) -> PreTrainedModel:
        return cast(PreTrainedModel, self.__dict__["twin"])

    @property
    def _sessions(self) -> Mapping[Role, Session]:
        return cast("Mapping[Role, Session]", self.__dict__["sessions"])

    @property
    def _main(self) -> Session:
        """What runs in every step."""
        return next(self._sessions[role] for role in ("model", "decoder_merged", "decoder") if role in self._sessions)

    @property
    def _behind_an_encoder(self) -> bool:
        return "encoder" in self._sessions

    def accepts(self) -> frozenset[str]:
        first = self._sessions["encoder"] if self._behind_an_encoder else self._main
        names = {port.name for port in first.graph.inputs if not port.name.startswith("past")}
        past = {"past_key_values"} if self._keeps else set()
        return frozenset(names | past | _CALL | (_WRITERS if self._behind_an_encoder else frozenset()))

    @property
    def _keeps(self) -> bool:
        graphs = [session.graph for session in self._sessions.values()]
        return any(port.name.startswith("past") for graph in graphs for port in graph.inputs)

    def _arrived(
        self, args: tuple[object, ...], inputs: dict[str, object], lean: bool
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        if args:
            inputs[self.main_input], args = args[0], ()
        past = inputs.pop("past_key_values", None)  # of a kind of its own, looked at where it is used
        args, inputs = super()._arrived(args, inputs, lean)
        return args, inputs if past is None else {**inputs, "past_key_values": past}

    def arrive(self, inputs: dict[str, object]) -> None:
        known = self._twin_model.accepts() - {"past_key_values"}
        told = {name: value for name, value in inputs.items() if name in known and name not in _WRITERS}
        if told and not self._behind_an_encoder:
            self._twin_model.arrive(told)
        tables = self._twin_model.token_tables() if "input_ids" in known else []
        for name in ("input_ids", "decoder_input_ids"):
            ids = inputs.get(name)
            if not isinstance(ids, Tensor) or not ids.numel() or not tables:
                continue
            size = min(table.num_embeddings for table in tables)
            low, high = (int(end) for end in ids.aminmax())
            if low < 0 or high >= size:  # a graph would take a negative one from the end
                raise InputError(
                    "token ids outside the vocabulary", where=name, expected=f"0 to {size - 1}",
                    found=low if low < 0 else high,
                )  # fmt: skip

    def get_encoder(self) -> nn.Module:
        """What reads for the decoder."""
        return _Encoder(self._sessions["encoder"]) if self._behind_an_encoder else self

    # -- running -----------------------------------------------------------------------------------------------------

    def forward(self, *args: Tensor, **inputs: object) -> ModelOutput:
        """What the exported model's forward gives, without what it notes on the way (hidden states, attentions).

        Args:
            args: the main input, by position.
            inputs: as the graph names them; masks, types and positions may be left out.

        Raises:
            InputError: an input is not there, or the graph cannot read it.
        """
        if args:
            inputs[self.main_input] = args[0]
        use_cache = inputs.pop("use_cache", None) is not False
        inputs.pop("return_dict", None)
        given = {name: value for name, value in inputs.items() if value is not None}
        if self._behind_an_encoder:
            return self._answered(given, use_cache)
        past = _past_of(given.pop("past_key_values", None), self._keeps)
        session = self._main
        found = session(_filled(session.graph, given, past.length), past.held)
        named = {name: held for name, held in found.items() if not name.startswith("present")}
        kind = _kind(type(self._twin_model), {name.partition(".")[0] for name in named})
        out = _together(kind, named)
        if self._keeps and use_cache:
            length = past.length + cast(Tensor, given["input_ids"]).shape[1]
            out["past_key_values"] = past.follow(found, length)
        return out

    def _answered(self, given: dict[str, object], use_cache: bool) -> ModelOutput:
        """One step of a decoder that reads an encoder's output."""
        mask = given.pop("decoder_attention_mask", None)
        if isinstance(mask, Tensor) and not bool(mask.all()):
            raise InputError("the exported decoder reads no padding", where="decoder_attention_mask")
        past = _past_of(given.pop("past_key_values", None), self._keeps)
        encoded, ids = given.pop("encoder_outputs", None), given.pop("decoder_input_ids", None)
        attended = given.get("attention_mask")
        if encoded is None:
            encoded = self.get_encoder()(**given)
        if not isinstance(ids, Tensor):
            raise InputError("the decoder has nothing to go on from", where="decoder_input_ids", found=brief(ids))
        hidden = cast(Tensor, encoded[0] if isinstance(encoded, (tuple, list, ModelOutput)) else encoded)
        told: dict[str, object] = {"input_ids": ids, "encoder_hidden_states": hidden}
        if isinstance(attended, Tensor):
            told["encoder_attention_mask"] = attended
        else:
            told["encoder_attention_mask"] = torch.ones(hidden.shape[:2], dtype=torch.int64)
        later = self._sessions.get("decoder_with_past")
        session = later if past.length and later is not None else self._main
        told[BRANCH] = torch.tensor([past.length > 0])
        found = session(told, past.held or session.empty(ids.shape[0]))
        kind = _kind(type(self._twin_model), {"logits"})
        out = _together(kind, {"logits": found["logits"]})
        out["encoder_last_hidden_state"] = hidden
        if self._keeps and use_cache:
            out["past_key_values"] = past.follow(found, past.length + ids.shape[1])
        return out


class OnnxWriter(OnnxModel, GenerationMixin):
    """One that writes: ``generate`` is the loop of plain forwards (:mod:`omniform.engine.own_loop`)."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    @property
    def vocabulary(self) -> int | None:
        """How many tokens it can read."""
        return cast(Generative, self._twin_model).vocabulary

    def can_generate(self) -> bool:
        """It does."""
        return True

    def generate(self, inputs: object = None, *given: object, **kwargs: object) -> object:
        """Write on from a prompt, as :meth:`Model.generate` does.

        Raises:
            InputError: it hears: recordings are cut into windows by the torch model only.
        """
        if isinstance(self._twin_model, SpeechToText) or not {"model", "decoder"} & self._layout.graphs.keys():
            raise InputError(
                "this model does not write through onnxruntime yet", where=type(self._twin_model).__name__,
                remedy="Its forward does run; or load the checkpoint that it was exported from.",
            )  # fmt: skip
        return super().generate(inputs, *given, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: object = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **inputs: object,
    ) -> dict[str, object]:
        """See :meth:`Surface.prepare_inputs_for_generation`; behind an encoder the ids are the decoder's."""
        if not self._behind_an_encoder:
            return super().prepare_inputs_for_generation(
                input_ids, past_key_values, attention_mask, inputs_embeds, **inputs
            )
        new = input_ids[:, kept_tokens(past_key_values) :]
        given = {**inputs, "past_key_values": past_key_values, "attention_mask": attention_mask}
        return {name: value for name, value in {**given, "decoder_input_ids": new}.items() if value is not None}


class _Encoder(nn.Module):
    """The part that reads."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_features: Tensor | None = None,
        input_values: Tensor | None = None,
    ) -> BaseModelOutput:
        """What the decoder reads. Shape: [B, S, D]."""
        told = {
            "input_ids": input_ids, "attention_mask": attention_mask, "pixel_values": pixel_values,
            "input_features": input_features, "input_values": input_values,
        }  # fmt: skip
        named = {port.name for port in self._session.graph.inputs}
        given = {name: value for name, value in told.items() if value is not None}
        check_arguments("the exported encoder", [name for name in given if name != "attention_mask"], named)
        found = self._session(_filled(self._session.graph, {n: v for n, v in given.items() if n in named}, 0), {})
        return BaseModelOutput(last_hidden_state=found["last_hidden_state"].tensor())


def opened(folder: str | os.PathLike[str], kind: type[PreTrainedModel], kwargs: Mapping[str, object]) -> Model:
    """An exported folder where a checkpoint is asked for as a class; the door of :mod:`omniform.hub.checkpoint`.

    Raises:
        InputError: it was exported as another, or something is asked of its weights.
    """
    model = OnnxModel.from_pretrained(folder, verify=kwargs.get("verify") is not False)
    own, wanted = model.origin.architecture.name, kind.__name__
    if own != wanted:
        raise InputError(
            "the folder was exported as another model", where=str(folder), expected=wanted, found=own,
            remedy="Export it again with the --task that is wanted.",
        )  # fmt: skip
    plain = {"dtype": ("auto", "float32", torch.float32), "device_map": ("cpu",)}
    inert = ("verify", "revision", "token", "cache_dir", "local_files_only", "trust_remote_code", "force_download")
    for name, value in kwargs.items():
        if value is not None and name not in inert and value not in plain.get(name, ()):
            raise InputError("an exported model is run as it is", where=name, found=brief(value), expected="nothing")
    return model


def _used(layout: Layout) -> Sequence[Role]:
    """The files that are opened: of a merged decoder and those that it is made of, the merged."""
    roles = [*layout.graphs]
    if "decoder_merged" in roles:
        roles = [role for role in roles if role not in ("decoder", "decoder_with_past")]
    if not {"model", "decoder", "decoder_merged"} & {*roles}:
        raise RepoError("these graphs are no whole model", where=str(layout.folder), found=", ".join(roles))
    return roles


def _checked(folder: str | os.PathLike[str], verify: bool) -> Layout:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing("onnxruntime") from error
    layout = read_layout(Path(folder))
    if not layout.certificate:
        if verify:
            log.info("%s has no certificate: nobody has compared it with torch", layout.folder)
        return layout
    if verify:
        from omniform.export.exporting import check_digests

        try:
            check_digests(layout)
        except RepoError as error:
            raise RepoError(
                f"{error}", where=str(layout.folder), remedy=f"verify=False goes on regardless: {_VERIFIED}."
            ) from error
    made = cast("Mapping[str, str]", layout.certificate.get("versions", {})).get("onnxruntime", "")
    if made != onnxruntime.__version__:
        log.warning("%s: compared with onnxruntime %s, run by %s", layout.folder, made, onnxruntime.__version__)
    for graph in layout.graphs.values():
        if not (layout.folder / graph.file).is_file():
            raise RepoError("a file of the folder is gone", where=str(layout.folder / graph.file))
    return layout


def _twin(layout: Layout) -> PreTrainedModel:
    """The family's modules, without weights: as the certificate names them, else as the config does."""
    config = load_config(ModelConfig, layout.folder)
    kind = saved_class(config)
    told = str(layout.certificate.get("architecture", ""))
    assert kind.place is not None, "users' own classes are not exported"
    kind = kind.place.family.classes.get(told, kind)
    with torch.device("meta"), NoInitialising():
        twin = kind(config).eval()
    if twin.can_generate():
        settings = layout.folder / "generation_config.json"
        if settings.is_file():
            twin.generation_config = GenerationConfig.from_pretrained(layout.folder)
    return twin


def _past_of(past: object, keeps: bool) -> OnnxCache:
    if past is None:
        return OnnxCache()
    if not isinstance(past, OnnxCache) or not keeps:
        raise InputError(
            "the graph cannot go on from this cache", where="past_key_values",
            expected="what an earlier call gave" if keeps else "nothing: it was exported without -with-past",
            found=type(past).__name__,
        )  # fmt: skip
    return past


def _filled(graph: Graph, given: Mapping[str, object], past: int) -> dict[str, object]:
    """Inputs as the graph reads them: a mask of what is real, types and positions where nobody gave any."""
    told: dict[str, object] = {}
    ids = given.get("input_ids")
    for port in graph.inputs:
        name = port.name
        if name.startswith("past"):
            continue
        value = given.get(name)
        if value is None and isinstance(ids, Tensor):
            if name == "attention_mask":
                value = ids.new_ones((*ids.shape[:-1], past + ids.shape[-1]))
            elif name == "token_type_ids":
                value = torch.zeros_like(ids)
            elif name == "position_ids":
                value = torch.arange(past, past + ids.shape[-1])[None].expand(ids.shape[0], -1)
        if not isinstance(value, Tensor):
            raise InputError("the graph reads an input that is not there", where=name, found=brief(value))
        if name == "position_ids" and isinstance(ids, Tensor) and value.shape != ids.shape:
            value = value.expand(ids.shape[0], -1)
        told[name] = value
    return told


def _kind(model: type[PreTrainedModel], names: set[str]) -> type[ModelOutput]:
    """The class of a forward's output that has these entries: as the forward says, else any that fits."""
    for base in model.__mro__:
        if "forward" not in vars(base) or not issubclass(base, nn.Module) or base is nn.Module:
            continue
        try:
            hint = typing.get_type_hints(base.forward).get("return")
        except (NameError, TypeError):  # names that are imported for type checkers only
            continue
        for one in typing.get_args(hint) or (hint,):
            if isinstance(one, type) and issubclass(one, ModelOutput) and names <= _entries(one):
                return one
    from omniform.core import outputs

    kinds = [k for k in vars(outputs).values() if isinstance(k, type) and issubclass(k, ModelOutput)]
    found = next((k for k in kinds if k is not ModelOutput and names <= _entries(k)), None)
    if found is None:
        raise OmniformError(f"no output has {', '.join(sorted(names))}")
    return found


def _entries(kind: type[ModelOutput]) -> set[str]:
    return {field.name for field in fields(kind)} if kind is not ModelOutput else set()  # type: ignore[arg-type]


def _together(kind: type[ModelOutput], found: Mapping[str, Held]) -> ModelOutput:
    """An output of what a graph gave; entries of several tensors are numbered there."""
    entries: dict[str, object] = {}
    for name, held in found.items():
        stem, _, number = name.partition(".")
        entries[stem] = (*cast("tuple[Tensor, ...]", entries.get(stem, ())), held.tensor()) if number else held.tensor()
    made = kind.__new__(kind)
    for field in fields(kind):  # type: ignore[arg-type] # every output is a dataclass
        setattr(made, field.name, entries.get(field.name))
    return made
