"""Two encoders, one of sounds and one of texts, that meet in one space (CLAP, https://arxiv.org/abs/2211.06687)."""

from __future__ import annotations

from typing import Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.architectures.sound_stages import StagedSoundEncoder
from omniform.architectures.stack import TextEncoder
from omniform.architectures.stages import Told
from omniform.blocks.mlp import activation
from omniform.core.errors import InputError, check_arguments
from omniform.core.outputs import BaseModelOutput, SoundTextOutput


class BentProjection(nn.Module):
    """Two projections into the shared space, with an activation between them.

    Args:
        dim: width of a tower's vectors.
        out: of the space.
        act: name of the activation.
    """

    def __init__(self, dim: int, out: int, act: str) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, out)
        self.linear2 = nn.Linear(out, out)
        self.act = act
        self._act = activation(act)

    def forward(self, vectors_BD: Tensor) -> Tensor:
        """Shape: [B, D] to [B, E]."""
        projected: Tensor = self.linear2(self._act(self.linear1(vectors_BD)))
        return projected

    def extra_repr(self) -> str:
        return f"act={self.act}"


class SoundTextEncoder(Model):
    """Compares sounds with texts.

    Args:
        audio_model: sounds to vectors.
        text_model: texts to vectors.
        audio_projection: a sound's vector into the shared space.
        text_projection: a text's vector into the shared space.
        start: what the logarithms of the two factors on similarities start from.
    """

    audio_model: StagedSoundEncoder
    text_model: TextEncoder
    audio_projection: nn.Module
    text_projection: nn.Module
    start: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.logit_scale_a = nn.Parameter(torch.tensor(self.start))
        self.logit_scale_t = nn.Parameter(torch.tensor(self.start))

    def reset(self, std: float) -> None:
        """Start the factors from the config's value."""
        nn.init.constant_(self.logit_scale_a, self.start)
        nn.init.constant_(self.logit_scale_t, self.start)

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.embed_tokens

    def get_audio_features(
        self,
        input_features: Tensor,
        is_longer: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **inputs: object,
    ) -> BaseModelOutput:
        """The audio encoder's output, its ``pooler_output`` in the shared space and of length 1: Shape [B, E].

        Args:
            attention_mask: not read, spectrograms are of one length.
            inputs: see :meth:`StagedSoundEncoder.forward`.
        """
        check_arguments("get_audio_features", inputs, self.audio_model.accepts())
        out = cast(BaseModelOutput, self.audio_model(input_features, is_longer, **inputs))
        out.pooler_output = F.normalize(self.audio_projection(out.pooler_output), dim=-1)
        return out

    def get_text_features(self, input_ids: Tensor, **inputs: object) -> BaseModelOutput:
        """The text encoder's output, its ``pooler_output`` in the shared space and of length 1: Shape [B, E].

        Args:
            inputs: see :meth:`TextEncoder.forward`.
        """
        check_arguments("get_text_features", inputs, self.text_model.accepts())
        out = cast(BaseModelOutput, self.text_model(input_ids, **inputs))
        out.pooler_output = F.normalize(self.text_projection(out.pooler_output), dim=-1)
        return out

    def forward(
        self,
        input_ids: Tensor | None = None,
        input_features: Tensor | None = None,
        is_longer: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool | None = None,
        **given: Unpack[Told],
    ) -> SoundTextOutput:
        """Similarities of every sound with every text.

        Args:
            input_ids: Shape: [texts, T].
            input_features: Shape: [sounds, views, frames, bands].
            is_longer: Shape: [sounds, 1]; see :meth:`StagedSoundEncoder.forward`.
            attention_mask: Shape: [texts, T], 1 for real tokens.
            position_ids: Shape: [texts, T].
            return_loss: compute the contrastive loss of sound ``i`` belonging to text ``i``.
            given: see :class:`Told`; what is about stages is for the audio encoder.

        Raises:
            InputError: there are no texts or no sounds; a loss is asked for and a text has no sound.
        """
        if input_ids is None or input_features is None:
            raise InputError(
                "sounds are compared with texts: both are needed",
                where="input_ids" if input_ids is None else "input_features",
                found="None",
                remedy="For one of them use get_text_features or get_audio_features.",
            )
        audio = cast(BaseModelOutput, self.audio_model(input_features, is_longer, **given))
        text = cast(
            BaseModelOutput,
            self.text_model(
                input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                output_hidden_states=given.get("output_hidden_states"),
                output_attentions=given.get("output_attentions"),
            ),
        )
        audio_embeds = _unit(self.audio_projection(audio.pooler_output))
        text_embeds = _unit(self.text_projection(text.pooler_output))
        similarity_TA = text_embeds @ audio_embeds.t()
        per_text = similarity_TA * self.logit_scale_t.exp()
        per_audio = similarity_TA.t() * self.logit_scale_a.exp()
        return SoundTextOutput(
            loss=matching_loss(per_text, per_audio.t()) if return_loss else None,
            logits_per_audio=per_audio,
            logits_per_text=per_text,
            text_embeds=text_embeds,
            audio_embeds=audio_embeds,
            text_model_output=text,
            audio_model_output=audio,
        )


def matching_loss(*scores_TA: Tensor) -> Tensor:
    """Mean cross-entropy of each text among all sounds, by several scores: on two scales (the ecosystem's CLAP).

    Args:
        scores_TA: Shape: [texts, sounds] each; those on the diagonal belong together.
    """
    texts, sounds = scores_TA[0].shape
    if texts > sounds:
        raise InputError(
            "the contrastive loss needs a sound for each text",
            where="return_loss",
            expected=f"at most {sounds} texts",
            found=f"{texts} texts",
        )
    own = torch.arange(texts, device=scores_TA[0].device)
    return torch.stack([F.cross_entropy(scores, own) for scores in scores_TA]).mean()


def _unit(x_BE: Tensor) -> Tensor:
    return x_BE / x_BE.square().sum(-1, keepdim=True).sqrt()
