"""Codes of a talker as a sound: layers that read frames, convolutions that make samples of them (code2wav)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.architectures.vector_stack import VectorStack
from omniform.blocks.causal_sound import SnakeResidual, SoundConvNeXt, Widening, looking_back, streamed
from omniform.blocks.embeddings import check_ids
from omniform.blocks.seanet import PaddedConv
from omniform.blocks.snake import SnakeBeta
from omniform.core.caches import DynamicCache
from omniform.core.errors import InputError, brief
from omniform.core.heard import Heard
from omniform.core.state import DenseState


@dataclass(slots=True)
class SoundSoFar:
    """What is kept of codes that come in pieces.

    Attributes:
        frames: what the layers keep.
        steps: what the convolutions keep.
    """

    frames: DenseState = field(default_factory=DynamicCache)
    steps: Heard = field(default_factory=Heard)


class WideningBlock(Model):
    """More steps of few: a snake, a transposed convolution, then residual blocks that look ever further back.

    Args:
        block: these.
    """

    main_input = "hidden"

    block: nn.ModuleList

    @classmethod
    def of(cls, inside: int, outside: int, rate: int) -> WideningBlock:
        """One stage, which makes ``rate`` steps of one."""
        residuals = [SnakeResidual.of(outside, dilation) for dilation in (1, 3, 9)]
        return cls(block=nn.ModuleList((SnakeBeta(inside), Widening(inside, outside, 2 * rate, rate), *residuals)))

    def get_input_embeddings(self) -> nn.Module:
        return self.block[1]

    def forward(self, hidden: Tensor) -> Tensor:
        """Shape: [B, C, T] to [B, C', (T - 1) * rate]."""
        for layer in self.block:
            hidden = layer(hidden)
        return hidden

    def go_on(self, hidden: Tensor, heard: Heard) -> Tensor:
        """The next piece of a sound. Shape: [B, C, T] to [B, C', T']."""
        return streamed(self.block, hidden, heard)


class CodeSound(Model):
    """Codes to samples.

    Args:
        code_embedding: the tables of all codebooks, one behind another.
        pre_transformer: reads frames.
        upsample: pairs that make more frames of few.
        decoder: frames to samples.
        codebooks: codes of a frame.
        hop: samples that a frame becomes.
    """

    main_input = "codes"

    code_embedding: nn.Embedding
    pre_transformer: VectorStack
    upsample: nn.ModuleList
    decoder: nn.ModuleList
    codebooks: int
    hop: int

    def __post_init__(self) -> None:
        super().__post_init__()
        keepers = [module for module in self.modules() if isinstance(module, PaddedConv | Widening)]
        for slot, module in enumerate(keepers):
            module.slot = slot

    @classmethod
    def of(
        cls, frames: VectorStack, size: int, codebooks: int, ratios: Sequence[int], rates: Sequence[int], dim: int
    ) -> CodeSound:
        """One of these sizes.

        Args:
            frames: reads frames.
            size: entries of a codebook.
            codebooks: codes of a frame.
            ratios: frames that are made of one, stage after stage.
            rates: samples that are made of one of these likewise.
            dim: channels where samples begin; each stage halves them.
        """
        width = frames.width
        widths = [dim >> stage for stage in range(len(rates) + 1)]
        stages = [WideningBlock.of(a, b, rate) for a, b, rate in zip(widths, widths[1:], rates, strict=False)]
        first, last = looking_back(width, dim, 7), looking_back(widths[-1], 1, 7)
        return cls(
            code_embedding=nn.Embedding(size * codebooks, width),
            pre_transformer=frames,
            upsample=nn.ModuleList(
                nn.ModuleList((Widening(width, width, ratio, ratio), SoundConvNeXt.of(width))) for ratio in ratios
            ),
            decoder=nn.ModuleList((first, *stages, SnakeBeta(widths[-1]), last)),
            codebooks=codebooks,
            hop=math.prod((*ratios, *rates)),
        )

    @property
    def total_upsample(self) -> int:
        """The ecosystem's name for :attr:`hop`."""
        return self.hop

    @property
    def size(self) -> int:
        """Entries of a codebook."""
        return self.code_embedding.num_embeddings // self.codebooks

    def get_input_embeddings(self) -> nn.Module:
        return self.code_embedding

    def arrive(self, inputs: dict[str, object]) -> None:
        self._check(inputs.get("codes"))

    def forward(self, codes: Tensor) -> Tensor:
        """What codes sound like.

        Args:
            codes: Shape: [B, codebooks, T].

        Returns:
            Shape: [B, 1, samples], between -1 and 1; a little less than ``T * hop`` samples, since what only frames
            after the last would tell is left out.

        Raises:
            InputError: other shapes, codes that no codebook has.
        """
        hidden = self.pre_transformer.forward(inputs_embeds=self._frames(codes)).last_hidden_state.transpose(1, 2)
        for pair in self.upsample:
            for layer in pair:  # type: ignore[attr-defined]
                hidden = layer(hidden)
        for layer in self.decoder:
            hidden = layer(hidden)
        return hidden.clamp(-1, 1)

    @torch.no_grad()
    def go_on(self, codes: Tensor, so_far: SoundSoFar) -> Tensor:
        """The samples that the next codes of a sound complete; all pieces together are what the whole sounds like.

        Args:
            codes: Shape: [B, codebooks, T].
            so_far: what was kept of those before; it goes on in place.

        Returns:
            Shape: [B, 1, samples], perhaps none.
        """
        self._check(codes)
        read = self.pre_transformer.forward(
            inputs_embeds=self._frames(codes), past_key_values=so_far.frames, use_cache=True
        )
        hidden = read.last_hidden_state.transpose(1, 2)
        for pair in self.upsample:
            hidden = streamed(pair, hidden, so_far.steps)  # type: ignore[arg-type]
        for layer in self.decoder:
            if isinstance(layer, WideningBlock):
                hidden = layer.go_on(hidden, so_far.steps)
            else:
                hidden = streamed((layer,), hidden, so_far.steps)
        return hidden.clamp(-1, 1)

    @torch.no_grad()
    def chunked_decode(self, codes: Tensor, chunk_size: int = 300, left_context_size: int = 25) -> Tensor:
        """A long sound part by part, each read with some frames before it, so that memory does not grow with it.

        Args:
            codes: Shape: [B, codebooks, T].
            chunk_size: frames of a part.
            left_context_size: frames that are read before it, and not heard.

        Returns:
            Shape: [B, 1, samples].
        """
        self._check(codes)
        heard = []
        for start in range(0, codes.shape[-1], chunk_size):
            before = left_context_size if start > left_context_size else start
            part = self.forward(codes[..., start - before : start + chunk_size])
            heard.append(part[..., before * self.hop :])
        return torch.cat(heard, dim=-1)

    def _frames(self, codes: Tensor) -> Tensor:
        """The mean of the vectors of a frame's codes. Shape: [B, codebooks, T] to [B, T, D]."""
        offsets = torch.arange(self.codebooks, device=codes.device)[:, None] * self.size
        frames: Tensor = self.code_embedding(codes + offsets).mean(1)
        return frames

    def _check(self, codes: object) -> None:
        fits = isinstance(codes, Tensor) and codes.dim() == 3 and codes.shape[1] == self.codebooks
        if not fits or not isinstance(codes, Tensor):
            raise InputError(
                "these are no codes of this model",
                where="codes",
                expected=f"shape [batch, {self.codebooks}, frames]",
                found=f"shape {list(codes.shape)}" if isinstance(codes, Tensor) else brief(codes),
            )
        check_ids(codes.flatten(0, 1), self.size, "codes")
