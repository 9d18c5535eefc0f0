"""An exported folder as a model: :class:`OnnxModel`. onnxruntime computes; all else is the family's own.

What a graph reads and gives is told by the folder (:mod:`omniform.export.onnx.opening`). The family's modules stand
beside it without weights, for what they know: which ids there are, what their output is called, how an answer begins.
Of the model that was exported this one is a kind: it has its methods, and where those would compute, the graphs do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn, cast

import torch
from torch import Tensor, nn

from omniform.architectures.generative import Decoder, Generative
from omniform.architectures.model import Model, Origin
from omniform.architectures.named import PreTrainedModel
from omniform.architectures.surface import Surface, kept_tokens
from omniform.core.batch import Item
from omniform.core.config import ModelConfig
from omniform.core.context import Memory, StepContext
from omniform.core.errors import InputError, MissingPartError, brief, check_arguments
from omniform.core.generation import GenerationConfig
from omniform.core.outputs import BaseModelOutput, ModelOutput
from omniform.core.state import DenseState, HasModules
from omniform.export.onnx.answers import filled, kind_of, together
from omniform.export.onnx.layout import BRANCH, Layout, Role
from omniform.export.onnx.opening import NAMED, PLACES, Opened, open_folder, which_of
from omniform.export.onnx.pieces import Pieces, pieces_of
from omniform.export.onnx.sessions import Held, OnnxCache, Runtime, Session, held
from omniform.export.onnx.stepping import GraphDecoder
from omniform.hub.checkpoint import load_config, saved_class
from omniform.weights.init import NoInitialising

_CALL: Final = frozenset({"use_cache", "return_dict"})
_WRITERS: Final = frozenset({"decoder_input_ids", "decoder_attention_mask", "encoder_outputs"})
_STEPS: Final[tuple[Role, ...]] = ("decoder_merged", "decoder", "model")
KNOWN: Final = frozenset({
    "verify", "config", "file_name", "subfolder", *NAMED, "providers", "provider", "provider_options",
    "intra_op_num_threads", "inter_op_num_threads", "session_options", *PLACES,
})  # fmt: skip
"""What :meth:`OnnxModel.from_pretrained` is told by keyword."""

_NOTHING: Final = (None, "auto", "float32", torch.float32, "cpu")


class OnnxModel(Surface):
    """A model that onnxruntime runs, with the forward of the model that was exported. It cannot be trained.

    :meth:`from_pretrained` makes one; one that writes is an :class:`OnnxWriter`.
    """

    def __init__(self, opened: Opened, twin: PreTrainedModel) -> None:
        nn.Module.__init__(self)
        own = {name: value for name, value in vars(twin).items() if name not in self.__dict__}
        self.__dict__.update(own, exported=opened, twin=twin)
        for module in twin.modules():
            if module is not twin:
                module.register_forward_pre_hook(_refuse)
        self.bind(Origin(twin.config, twin.origin.family, twin.origin.architecture, str(opened.layout.folder)))
        self.generation_config = twin.generation_config
        self.eval()

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, verify: bool = True, config: ModelConfig | None = None, **how: object
    ) -> OnnxModel:
        """Open an exported folder.

        Args:
            folder: what ``omniform export`` wrote, or another folder of this layout (optimum's, transformers.js's) with
                a config; or the id of such a repository.
            verify: refuse files that are not what they were when they were certified.
            config: instead of the folder's own.
            how: ``file_name`` and ``subfolder`` say which graphs are meant (``"model_quantized.onnx"``;
                ``encoder_file_name``, ``decoder_file_name``, ``decoder_with_past_file_name``); ``providers``,
                ``intra_op_num_threads``, ``inter_op_num_threads`` and ``session_options`` are onnxruntime's;
                ``revision`` and its like say where to look on the Hub.

        Raises:
            RepoError: this is no such folder; a file is not there, or was changed after its certificate.
            InputError: onnxruntime cannot load a file, or has no such provider; a graph reads what nobody can give.
            DependencyError: onnxruntime is not installed.
            UnknownArgumentError: an unknown keyword, with the nearest name.
        """
        check_arguments("OnnxModel.from_pretrained", how, KNOWN - {"verify", "config"})
        which = which_of(how)
        places = {name: how.pop(name) for name in PLACES if name in how}
        opened = open_folder(folder, which, Runtime.read(how), verify, **places)
        twin = _twin(opened, config)
        base = cls if issubclass(cls, OnnxWriter) or not _writes(opened, twin) else OnnxWriter
        return _kind_over(base, type(twin))(opened, twin)

    # -- what it is --------------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        parts = self.__dict__["twin"]._modules
        return cast(nn.Module, parts[name]) if name in parts else super().__getattr__(name)

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
        folder, files = self._layout.folder, [session.graph.file for session in self._sessions.values()]
        paths = [folder / name for file in files for name in (file, f"{file}_data", f"{file}.data")]
        return sum(path.stat().st_size for path in paths if path.is_file())

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: object) -> None:
        """Refused: the folder is what there is to copy.

        Raises:
            InputError: always.
        """
        raise InputError(
            "an exported model is not saved, nor exported again", where="save_pretrained",
            found=str(self._layout.folder),
            remedy="Copy its folder, or save the model that it was exported from.",
        )  # fmt: skip

    def export(self, format: str, path: str | os.PathLike[str], **kwargs: object) -> object:
        """Refused, as saving is."""
        self.save_pretrained(path)
        return None

    def save_gguf(self, path: str | os.PathLike[str], **kwargs: object) -> None:
        """Refused, as saving is."""
        self.save_pretrained(path)

    @property
    def _layout(self) -> Layout:
        return cast(Opened, self.__dict__["exported"]).layout

    @property
    def _twin_model(self) -> PreTrainedModel:
        return cast(PreTrainedModel, self.__dict__["twin"])

    @property
    def _sessions(self) -> Mapping[Role, Session]:
        return cast(Opened, self.__dict__["exported"]).sessions

    @property
    def graphs(self) -> Mapping[Role, Session]:
        """What onnxruntime runs, by what it does."""
        return self._sessions

    @property
    def _main(self) -> Session:
        """What runs in every step."""
        return next(self._sessions[role] for role in _STEPS if role in self._sessions)

    @property
    def _behind_an_encoder(self) -> bool:
        return "encoder" in self._sessions

    def get_input_embeddings(self) -> nn.Module:
        return self._twin_model.get_input_embeddings()

    def token_tables(self) -> list[nn.Embedding]:
        return self._twin_model.token_tables()

    def accepts(self) -> frozenset[str]:
        first = self._sessions["encoder"] if self._behind_an_encoder else self._main
        names = {port.name for port in first.graph.inputs if not port.name.startswith("past")} - {BRANCH}
        if "embed" in self._sessions:
            names = (names - {"inputs_embeds"}) | {"input_ids", "pixel_values"}
        names |= {"attention_mask"} & self._twin_model.accepts()  # one that masks nothing says nothing
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
        first = self._sessions["encoder"] if self._behind_an_encoder else self._main
        mask = inputs.get("attention_mask")
        if isinstance(mask, Tensor) and not any(port.name == "attention_mask" for port in first.graph.inputs):
            if not bool(mask.all()):
                raise InputError(
                    "the exported graph reads no padding", where="attention_mask", expected="1 everywhere",
                    remedy="Give rows of one length, or one at a time.",
                )  # fmt: skip
            del inputs["attention_mask"]
        known = self._twin_model.accepts() - {"past_key_values"}
        told = {name: value for name, value in inputs.items() if name in known and name not in _WRITERS}
        if told and not self._behind_an_encoder:
            self._twin_model.arrive(told)
        self._check_ids(inputs)

    def _check_ids(self, inputs: Mapping[str, object]) -> None:
        """Refuse ids outside the vocabulary: a graph would take a negative one from the end."""
        tables = self.token_tables() if "input_ids" in self._twin_model.accepts() else []
        for name in ("input_ids", "decoder_input_ids"):
            ids = inputs.get(name)
            if not isinstance(ids, Tensor) or not ids.numel() or not tables:
                continue
            size = min(table.num_embeddings for table in tables)
            low, high = (int(end) for end in ids.aminmax())
            if low < 0 or high >= size:
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
        past, session = self._past_of(given.pop("past_key_values", None)), self._main
        new = cast(Tensor, given["input_ids"]).shape[-1] if "input_ids" in given else 0
        if "embed" in self._sessions:
            given = self._seen(given)
        found = session.run({**filled(session.graph, given, past.length), **_begun(session, past, given)})
        named = {name: one for name, one in found.items() if not name.startswith("present")}
        kind = kind_of(type(self._twin_model), {name.partition(".")[0] for name in named})
        out = together(kind, named)
        if self._keeps and use_cache:
            out["past_key_values"] = past.follow(found, past.length + new)
        return out

    def _seen(self, given: dict[str, object]) -> dict[str, object]:
        """A text's vectors, those of its pictures in the places of their placeholders."""
        ids, pixels = given.get("input_ids"), given.pop("pixel_values", None)
        if not isinstance(ids, Tensor):
            raise InputError("the graph reads an input that is not there", where="input_ids", found=brief(ids))
        embeds = self._sessions["embed"].run({"input_ids": ids})["inputs_embeds"].tensor()
        if isinstance(pixels, Tensor):
            vectors = self._sessions["vision_encoder"].run({"pixel_values": pixels})["image_features"].tensor()
            places = torch.isin(ids, torch.tensor(sorted(cast(Generative, self).placeholders)))
            count = vectors.shape[:2].numel()
            if int(places.sum()) != count:
                raise InputError(
                    "placeholders and pictures do not agree", where="input_ids", expected=f"{count} placeholders",
                    found=int(places.sum()),
                )  # fmt: skip
            embeds = embeds.masked_scatter(places[..., None], vectors)
        return {**given, "inputs_embeds": embeds}

    def _answered(self, given: dict[str, object], use_cache: bool) -> ModelOutput:
        """One step of a decoder that reads an encoder's output."""
        mask = given.pop("decoder_attention_mask", None)
        if isinstance(mask, Tensor) and not bool(mask.all()):
            raise InputError("the exported decoder reads no padding", where="decoder_attention_mask")
        past = self._past_of(given.pop("past_key_values", None))
        encoded, ids = given.pop("encoder_outputs", None), given.pop("decoder_input_ids", None)
        attended = given.get("attention_mask")
        if encoded is None:
            encoded = self.get_encoder()(**given)
        if not isinstance(ids, Tensor):
            raise InputError("the decoder has nothing to go on from", where="decoder_input_ids", found=brief(ids))
        hidden = cast(Tensor, encoded[0] if isinstance(encoded, (tuple, list, ModelOutput)) else encoded)
        told: dict[str, object] = {"input_ids": ids, "encoder_hidden_states": hidden}
        whole = torch.ones(hidden.shape[:2], dtype=torch.int64)
        told["encoder_attention_mask"] = attended if isinstance(attended, Tensor) else whole
        told["decoder_attention_mask"] = torch.ones(ids.shape[0], past.length + ids.shape[1], dtype=torch.int64)
        later = self._sessions.get("decoder_with_past")
        session = later if past.length and later is not None else self._main
        told[BRANCH] = torch.tensor([past.length > 0])
        found = session.run({**filled(session.graph, told, past.length), **_begun(session, past, told)})
        kind = kind_of(type(self._twin_model), {"logits"})
        out = together(kind, {"logits": found["logits"]})
        out["encoder_last_hidden_state"] = hidden
        if self._keeps and use_cache:
            out["past_key_values"] = past.follow(found, past.length + ids.shape[1])
        return out

    def _past_of(self, past: object) -> OnnxCache:
        if past is None:
            return OnnxCache()
        if isinstance(past, DenseState) and self._keeps and isinstance(self, OnnxWriter):
            return _held_of(past, self.pieces)
        if not isinstance(past, OnnxCache) or not self._keeps:
            raise InputError(
                "the graph cannot go on from this cache", where="past_key_values",
                expected="what an earlier call gave" if self._keeps else "nothing: it was exported without -with-past",
                found=type(past).__name__,
            )  # fmt: skip
        return past


ExportedModel = OnnxModel
"""The same by a wider name: folders of programs (:mod:`omniform.export.packages`) open by it as those of graphs do."""


class OnnxWriter(OnnxModel):
    """One that writes: to the engine its graphs are a decoder (:mod:`omniform.export.onnx.stepping`), and an encoder.

    All that the engine can do with scores it can do with these: draws, beams, rules, grammars, guesses of an assistant,
    requests side by side. What looks into a decoder's layers it cannot.
    """

    shows_layers = False

    def __init__(self, opened: Opened, twin: PreTrainedModel) -> None:
        super().__init__(opened, twin)
        first = self._main
        later = self._sessions.get("decoder_with_past", first)
        pieces = pieces_of(first.graph, later.graph)
        limit = cast(Generative, twin).max_positions
        self.__dict__["decoder_graph"] = GraphDecoder(first, later, pieces, limit)

    @property
    def pieces(self) -> Pieces:
        """What its graphs keep."""
        return cast(GraphDecoder, self.__dict__["decoder_graph"]).pieces

    @property
    def decoder(self) -> Decoder:
        return cast(Decoder, self.__dict__["decoder_graph"])

    def keeper(self) -> HasModules:
        return self.decoder

    def can_generate(self) -> bool:
        """It does."""
        return True

    def generate(self, inputs: object = None, *given: object, **kwargs: object) -> object:
        past = kwargs.get("past_key_values")
        if isinstance(past, OnnxCache):
            kwargs["past_key_values"] = _state_of(past, self.pieces)
        return super().generate(inputs, *given, **kwargs)

    # -- what the engine asks for ------------------------------------------------------------------------------------

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids to vectors; to the ids themselves where the decoder's graph reads these. Shape: [B, T, 1 or D]."""
        if "embed" in self._sessions:
            return self._sessions["embed"].run({"input_ids": input_ids})["inputs_embeds"].tensor()
        return self.decoder.embed(input_ids)

    def stand(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        return positions

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        return self.decoder.decode(embeds_BTD, ctx)

    def project(self, hidden: Tensor) -> Tensor:
        """The scores themselves: that is what a graph gives. Shape: [..., V] in and out."""
        return hidden

    def encode(self, **inputs: Tensor) -> Memory | None:
        if not self._behind_an_encoder:
            return None
        mask, encoded = inputs.get("attention_mask"), inputs.pop("encoder_outputs", None)
        if encoded is None:
            self._check_ids(inputs)
            encoded = cast(BaseModelOutput, self.get_encoder()(**inputs)).last_hidden_state
        masked = any(port.name == "encoder_attention_mask" for port in self._main.graph.inputs)
        return Memory(encoded, mask.bool() if masked and mask is not None else None)

    def encode_items(self, items: Sequence[Item]) -> list[Tensor]:
        if "vision_encoder" not in self._sessions:
            return cast(Generative, super()).encode_items(items)
        pixels = torch.cat([item.inputs["pixel_values"] for item in items])
        vectors = self._sessions["vision_encoder"].run({"pixel_values": pixels})["image_features"].tensor()
        return [*vectors.reshape(len(items), -1, vectors.shape[-1])]

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
        return_dict: bool | None = None,
    ) -> BaseModelOutput:
        """What the decoder reads. Shape: [B, S, D]."""
        told = {
            "input_ids": input_ids, "attention_mask": attention_mask, "pixel_values": pixel_values,
            "input_features": input_features, "input_values": input_values,
        }  # fmt: skip
        named = {port.name for port in self._session.graph.inputs}
        given = {name: value for name, value in told.items() if value is not None}
        check_arguments("the exported encoder", [name for name in given if name != "attention_mask"], named)
        found = self._session.run(filled(self._session.graph, {n: v for n, v in given.items() if n in named}, 0))
        return BaseModelOutput(last_hidden_state=found["last_hidden_state"].tensor())


def opened(folder: str | os.PathLike[str], kind: type[PreTrainedModel] | None, kwargs: Mapping[str, object]) -> Model:
    """An exported folder where a checkpoint is asked for; the door of :mod:`omniform.hub.checkpoint`.

    Args:
        kind: the class that is wanted; None for what was exported.

    Raises:
        InputError: it was exported as another, or something is asked of its weights.
    """
    inert = ("trust_remote_code", "_from_auto", "use_safetensors", "low_cpu_mem_usage")
    plain = ("dtype", "torch_dtype", "device_map")
    given = {name: value for name, value in kwargs.items() if value not in (None, "") and name not in inert}
    for name in plain:
        value = given.pop(name, None)
        if value not in _NOTHING:
            raise InputError("an exported model is run as it is", where=name, found=brief(value), expected="nothing")
    for name, value in given.items():
        if name not in KNOWN:
            raise InputError("an exported model is run as it is", where=name, found=brief(value), expected="nothing")
    model = OnnxModel.from_pretrained(folder, **given)  # type: ignore[arg-type] # looked at there
    own, wanted = model.origin.architecture.name, kind.__name__ if kind is not None else ""
    if wanted and own != wanted:
        raise InputError(
            "the folder was exported as another model", where=str(folder), expected=wanted, found=own,
            remedy="Export it again with the --task that is wanted.",
        )  # fmt: skip
    return model


def _writes(opened: Opened, twin: PreTrainedModel) -> bool:
    """Whether the graphs are those of a model that writes, and not of what it knows otherwise."""
    graphs = opened.sessions
    step = next((graphs[role] for role in _STEPS if role in graphs), None)
    gives = step is not None and any(port.name == "logits" for port in step.graph.outputs)
    reads = "encoder" in graphs or not cast(Generative, twin).encoder_inputs if twin.can_generate() else False
    return twin.can_generate() and gives and reads


def _kind_over(base: type[OnnxModel], kind: type[PreTrainedModel]) -> type[OnnxModel]:
    """A class that is both: of the model that was exported, and run by onnxruntime."""
    return cast("type[OnnxModel]", type(f"Onnx{kind.__name__}", (base, kind), {"__module__": __name__}))


def _refuse(module: nn.Module, args: object) -> NoReturn:
    """Raise :class:`MissingPartError` where a part is called that has no graph of its own."""
    raise MissingPartError(
        f"the {type(module).__name__} of an exported model has no graph of its own",
        remedy="Call the model; or load the checkpoint that it was exported from.",
    )


def _twin(opened: Opened, config: ModelConfig | None) -> PreTrainedModel:
    """The family's modules, without weights: as the certificate names them, else as the config and the outputs do."""
    layout = opened.layout
    config = load_config(ModelConfig, layout.folder) if config is None else config
    kind = saved_class(config)
    told = str(layout.certificate.get("architecture", ""))
    assert kind.place is not None, "users' own classes are not exported"
    outputs = {port.name for session in opened.sessions.values() for port in session.graph.outputs}
    if not told and "logits" not in outputs and "last_hidden_state" in outputs and "encoder" not in opened.sessions:
        told = kind.place.family.base.name  # a head that was left out
    kind = kind.place.family.classes.get(told, kind)
    with torch.device("meta"), NoInitialising():
        twin = kind(config).eval()
    if twin.can_generate():
        settings = layout.folder / "generation_config.json"
        if settings.is_file():
            twin.generation_config = GenerationConfig.from_pretrained(layout.folder)
    return twin


def _begun(session: Session, past: OnnxCache, given: Mapping[str, object]) -> Mapping[str, Held]:
    """What a graph goes on from: nothing, in a first step."""
    rows = next(len(x) for x in given.values() if isinstance(x, Tensor) and x.dim())
    return {**session.empty(rows), **past.held}


def _held_of(state: DenseState, pieces: Pieces) -> OnnxCache:
    """What a call of ``generate`` gave back, for a forward that goes on."""
    found = {}
    for slot, spec in pieces.specs.items():
        parts = state.cross(slot) if spec.kept == "memory" else state.tensors(slot)
        for piece in pieces.of(slot):
            if parts:
                found[piece.name] = held(parts[piece.part], piece.dtype)
    return OnnxCache(found, state.length)


def _state_of(cache: OnnxCache, pieces: Pieces) -> DenseState:
    """What a forward gave, for a call of ``generate`` that goes on."""
    state = DenseState()
    tables: dict[str, dict[int, tuple[Tensor, ...]]] = {"token": {}, "memory": {}, "row": {}}
    for slot, spec in pieces.specs.items():
        parts = tuple(cache.held[p.name].tensor().float() for p in pieces.of(slot) if p.name in cache.held)
        if parts:
            tables[spec.kept][slot] = parts
    fixed = {slot: parts[0] for slot, parts in tables["row"].items()}
    state.refill(tables["token"], fixed, tables["memory"], cache.length)
    return state
