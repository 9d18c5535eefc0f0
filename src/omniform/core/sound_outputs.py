"""What models of sound return beyond what models of all kinds do."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from omniform.core.outputs import BaseModelOutput, StackOutput


@dataclass(slots=True)
class WaveOutput(BaseModelOutput):
    """Hidden states of frames.

    Attributes:
        extract_features: the frames before the layers, normed. Shape: [B, T, C].
    """

    extract_features: Tensor | None = None


@dataclass(slots=True)
class XVectorOutput(StackOutput):
    """Voices.

    Attributes:
        loss: mean of the additive margin softmax, when labels were given.
        logits: Shape: [B, D], the vectors that the loss reads.
        embeddings: Shape: [B, D], what stands for a voice.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    embeddings: Tensor | None = None


@dataclass(slots=True)
class WavePreTrainingOutput(StackOutput):
    """Frames, and the code vectors that they are to be told by.

    Attributes:
        loss: contrastive and diversity loss together, when negatives were given.
        projected_states: Shape: [B, T, D].
        projected_quantized_states: Shape: [B, T, D].
        codevector_perplexity: how many code vectors are in use. Scalar.
        contrastive_loss: summed over hidden frames.
        diversity_loss: likewise.
    """

    loss: Tensor | None = None
    projected_states: Tensor | None = None
    projected_quantized_states: Tensor | None = None
    codevector_perplexity: Tensor | None = None
    _: KW_ONLY
    contrastive_loss: Tensor | None = None
    diversity_loss: Tensor | None = None
