"""What the users of the file call: which inputs a model's forward takes there, and what it gives back."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

from omniform.architectures.decoder import CausalLM, TextDecoder, WritingHead
from omniform.architectures.dual_encoder import TwoTowers
from omniform.architectures.dual_sounds import SoundTextEncoder
from omniform.architectures.encoder_decoder import EncoderDecoder, Seq2SeqLM
from omniform.architectures.heads import MultipleChoice
from omniform.architectures.model import Model
from omniform.architectures.two_way import TwoWay
from omniform.core.errors import OmniformError
from omniform.core.outputs import BaseModelOutput, ModelOutput
from omniform.core.state import mixers
from omniform.export.eject.build import Built
from omniform.export.eject.program import Program, Special
from omniform.export.eject.sources import plain_function
from omniform.export.eject.values import NONE, TENSOR, Cached, Dynamic, Known, Maybe, Objects, Record, Value

DEMANDED = (
    "logits",
    "start_logits",
    "end_logits",
    "prediction_logits",
    "cross_relationship_score",
    "question_answering_score",
    "seq_relationship_logits",
    "sop_logits",
    "mc_logits",
    "pred_boxes",
    "pred_masks",
    "iou_scores",
    "waveform",
    "sequence_lengths",
    "spectrogram",
    "object_score_logits",
    "logits_per_image",
    "logits_per_text",
    "text_embeds",
    "image_embeds",
    "reconstruction",
    "feature_maps",
    "class_queries_logits",
    "masks_queries_logits",
    "predicted_depth",
    "audio_codes",
    "audio_values",
)
"""Fields of outputs that heads are there for."""

BASE = ("last_hidden_state", "pooler_output")
"""Those of models without a head; or, where each part has its own, those that end so."""

PROMPTS = ("input_points", "input_labels", "input_boxes", "input_masks")
"""What a user points at."""

PLACED = ("visual_feats", "visual_pos", "bbox")
"""Regions of pictures, and where words stand on a page."""

READ = ("input_ids", "input_values", "input_features", "pixel_values_videos", "image_grid_thw", "qformer_input_ids")
"""What a model answers about: a file that leaves one of them out answers about something else."""

MASK = Maybe(Dynamic("tensor", None))


@dataclass(frozen=True)
class Inputs:
    """What a forward is called with: the names of its inputs, and what is known of each."""

    values: Mapping[str, Value]
    main: str
    cached: bool
    encoded: bool


def writes(model: Model) -> bool:
    """Whether a model is one that writes on from what it has read."""
    return model.can_generate() or isinstance(model, (TextDecoder, WritingHead))


def inputs_of(model: Model) -> Inputs:
    """Which inputs the file's model takes.

    Raises:
        OmniformError: the model reads more than files know how to take.
    """
    names = model.accepts()
    base = model.base_model
    values: dict[str, Value] = {}
    paired = isinstance(base, EncoderDecoder)
    main = model.main_input
    keeps = ("past_key_values" in names and model.can_generate()) or isinstance(model, (TextDecoder,))
    keeps = keeps and not any(mixer.looks_ahead() for mixer in mixers(model.keeper()))
    keeps = keeps or (paired and isinstance(model, (EncoderDecoder, Seq2SeqLM)))
    values[main] = TENSOR
    if isinstance(model, TwoTowers) or ("pixel_values" in names and main != "pixel_values"):
        values["pixel_values"] = TENSOR if isinstance(model, TwoTowers) else Maybe(TENSOR)
    if isinstance(model, SoundTextEncoder):
        values["input_features"] = TENSOR
    for mask in ("attention_mask", "pixel_mask", "visual_attention_mask"):
        if mask in names and (main != "pixel_values" or mask == "pixel_mask"):
            values[mask] = MASK
    for name in ("token_type_ids", "noise", "task_inputs", "is_longer", *PROMPTS, *PLACED):
        if name in names:
            values[name] = Maybe(TENSOR)
    if paired:
        values["decoder_input_ids"] = TENSOR if base.reread is None else Maybe(TENSOR)
        values["decoder_attention_mask"] = MASK
        if keeps:
            values[main] = Maybe(TENSOR)
            values["encoder_outputs"] = Maybe(Record(_given_by(base.encoder)))
    if keeps and not paired and "position_ids" in names:
        values["position_ids"] = Maybe(TENSOR)
    if keeps:
        values["past_key_values"] = Maybe(Cached())
    lost = [name for name in READ if name in names and name not in values]
    if isinstance(base, TwoWay):  # who sees whom, which a file's prompts do not say
        lost.append("token_type_ids")
    if lost:
        raise OmniformError("the model would be written without these inputs", found=", ".join(lost))
    return Inputs(values, main, keeps, paired and keeps)


def _given_by(encoder: object) -> type:
    """The class of an encoder's output, as its forward says."""
    forward = plain_function(type(encoder).forward)  # type: ignore[attr-defined]
    told = forward.__annotations__.get("return")
    kind = forward.__globals__.get(told) if isinstance(told, str) else told
    return kind if isinstance(kind, type) and issubclass(kind, ModelOutput) else BaseModelOutput


def entry(program: Program, built: Built, inputs: Inputs) -> Special:
    """The model's forward, as the file's users call it."""
    model = built.model
    function = type(model).forward
    special = program.special(function, type(model), 0, inputs.values)  # type: ignore[arg-type]
    args = special.tree.args
    order = [*args.posonlyargs, *args.args]
    named = {a.arg for a in (*order, *args.kwonlyargs)}
    program.meet(special, "self", Objects((model,)))
    for name, value in inputs.values.items():
        parameter = name
        if name == inputs.main and name not in named and any(a.arg == "features" for a in args.posonlyargs):
            parameter = "features"
            special.renamed[parameter] = name
        program.meet(special, parameter, value)
    defaults = dict(zip([a.arg for a in order[len(order) - len(args.defaults) :]], args.defaults, strict=True))
    defaults |= {a.arg: d for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True) if d is not None}
    for name, default in defaults.items():
        if name not in special.values:
            program.meet(special, name, Known(default.value) if isinstance(default, ast.Constant) else NONE)
    return special


def demanded(special: Special, model: Model) -> dict[type, set[str]]:
    """Which fields of its output its users want.

    Raises:
        OmniformError: none that is known here; a file would compute nothing.
    """
    result = special.result
    if not isinstance(result, Record):
        return {}
    from dataclasses import fields

    own = {f.name for f in fields(result.kind)}
    wanted = [name for name in DEMANDED if name in own]
    wanted = wanted or [name for name in BASE if name in own]
    wanted = wanted or [name for name in own if name.endswith(BASE)]
    if not wanted:
        raise OmniformError("what it gives is not known here", where=type(model).__name__, found=", ".join(sorted(own)))
    return {result.kind: set(wanted)}


__all__ = ["Inputs", "demanded", "entry", "inputs_of"]
_ = (CausalLM, MultipleChoice)
