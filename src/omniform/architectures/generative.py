"""What the engine needs of a model that writes: the four steps from tokens to scores."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from omniform.architectures.model import Model
from omniform.core.context import Memory, StepContext
from omniform.core.errors import InputError


class Generative(Model):
    """Base of the models that write tokens one after another.

    Attributes:
        encoder_inputs: names of the inputs that an encoder reads; empty for a decoder alone.
    """

    encoder_inputs: frozenset[str] = frozenset()

    @property
    def max_positions(self) -> int | None:
        """The longest row the model can make sense of, prompt and answer together; None if there is no limit."""
        return None

    @property
    def start_token_id(self) -> int | None:
        """The token that an answer begins with where there is no prompt (encoder-decoders)."""
        return None

    def can_generate(self) -> bool:
        return True

    def encode(self, **inputs: Tensor) -> Memory | None:
        """What cross-attention will read, made once per request; None for a decoder alone."""
        return None

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids to vectors. Shape: [B, T] to [B, T, D]."""
        raise NotImplementedError(type(self).__name__)

    def embed_prompt(self, input_ids: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """A prompt to vectors, the encoders' features in their places.

        Args:
            input_ids: Shape: [B, T].
            features: inputs of other modalities, by name.

        Returns:
            Shape: [B, T, D].
        """
        if features:
            raise InputError("this model reads text only", where=", ".join(sorted(features)))
        return self.embed(input_ids)

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Vectors to hidden states. Shape: [B, T, D] in and out."""
        raise NotImplementedError(type(self).__name__)

    def project(self, hidden: Tensor) -> Tensor:
        """Hidden states to scores of every token. Shape: [..., D] to [..., V]."""
        raise NotImplementedError(type(self).__name__)
