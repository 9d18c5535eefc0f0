"""What models return: values by attribute, by key and by index, under the names the ecosystem knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, Field, dataclass, fields
from typing import TypedDict, TypeVar, overload

from torch import Tensor

from omniform.core.errors import nearest
from omniform.core.state import DenseState
from omniform.core.trees import Tree, register_tree

O = TypeVar("O", bound="ModelOutput")  # noqa: E741
Layers = tuple[Tensor, ...]


class Noted(TypedDict):
    """What was noted of a stack, as a head's output carries it on."""

    hidden_states: Layers | None
    attentions: Layers | None


class Seen(TypedDict):
    """The vectors of pictures, videos and sounds that a decoder read, as a head's output carries them on."""

    image_hidden_states: Tensor | None
    video_hidden_states: Tensor | None
    audio_hidden_states: Tensor | None


class BothNoted(TypedDict):
    """What was noted of an encoder and of the decoder that reads it, as a head's output carries it on."""

    decoder_hidden_states: Layers | None
    decoder_attentions: Layers | None
    cross_attentions: Layers | None
    encoder_last_hidden_state: Tensor | None
    encoder_hidden_states: Layers | None
    encoder_attentions: Layers | None


class ModelOutput:
    """Base of all outputs. Entries that are None are left out of keys, indices and iteration.

    Entries that are given by keyword only stand after the others: what was noted on the way, which many classes share.

    Every output class is a tree that torch's tools (export, DDP, vmap) take apart and put together again.
    """

    def __init_subclass__(cls) -> None:
        # Before the decorator has given it its fields: a user's class may have no slots, and is made once only.
        register_tree(cls, _taken_apart, _put_together)
        if not cls.__module__.startswith("omniform.") and "__post_init__" not in vars(cls):
            cls.__post_init__ = _from_entries  # type: ignore[method-assign, assignment]

    def __post_init__(self) -> None:
        """Nothing; in a class of the user's own, see :func:`_from_entries`."""

    def keys(self) -> list[str]:
        """The names of the entries that are there."""
        return [f.name for f in _entries(type(self)) if getattr(self, f.name) is not None]

    def to_tuple(self) -> tuple[object, ...]:
        """The entries that are there, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def values(self) -> list[object]:
        return list(self.to_tuple())

    def items(self) -> list[tuple[str, object]]:
        return list(zip(self.keys(), self.to_tuple(), strict=True))

    @overload
    def __getitem__(self, key: str | int) -> object: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[object, ...]: ...
    def __getitem__(self, key: str | int | slice) -> object:
        if isinstance(key, str):
            if key not in self.keys():
                raise KeyError(f"{type(self).__name__} has no {key!r}. {nearest(key, self.keys())}")
            return getattr(self, key)
        return self.to_tuple()[key]

    def __setitem__(self, key: str, value: object) -> None:
        setattr(self, key, value)

    def get(self, key: str, default: object = None) -> object:
        return getattr(self, key) if key in self.keys() else default

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __len__(self) -> int:
        return len(self.keys())


def _from_entries(output: ModelOutput) -> None:
    """Take the entries from a mapping, or from pairs, where that is all that the constructor was given."""
    names = list(type(output).__dataclass_fields__)  # type: ignore[attr-defined]
    given = getattr(output, names[0]) if names else None
    if isinstance(given, list) and given and all(isinstance(one, tuple) and len(one) == 2 for one in given):
        given = dict(given)
    if not isinstance(given, Mapping) or not given.keys() <= {*names}:
        return
    if all(getattr(output, name) is None for name in names[1:]):
        setattr(output, names[0], None)
        for name, value in given.items():
            setattr(output, name, value)


def _entries(kind: type[ModelOutput]) -> list[Field[object]]:
    return sorted(fields(kind), key=lambda f: f.kw_only is True)  # type: ignore[arg-type]


def _taken_apart(output: ModelOutput) -> Tree:
    names = output.keys()
    return [getattr(output, name) for name in names], names


def _put_together(kind: type[ModelOutput], parts: list[object], names: list[str]) -> ModelOutput:
    output = kind.__new__(kind)
    present = dict(zip(names, parts, strict=True))
    for f in _entries(kind):
        setattr(output, f.name, present.get(f.name))
    return output


@dataclass(slots=True, kw_only=True)
class StackOutput(ModelOutput):
    """What an output tells of the stack behind it.

    Attributes:
        past_key_values: state to continue from, when ``use_cache``.
        hidden_states: the embeddings and each layer's output, Shape: [B, T, D] each, when asked for.
        attentions: each layer's weights, Shape: [B, H, T, S] each, when asked for.
    """

    past_key_values: DenseState | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None

    def noted(self) -> Noted:
        """What a head's output repeats of this one."""
        return {"hidden_states": self.hidden_states, "attentions": self.attentions}


@dataclass(slots=True, kw_only=True)
class Seq2SeqOutput(ModelOutput):
    """What an output tells of an encoder and of the decoder that reads it; see :class:`StackOutput` for shapes."""

    past_key_values: DenseState | None = None
    decoder_hidden_states: Layers | None = None
    decoder_attentions: Layers | None = None
    cross_attentions: Layers | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Layers | None = None
    encoder_attentions: Layers | None = None

    def noted(self) -> BothNoted:
        """What a head's output repeats of this one."""
        return {
            "decoder_hidden_states": self.decoder_hidden_states,
            "decoder_attentions": self.decoder_attentions,
            "cross_attentions": self.cross_attentions,
            "encoder_last_hidden_state": self.encoder_last_hidden_state,
            "encoder_hidden_states": self.encoder_hidden_states,
            "encoder_attentions": self.encoder_attentions,
        }


@dataclass(slots=True)
class BaseModelOutput(StackOutput):
    """Hidden states of a stack.

    Attributes:
        last_hidden_state: Shape: [B, T, D].
        pooler_output: one vector per row, Shape: [B, D], of models that pool.
        cross_attentions: each layer's weights of cross-attention, as ``attentions``.
        image_hidden_states: the vectors of pictures, as a decoder read them. Shape: [vectors, D].
        video_hidden_states: those of videos.
        audio_hidden_states: those of sounds.
        router_logits: each router's scores of its experts, Shape: [B * T, E] each, when asked for.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    _: KW_ONLY
    cross_attentions: Layers | None = None
    image_hidden_states: Tensor | None = None
    video_hidden_states: Tensor | None = None
    audio_hidden_states: Tensor | None = None
    router_logits: Layers | None = None

    def seen(self) -> Seen:
        """What a head's output repeats of the items among the tokens."""
        return {
            "image_hidden_states": self.image_hidden_states,
            "video_hidden_states": self.video_hidden_states,
            "audio_hidden_states": self.audio_hidden_states,
        }


@dataclass(slots=True)
class HeardOutput(BaseModelOutput):
    """What an encoder gave that makes fewer frames than it reads samples.

    Attributes:
        attention_mask: which frames are real. Shape: [B, T].
    """

    attention_mask: Tensor | None = None


@dataclass(slots=True)
class PatchesOutput(BaseModelOutput):
    """What an encoder of packed pictures gave: hidden states of patches, and as ``pooler_output`` what they become.

    Attributes:
        deepstack_features: the tokens that earlier layers' patches become. Shape: [tokens, D] each.
    """

    deepstack_features: list[Tensor] | None = None


BaseModelOutputWithPooling = BaseModelOutput
"""The ecosystem's name for it, where a model pools."""


@dataclass(slots=True)
class CausalLMOutput(StackOutput):
    """Next-token scores.

    Attributes:
        loss: mean cross-entropy, when labels were given.
        logits: Shape: [B, T, V].
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    _: KW_ONLY
    cross_attentions: Layers | None = None
    image_hidden_states: Tensor | None = None
    video_hidden_states: Tensor | None = None
    audio_hidden_states: Tensor | None = None


@dataclass(slots=True)
class AmongSoundsOutput(BaseModelOutput):
    """Hidden states of tokens that sounds may have been put among.

    Attributes:
        attention_mask: which of the tokens are real, as they were read. Shape: [B, T].
    """

    _: KW_ONLY
    attention_mask: Tensor | None = None


@dataclass(slots=True)
class HeardCausalLMOutput(CausalLMOutput):
    """Next-token scores of tokens that sounds may have been put among.

    Attributes:
        attention_mask: which of the tokens are real, as they were read. Shape: [B, T].
    """

    _: KW_ONLY
    attention_mask: Tensor | None = None


@dataclass(slots=True)
class MediaFeatures(StackOutput):
    """What an encoder of pictures, videos or sounds gave, and what a decoder reads of it.

    Attributes:
        last_hidden_state: the encoder's. Shape: [N, T, E].
        pooler_output: the vectors that the decoder reads, as the family lays them out: one tensor, or one per item.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | tuple[Tensor, ...] | None = None


@dataclass(slots=True)
class PackedFeatures(MediaFeatures):
    """What an encoder of packed pictures gave, and what a decoder reads of it, picture by picture.

    Attributes:
        deepstack_features: of each layer that is told to the decoder, each picture's tokens. Shape: [tokens, D].
    """

    deepstack_features: list[tuple[Tensor, ...]] | None = None


@dataclass(slots=True)
class MoECausalLMOutput(StackOutput):
    """Next-token scores of a model of experts.

    Attributes:
        aux_loss: how unevenly the routers send tokens, when their scores were asked for.
        logits: Shape: [B, T, V].
        router_logits: each router's scores of its experts, Shape: [B * T, E] each.
    """

    loss: Tensor | None = None
    aux_loss: Tensor | None = None
    logits: Tensor | None = None
    _: KW_ONLY
    router_logits: Layers | None = None


@dataclass(slots=True)
class RecurrentModelOutput(ModelOutput):
    """Hidden states of a stack that keeps no keys.

    Attributes:
        last_hidden_state: Shape: [B, T, D].
        cache_params: state to continue from, when ``use_cache``.
        hidden_states: each layer's output and the normed last one, Shape: [B, T, D] each, when asked for.
    """

    last_hidden_state: Tensor
    cache_params: DenseState | None = None
    hidden_states: Layers | None = None

    @property
    def past_key_values(self) -> DenseState | None:
        """The state, under the name that other models have for it."""
        return self.cache_params


@dataclass(slots=True)
class RecurrentCausalLMOutput(ModelOutput):
    """Next-token scores of such a model. ``logits``: Shape: [B, T, V]; see :class:`RecurrentModelOutput`."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache_params: DenseState | None = None
    hidden_states: Layers | None = None

    @property
    def past_key_values(self) -> DenseState | None:
        """The state, under the name that other models have for it."""
        return self.cache_params


@dataclass(slots=True)
class MaskedLMOutput(StackOutput):
    """Scores for every token of the vocabulary at every place. ``logits``: Shape: [B, T, V]."""

    loss: Tensor | None = None
    logits: Tensor | None = None


@dataclass(slots=True)
class PreTrainingOutput(StackOutput):
    """BERT's two pre-training heads. ``prediction_logits``: [B, T, V]; ``seq_relationship_logits``: [B, 2]."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None


@dataclass(slots=True)
class SentenceOrderOutput(StackOutput):
    """ALBERT's two pre-training heads. ``prediction_logits``: [B, T, V]; ``sop_logits``: [B, 2]."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    sop_logits: Tensor | None = None


@dataclass(slots=True)
class DoubleHeadsOutput(StackOutput):
    """GPT-2's two heads. ``logits``: [..., T, V]; ``mc_logits``: [..., choices]; each with a loss of its own."""

    loss: Tensor | None = None
    mc_loss: Tensor | None = None
    logits: Tensor | None = None
    mc_logits: Tensor | None = None


@dataclass(slots=True)
class ClassifierOutput(StackOutput):
    """Class scores. ``logits``: [B, labels] for a row or a picture, [B, T, labels] for tokens."""

    loss: Tensor | None = None
    logits: Tensor | None = None


@dataclass(slots=True)
class QuestionAnsweringOutput(StackOutput):
    """Scores of every token as the first and the last of the answer. Shape: [B, T] each."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None


@dataclass(slots=True)
class Seq2SeqModelOutput(Seq2SeqOutput):
    """Hidden states of an encoder-decoder. ``last_hidden_state``: Shape: [B, T, D], the decoder's."""

    last_hidden_state: Tensor


@dataclass(slots=True)
class Seq2SeqLMOutput(Seq2SeqOutput):
    """Next-token scores of an encoder-decoder. ``logits``: Shape: [B, T, V]."""

    loss: Tensor | None = None
    logits: Tensor | None = None


@dataclass(slots=True)
class Seq2SeqClassifierOutput(Seq2SeqLMOutput):
    """Class scores of an encoder-decoder. ``logits``: Shape: [B, labels]."""


@dataclass(slots=True)
class Seq2SeqQuestionAnsweringOutput(Seq2SeqOutput):
    """Answer-span scores of an encoder-decoder. Shape: [B, T] each."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None


@dataclass(slots=True)
class ImageEmbeddingOutput(StackOutput):
    """Vectors of pictures in a space shared with texts. ``image_embeds``: Shape: [B, E], not normalised."""

    image_embeds: Tensor | None = None
    last_hidden_state: Tensor | None = None


@dataclass(slots=True)
class TextEmbeddingOutput(StackOutput):
    """Vectors of texts in a space shared with pictures. ``text_embeds``: Shape: [B, E], not normalised."""

    text_embeds: Tensor | None = None
    last_hidden_state: Tensor | None = None


@dataclass(slots=True)
class AudioEmbeddingOutput(StackOutput):
    """Vectors of sounds in a space shared with texts. ``audio_embeds``: Shape: [B, E], not normalised.

    ``last_hidden_state`` and ``hidden_states`` are maps of channels: Shape: [B, C, H, W] each.
    """

    audio_embeds: Tensor | None = None
    last_hidden_state: Tensor | None = None


@dataclass(slots=True)
class DualEncoderOutput(ModelOutput):
    """Similarities of pictures and texts.

    Attributes:
        logits_per_image: Shape: [pictures, texts], cosine similarity times the learned factor.
        logits_per_text: Shape: [texts, pictures], the same transposed.
        text_embeds: Shape: [texts, E], of length 1.
        image_embeds: Shape: [pictures, E], of length 1.
        text_model_output: the text encoder's output, its ``pooler_output`` projected.
        vision_model_output: the vision encoder's output, its ``pooler_output`` projected.
    """

    loss: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    text_embeds: Tensor | None = None
    image_embeds: Tensor | None = None
    text_model_output: BaseModelOutput | None = None
    vision_model_output: BaseModelOutput | None = None

    def to_tuple(self) -> tuple[object, ...]:
        """The entries that are there, in order, the encoders' outputs as tuples too."""
        return tuple(e.to_tuple() if isinstance(e, ModelOutput) else e for e in map(self.__getitem__, self.keys()))


@dataclass(slots=True)
class SoundTextOutput(ModelOutput):
    """Similarities of sounds and texts.

    Attributes:
        logits_per_audio: Shape: [sounds, texts], cosine similarity times the learned factor for sounds.
        logits_per_text: Shape: [texts, sounds], cosine similarity times the one for texts.
        text_embeds: Shape: [texts, E], of length 1.
        audio_embeds: Shape: [sounds, E], of length 1.
        text_model_output: the text encoder's output.
        audio_model_output: the audio encoder's output.
    """

    loss: Tensor | None = None
    logits_per_audio: Tensor | None = None
    logits_per_text: Tensor | None = None
    text_embeds: Tensor | None = None
    audio_embeds: Tensor | None = None
    text_model_output: BaseModelOutput | None = None
    audio_model_output: BaseModelOutput | None = None

    def to_tuple(self) -> tuple[object, ...]:
        """The entries that are there, in order, the encoders' outputs as tuples too."""
        return tuple(e.to_tuple() if isinstance(e, ModelOutput) else e for e in map(self.__getitem__, self.keys()))


@dataclass(slots=True)
class MaskedImageModelingOutput(StackOutput):
    """Pictures filled in. ``reconstruction``: Shape: [B, channels, height, width]."""

    loss: Tensor | None = None
    reconstruction: Tensor | None = None


@dataclass(slots=True)
class BackboneOutput(ModelOutput):
    """Feature maps of pictures.

    Attributes:
        feature_maps: of the stages that were chosen, from fine to coarse, Shape: [B, C, H, W] each.
        hidden_states: what the backbone notes on the way, when asked for.
        attentions: each layer's weights, when asked for, of backbones that attend.
    """

    feature_maps: tuple[Tensor, ...] | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True)
class TokenBackboneOutput(BackboneOutput):
    """Feature maps of an encoder that has a class token.

    Attributes:
        cls_tokens: of the stages that were chosen. Shape: [B, D] each.
    """

    cls_tokens: tuple[Tensor, ...] | None = None


@dataclass(slots=True)
class DistilledClassifierOutput(ModelOutput):
    """Class scores of a model that learnt from a teacher as well.

    Attributes:
        logits: the mean of the two. Shape: [B, classes].
        cls_logits: what the class token says. Shape: [B, classes].
        distillation_logits: what the token says that learnt from the teacher. Shape: [B, classes].
        hidden_states: the embeddings and each layer's output, Shape: [B, T, D] each, when asked for.
        attentions: each layer's weights, Shape: [B, H, T, T] each, when asked for.
    """

    logits: Tensor | None = None
    cls_logits: Tensor | None = None
    distillation_logits: Tensor | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True)
class MaskedEncoderOutput(ModelOutput):
    """Hidden states of the patches that were kept.

    Attributes:
        last_hidden_state: Shape: [B, 1 + kept, D], the class token first.
        mask: Shape: [B, patches], 1 for patches that were hidden.
        ids_restore: Shape: [B, patches], where each patch stands among the kept ones and, behind them, the hidden ones.
        hidden_states: the embeddings and each layer's output, Shape: [B, 1 + kept, D] each, when asked for.
        attentions: each layer's weights, Shape: [B, H, T, T] each, when asked for.
    """

    last_hidden_state: Tensor
    mask: Tensor | None = None
    ids_restore: Tensor | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True)
class PixelsOutput(ModelOutput):
    """Hidden patches filled in.

    Attributes:
        loss: the mean squared error of hidden patches' pixels.
        logits: Shape: [B, patches, patch height * patch width * channels].
        mask: see :class:`MaskedEncoderOutput`, as for the rest.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    mask: Tensor | None = None
    ids_restore: Tensor | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True)
class DetectorModelOutput(Seq2SeqModelOutput):
    """Hidden states of a detector.

    Attributes:
        last_hidden_state: Shape: [B, Q, D], one vector per object query.
        encoder_last_hidden_state: Shape: [B, S, D], one vector per place of the coarsest feature map.
        intermediate_hidden_states: Shape: [layers, B, Q, D], each decoder layer's output after the decoder's norm,
            where the model is trained with losses on every layer.
        reference_points: Shape: [Q, B, 2], x and y of where each query stands, of queries that stand somewhere.
    """

    _: KW_ONLY
    intermediate_hidden_states: Tensor | None = None
    reference_points: Tensor | None = None


@dataclass(slots=True)
class ObjectDetectionOutput(Seq2SeqOutput):
    """Objects found in pictures, and their outlines.

    Attributes:
        loss: the weighted sum of ``loss_dict``, when labels were given.
        loss_dict: each loss by name, unweighted; those of earlier decoder layers end in ``_0``, ``_1`` and so on.
        logits: Shape: [B, Q, classes + 1]; the last class is "no object".
        pred_boxes: Shape: [B, Q, 4], centre x and y, width and height, as parts of the picture's size.
        pred_masks: Shape: [B, Q, height / 4, width / 4], scores of every place as part of the query's object, of models
            that outline.
        auxiliary_outputs: ``logits`` and ``pred_boxes`` of each earlier decoder layer, where they have losses.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    pred_boxes: Tensor | None = None
    pred_masks: Tensor | None = None
    auxiliary_outputs: list[dict[str, Tensor]] | None = None
    last_hidden_state: Tensor | None = None


@dataclass(slots=True)
class TokenDetectionOutput(StackOutput):
    """Objects found in pictures by tokens of an encoder; see :class:`ObjectDetectionOutput` for the rest.

    Attributes:
        last_hidden_state: of all tokens of the encoder. Shape: [B, T, D].
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    pred_boxes: Tensor | None = None
    last_hidden_state: Tensor | None = None


@dataclass(slots=True, kw_only=True)
class HybridModelOutput(ModelOutput):
    """What a detector of boxes that move from layer to layer (RT-DETR) makes of pictures.

    N stands for the queries: the chosen ones, behind noisy copies of the objects in training.

    Attributes:
        last_hidden_state: Shape: [B, N, D].
        intermediate_hidden_states: every decoder layer's, Shape: [B, layers, N, D].
        intermediate_logits: every decoder layer's scores, Shape: [B, layers, N, classes]; empty of a decoder without
            heads.
        intermediate_reference_points: the boxes after every decoder layer, Shape: [B, layers, N, 4].
        encoder_last_hidden_state: the encoder's maps, from fine to coarse, Shape: [B, C, H, W] each.
        init_reference_points: the boxes before the first decoder layer and before their sigmoid, Shape: [B, N, 4].
        enc_topk_logits: scores of the places that became queries, Shape: [B, Q, classes].
        enc_topk_bboxes: their boxes, Shape: [B, Q, 4].
        enc_outputs_class: scores of all places, Shape: [B, S, classes].
        enc_outputs_coord_logits: their boxes before the sigmoid, Shape: [B, S, 4].
        denoising_meta_values: which of the queries are noisy copies, in training.
    """

    last_hidden_state: Tensor | None = None
    intermediate_hidden_states: Tensor | None = None
    intermediate_logits: Tensor | tuple[()] | None = None
    intermediate_reference_points: Tensor | None = None
    decoder_hidden_states: Layers | None = None
    decoder_attentions: Layers | None = None
    cross_attentions: Layers | None = None
    encoder_last_hidden_state: list[Tensor] | None = None
    encoder_hidden_states: Layers | None = None
    encoder_attentions: Layers | None = None
    init_reference_points: Tensor | None = None
    enc_topk_logits: Tensor | None = None
    enc_topk_bboxes: Tensor | None = None
    enc_outputs_class: Tensor | None = None
    enc_outputs_coord_logits: Tensor | None = None
    denoising_meta_values: dict[str, object] | None = None


@dataclass(slots=True)
class HybridDetectionOutput(HybridModelOutput):
    """Objects found in pictures.

    Attributes:
        loss: the sum of ``loss_dict``, when labels were given.
        loss_dict: each loss by name, weighted; those of earlier layers and of the encoder end in ``_aux_0`` and so on,
            those of noisy copies in ``_dn_0`` and so on.
        logits: Shape: [B, N, classes].
        pred_boxes: Shape: [B, N, 4], centre x and y, width and height, as parts of the picture's size.
        auxiliary_outputs: ``logits`` and ``pred_boxes`` of earlier layers and of the encoder, where they have losses.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    pred_boxes: Tensor | None = None
    auxiliary_outputs: list[dict[str, Tensor]] | None = None


@dataclass(slots=True, kw_only=True)
class DeformableModelOutput(ModelOutput):
    """What a detector makes of pictures whose queries have points or boxes on several maps (Deformable DETR).

    Attributes:
        init_reference_points: before the first decoder layer, Shape: [B, Q, 2 or 4].
        last_hidden_state: Shape: [B, Q, D].
        intermediate_hidden_states: every decoder layer's, Shape: [B, layers, Q, D].
        intermediate_reference_points: after every decoder layer, Shape: [B, layers, Q, 2 or 4].
        encoder_last_hidden_state: of all places of all maps, Shape: [B, S, D].
        enc_outputs_class: scores of all places, where they propose the queries, Shape: [B, S, classes].
        enc_outputs_coord_logits: their boxes before the sigmoid, Shape: [B, S, 4].
    """

    init_reference_points: Tensor | None = None
    last_hidden_state: Tensor | None = None
    intermediate_hidden_states: Tensor | None = None
    intermediate_reference_points: Tensor | None = None
    decoder_hidden_states: Layers | None = None
    decoder_attentions: Layers | None = None
    cross_attentions: Layers | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Layers | None = None
    encoder_attentions: Layers | None = None
    enc_outputs_class: Tensor | None = None
    enc_outputs_coord_logits: Tensor | None = None


@dataclass(slots=True)
class DeformableDetectionOutput(ModelOutput):
    """Objects found in pictures; see :class:`ObjectDetectionOutput` and :class:`DeformableModelOutput`."""

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    pred_boxes: Tensor | None = None
    auxiliary_outputs: list[dict[str, Tensor]] | None = None
    last_hidden_state: Tensor | None = None
    decoder_hidden_states: Layers | None = None
    decoder_attentions: Layers | None = None
    cross_attentions: Layers | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Layers | None = None
    encoder_attentions: Layers | None = None
    init_reference_points: Tensor | None = None
    intermediate_hidden_states: Tensor | None = None
    intermediate_reference_points: Tensor | None = None
    enc_outputs_class: Tensor | None = None
    enc_outputs_coord_logits: Tensor | None = None


@dataclass(slots=True)
class IntermediateOutput(BaseModelOutput):
    """Hidden states of an encoder that stands on a network of convolutions.

    Attributes:
        intermediate_activations: the network's finer maps, Shape: [B, C, H, W] each.
    """

    intermediate_activations: Layers | None = None


@dataclass(slots=True)
class DepthEstimatorOutput(ModelOutput):
    """Distances. ``predicted_depth``: Shape: [B, height, width]."""

    loss: Tensor | None = None
    predicted_depth: Tensor | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True)
class DomainDepthOutput(ModelOutput):
    """The same of a model that first tells which domain pictures are of. ``domain_logits``: Shape: [B, domains]."""

    loss: Tensor | None = None
    predicted_depth: Tensor | None = None
    domain_logits: Tensor | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


BaseModelOutputWithPast = BaseModelOutputWithPastAndCrossAttentions = BaseModelOutput
CausalLMOutputWithPast = CausalLMOutputWithCrossAttentions = CausalLMOutput
SequenceClassifierOutput = SequenceClassifierOutputWithPast = TokenClassifierOutput = ClassifierOutput
ImageClassifierOutput = MultipleChoiceModelOutput = ClassifierOutput
# The ecosystem's names, which models of the user's own give; one class stands for several that hold the same.
