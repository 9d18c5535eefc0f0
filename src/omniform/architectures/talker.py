"""Talkers: decoders that write the first code of every frame of speech, and what writes the other codes of a frame.

A talker reads vectors: of its prompt what a thinker has read and begins to answer, and then, frame by frame, the sum of
a frame's codes and of the next piece of the answer (https://arxiv.org/abs/2509.17765, section 2.4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.labels import Classes, Targets
from omniform.architectures.losses import next_token_loss, scored
from omniform.architectures.model import Model
from omniform.architectures.routed import RoutedCausalLM
from omniform.architectures.vector_stack import VectorStack
from omniform.blocks.mlp import activation
from omniform.core.caches import DynamicCache
from omniform.core.context import Tapped
from omniform.core.errors import InputError, brief
from omniform.core.outputs import BaseModelOutput, CausalLMOutput, Layers, ModelOutput
from omniform.core.state import DenseState, HasModules

Choose = Callable[[Tensor], Tensor]
"""Scores to codes. Shape: [B, V] to [B]."""


@dataclass(slots=True)
class CodeOutput(CausalLMOutput):
    """Scores of the next code of a frame.

    Attributes:
        generation_steps: which of the frame's codes comes after it.
    """

    _: KW_ONLY
    generation_steps: int | None = None


@dataclass(slots=True)
class TalkerOutput(ModelOutput):
    """Scores of the next frame's first code.

    Attributes:
        loss: mean cross-entropy, when labels were given.
        aux_loss: how unevenly the routers send tokens, when their scores were asked for.
        logits: Shape: [B, T, V].
        past_key_values: state to continue from, when ``use_cache``.
        hidden_states: the embeddings and each layer's output, when asked for; and all codes of the last frame, where
            they were handed over.
        generation_step: how many frames have been written.
    """

    loss: Tensor | None = None
    aux_loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: DenseState | None = None
    hidden_states: tuple[Layers | None, Tensor | None] | None = None
    generation_step: int | None = None


class CodePredictorStack(VectorStack):
    """A stack with a table for each code of a frame but the first.

    Args:
        codec_embedding: the tables.
    """

    codec_embedding: nn.ModuleList

    def get_input_embeddings(self) -> nn.Module:
        return self.codec_embedding


class CodePredictor(Model):
    """Writes the codes of one frame behind its first, each with a head of its own.

    Args:
        model: reads what the talker had in mind, the vector of the first code, and then those of the others.
        lm_head: hidden states to scores, code by code.
    """

    main_input = "inputs_embeds"

    model: CodePredictorStack
    lm_head: nn.ModuleList

    @property
    def codes(self) -> int:
        """Entries of a codebook."""
        return cast(nn.Linear, self.lm_head[0]).out_features

    def get_output_embeddings(self) -> nn.Module | None:
        return self.lm_head

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(self.codes)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        labels = inputs.get("labels")
        return scored(labels[..., 1:]) if isinstance(labels, Tensor) else None

    def arrive(self, inputs: dict[str, object]) -> None:
        vectors, step = inputs.get("inputs_embeds"), inputs.get("generation_steps")
        if isinstance(vectors, Tensor) and vectors.dim() == 3 and 1 < vectors.shape[1] <= len(self.lm_head) + 1:
            return
        if not isinstance(step, int) or not 0 < step < len(self.lm_head) or not isinstance(inputs["input_ids"], Tensor):
            raise InputError(
                "this predicts one frame's codes, from two vectors or from the code before",
                where="inputs_embeds" if vectors is not None else "generation_steps",
                expected=f"inputs_embeds of shape [batch, 2, width], or input_ids and a step below {len(self.lm_head)}",
                found=f"shape {list(vectors.shape)}" if isinstance(vectors, Tensor) else brief(step),
            )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DenseState | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        generation_steps: int | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **asked: Unpack[Tapped],
    ) -> CodeOutput:
        """Scores of a frame's next code.

        Args:
            input_ids: the code before. Shape: [B, 1].
            attention_mask: Shape: [B, past + T], 1 for what is real.
            position_ids: Shape: [B, T].
            past_key_values: state of the codes before.
            inputs_embeds: what the talker had in mind, the first code's vector, and those of others. Shape: [B, T, D].
            labels: Shape: [B, T]; gives a loss of what comes after each.
            use_cache: whether to return state.
            generation_steps: which code of a frame ``input_ids`` are, the first counting as 0.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own codes.
        """
        if inputs_embeds is not None and inputs_embeds.shape[1] > 1:
            step = inputs_embeds.shape[1] - 2
        else:
            assert generation_steps is not None, "calls are checked when they arrive"
            step = generation_steps
            inputs_embeds = self.model.codec_embedding[step - 1](input_ids)
        out = cast(
            BaseModelOutput,
            self.model(None, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, **asked),
        )
        logits = self.lm_head[step](out.last_hidden_state)
        return CodeOutput(
            loss=None if labels is None else next_token_loss(logits, labels, num_items_in_batch),
            logits=logits,
            past_key_values=out.past_key_values,
            **out.noted(),
            generation_steps=step + 1,
        )

    @torch.no_grad()
    def complete(self, mind_BD: Tensor, first_BD: Tensor, choose: Choose, count: int) -> tuple[Tensor, Tensor]:
        """The other codes of a frame.

        Args:
            mind_BD: the talker's hidden state that the first code was chosen by.
            first_BD: that code's vector.
            choose: scores to codes.
            count: how many to write.

        Returns:
            The codes, Shape: [B, count]; and the sum of the vectors of all codes of the frame, Shape: [B, D].
        """
        state, whole, codes = DynamicCache(), first_BD, list[Tensor]()
        read_BTD = torch.stack((mind_BD, first_BD), dim=1)
        for head, table in zip(self.lm_head[:count], self.model.codec_embedding[:count], strict=True):
            out = self.model.forward(inputs_embeds=read_BTD, past_key_values=state, use_cache=True)
            codes.append(choose(head(out.last_hidden_state[:, -1])))
            vector_BD = table(codes[-1])
            whole, read_BTD = whole + vector_BD, vector_BD[:, None]
        return torch.stack(codes, dim=1), whole


class Resizer(nn.Module):
    """A thinker's vectors to a talker's width: two projections with an activation between them.

    Args:
        inside: width of a thinker's vectors.
        hidden: width between the projections.
        outside: width of a talker's.
        act: name of the activation.
    """

    def __init__(self, inside: int, hidden: int, outside: int, act: str) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(inside, hidden)
        self.linear_fc2 = nn.Linear(hidden, outside)
        self._act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., inside] to [..., outside]."""
        out: Tensor = self.linear_fc2(self._act(self.linear_fc1(x)))
        return out


class Talker(RoutedCausalLM):
    """Writes the first code of every frame.

    Args:
        model: reads vectors; its table is that of first codes.
        lm_head: hidden states to scores of first codes.
        text_projection: a thinker's token vectors to the talker's width.
        hidden_projection: a thinker's hidden states, where it read pictures and sounds, likewise.
        code_predictor: writes the other codes of a frame.
        groups: codes of a frame.
    """

    model: TextDecoder
    text_projection: Resizer
    hidden_projection: Resizer
    code_predictor: CodePredictor
    groups: int

    def keepers(self) -> tuple[HasModules, ...]:
        return self.keeper(), self.code_predictor.model

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DenseState | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_router_logits: bool | None = None,
        residual_codes: Tensor | None = None,
        generation_step: int | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **asked: Unpack[Tapped],
    ) -> TalkerOutput:
        """Scores of the next frame's first code.

        Args:
            input_ids: first codes, where no vectors are given. Shape: [B, T].
            attention_mask: Shape: [B, past + T], 1 for what is real.
            position_ids: Shape: [B, T], or [3, B, T]; 0, 1, 2... by default.
            past_key_values: state of an earlier call to continue from; it is extended in place.
            inputs_embeds: Shape: [B, T, D].
            labels: Shape: [B, T]; gives a loss.
            use_cache: whether to return state.
            output_router_logits: whether to tell how unevenly the routers send tokens.
            residual_codes: all codes of the frame before, which are handed on. Shape: [B, groups].
            generation_step: how many frames were written before.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own codes.
        """
        read = input_ids if inputs_embeds is None else inputs_embeds
        if read is not None and read.shape[1] > 1:
            generation_step, residual_codes = -1, None
        out = super().forward(
            input_ids,
            attention_mask,
            labels,
            output_router_logits=output_router_logits,
            num_items_in_batch=num_items_in_batch,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **asked,
        )
        return TalkerOutput(
            loss=out.loss,
            aux_loss=out.aux_loss,
            logits=out.logits,
            past_key_values=out.past_key_values,
            hidden_states=(out.hidden_states, residual_codes),
            generation_step=None if generation_step is None else generation_step + 1,
        )
