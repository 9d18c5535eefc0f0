"""What tells a segmenter its task, and the texts that its queries learn to say (https://arxiv.org/abs/2211.06220)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.losses import Items
from omniform.architectures.mask_losses import Comparison, MaskPrediction, MaskSetLoss, PerPicture
from omniform.architectures.query_decoder import ReluStack, rows_of
from omniform.blocks.attention import Attention
from omniform.blocks.composed import Composed
from omniform.blocks.layers import PreNorm, run
from omniform.blocks.mlp import MLP
from omniform.core.context import StepContext
from omniform.core.errors import check_shape
from omniform.core.rules import Full


class TextEncoder(nn.Module):
    """CLIP's reader of texts, whose tokens see one another in both directions; a text is its highest token.

    Args:
        vocabulary: how many tokens there are.
        width: of a token's vector; a head has 64 of it.
        length: of a text, exactly.
        layers: how many there are.
        eps: of the norms.
    """

    def __init__(self, vocabulary: int, width: int, length: int, layers: int, eps: float) -> None:
        super().__init__()

        def layer() -> PreNorm:
            attention, mlp = Attention(width, width // 64, rule=Full()), MLP(width, 4 * width, "quick_gelu")
            return PreNorm.of(lambda: nn.LayerNorm(width, eps=eps), self_attn=attention, mlp=mlp)

        self.vocabulary, self.length = vocabulary, length
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(length, width))
        self.layers = nn.ModuleList(layer() for _ in range(layers))
        self.ln_final = nn.LayerNorm(width, eps=eps)

    def reset(self, std: float) -> None:
        """Fresh positions."""
        nn.init.normal_(self.positional_embedding, std=0.01)

    def forward(self, ids_NT: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [N, T] to [N, W]."""
        x = self.token_embedding(ids_NT) + self.positional_embedding
        x = run(self.layers, x, ctx, self.ln_final)
        last = ids_NT.argmax(dim=-1)
        return x.gather(1, last[:, None, None].expand(-1, 1, x.shape[-1]))[:, 0]


class TextMapper(Composed):
    """From texts to vectors that queries are compared with, and learned vectors behind them.

    Args:
        text_encoder: reads one text.
        text_projector: to the width of the queries.
        prompt_ctx: the learned vectors; None for none.
    """

    text_encoder: TextEncoder
    text_projector: ReluStack
    prompt_ctx: nn.Embedding | None

    def forward(self, ids: Tensor, ctx: StepContext) -> Tensor:
        """Vectors of texts.

        Args:
            ids: several texts per picture, Shape: [B, N, T]; or one, Shape: [B, T].
            ctx: a step over all of them, one after another.

        Returns:
            Shape: [B, N + learned vectors, D]; or [B, D].
        """
        found: Tensor = self.text_projector(self.text_encoder(ids.flatten(0, -2), ctx))
        if ids.dim() == 2:
            return found
        found = found.view(*ids.shape[:2], -1)
        if self.prompt_ctx is None:
            return found
        return torch.cat((found, rows_of(self.prompt_ctx, ids.device).expand(ids.shape[0], -1, -1)), dim=1)


class TextMaskLoss(MaskSetLoss):
    """The loss of a predicted set, and of how well the queries of a picture tell its texts from other pictures'.

    Args:
        temperature: of the similarities, at first; None where they have no loss.
        text_weight: of that loss.
    """

    def __init__(
        self,
        classes: int,
        comparison: Comparison,
        *,
        temperature: float | None,
        text_weight: float,
        class_cost: float,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        no_object_weight: float,
    ) -> None:
        super().__init__(
            classes,
            comparison,
            class_cost=class_cost,
            class_weight=class_weight,
            mask_weight=mask_weight,
            dice_weight=dice_weight,
            no_object_weight=no_object_weight,
        )
        self.temperature, self.text_weight = temperature, text_weight
        if temperature is not None:
            self.logit_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def reset(self, std: float) -> None:
        super().reset(std)
        if "logit_scale" in self._parameters and self.temperature is not None:
            nn.init.constant_(self.logit_scale, -math.log(self.temperature))

    def beside_texts(
        self,
        predictions: list[MaskPrediction],
        masks: PerPicture,
        classes: PerPicture,
        queries_BQD: Tensor,
        texts_BQD: Tensor | None,
        items: Items = None,
    ) -> Tensor:
        """The sum of both losses; see :meth:`MaskSetLoss.forward`.

        Args:
            queries_BQD: as they come to the decoder.
            texts_BQD: what they are to say; None where nothing is compared.

        Returns:
            Shape: [1], as the reference's.
        """
        loss: Tensor = self(predictions, masks, classes, items)
        if texts_BQD is not None and self.temperature is not None:
            loss = loss + self.text_weight * self.contrast(queries_BQD, texts_BQD)
        return loss[None]

    def contrast(self, queries_BQD: Tensor, texts_BQD: Tensor) -> Tensor:
        """How badly pictures find their texts, and texts their pictures (CLIP's loss).

        Raises:
            InputError: there are not as many texts as queries.
        """
        wanted = queries_BQD.shape
        check_shape(
            "texts and learned vectors are not as many as queries", texts_BQD.shape, wanted, where="text_inputs"
        )
        pictures = F.normalize(queries_BQD.float().flatten(1), dim=-1)
        texts = F.normalize(texts_BQD.float().flatten(1), dim=-1)
        likeness = texts @ pictures.T * self.logit_scale.float().exp().clamp(max=100)
        own = torch.arange(likeness.shape[0], device=likeness.device)
        return F.cross_entropy(likeness, own) + F.cross_entropy(likeness.T, own)
