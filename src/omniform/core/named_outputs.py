"""Outputs under the ecosystem's names (``omniform.modeling_outputs``), for forwards that users write.

Where a name of the ecosystem stands for what omniform's own models return, it is that class, so that ``isinstance``
means the same; the others are here. Entries beside those in front are given by keyword.
"""

from __future__ import annotations

from dataclasses import dataclass

from omniform.core.outputs import (
    BaseModelOutput,
    CausalLMOutput,
    ClassifierOutput,
    DepthEstimatorOutput,
    Layers,
    MaskedImageModelingOutput,
    MaskedLMOutput,
    ModelOutput,
    MoECausalLMOutput,
    QuestionAnsweringOutput,
    Seq2SeqClassifierOutput,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
    Seq2SeqQuestionAnsweringOutput,
)
from omniform.core.sound_outputs import WaveOutput, XVectorOutput

BaseModelOutputWithPast = BaseModelOutput
BaseModelOutputWithPooling = BaseModelOutput
BaseModelOutputWithCrossAttentions = BaseModelOutput
BaseModelOutputWithPastAndCrossAttentions = BaseModelOutput
BaseModelOutputWithPoolingAndCrossAttentions = BaseModelOutput
BaseModelOutputWithNoAttention = BaseModelOutput
BaseModelOutputWithPoolingAndNoAttention = BaseModelOutput
MoeModelOutputWithPast = BaseModelOutput
MoEModelOutput = BaseModelOutput
MoEModelOutputWithPastAndCrossAttentions = BaseModelOutput
CausalLMOutputWithPast = CausalLMOutput
CausalLMOutputWithCrossAttentions = CausalLMOutput
MoeCausalLMOutputWithPast = MoECausalLMOutput
SequenceClassifierOutput = ClassifierOutput
SequenceClassifierOutputWithPast = ClassifierOutput
TokenClassifierOutput = ClassifierOutput
MultipleChoiceModelOutput = ClassifierOutput
NextSentencePredictorOutput = ClassifierOutput
ImageClassifierOutput = ClassifierOutput
ImageClassifierOutputWithNoAttention = ClassifierOutput
SemanticSegmenterOutput = ClassifierOutput
QuestionAnsweringModelOutput = QuestionAnsweringOutput
Seq2SeqSequenceClassifierOutput = Seq2SeqClassifierOutput
Seq2SeqQuestionAnsweringModelOutput = Seq2SeqQuestionAnsweringOutput
ImageSuperResolutionOutput = MaskedImageModelingOutput
MaskedImageCompletionOutput = MaskedImageModelingOutput
Wav2Vec2BaseModelOutput = WaveOutput


@dataclass
class BackboneOutput(ModelOutput):
    """Maps of a backbone's stages. ``feature_maps``: Shape: [B, channels, height, width] each."""

    feature_maps: Layers | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


__all__ = [
    "BackboneOutput",
    "BaseModelOutput",
    "BaseModelOutputWithCrossAttentions",
    "BaseModelOutputWithNoAttention",
    "BaseModelOutputWithPast",
    "BaseModelOutputWithPastAndCrossAttentions",
    "BaseModelOutputWithPooling",
    "BaseModelOutputWithPoolingAndCrossAttentions",
    "BaseModelOutputWithPoolingAndNoAttention",
    "CausalLMOutput",
    "CausalLMOutputWithCrossAttentions",
    "CausalLMOutputWithPast",
    "DepthEstimatorOutput",
    "ImageClassifierOutput",
    "ImageClassifierOutputWithNoAttention",
    "ImageSuperResolutionOutput",
    "MaskedImageCompletionOutput",
    "MaskedImageModelingOutput",
    "MaskedLMOutput",
    "MoEModelOutput",
    "MoEModelOutputWithPastAndCrossAttentions",
    "ModelOutput",
    "MoeCausalLMOutputWithPast",
    "MoeModelOutputWithPast",
    "MultipleChoiceModelOutput",
    "NextSentencePredictorOutput",
    "QuestionAnsweringModelOutput",
    "SemanticSegmenterOutput",
    "Seq2SeqLMOutput",
    "Seq2SeqModelOutput",
    "Seq2SeqQuestionAnsweringModelOutput",
    "Seq2SeqSequenceClassifierOutput",
    "SequenceClassifierOutput",
    "SequenceClassifierOutputWithPast",
    "TokenClassifierOutput",
    "Wav2Vec2BaseModelOutput",
    "XVectorOutput",
]
