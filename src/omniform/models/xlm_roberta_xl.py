"""XLM-RoBERTa XL and XXL (https://arxiv.org/abs/2105.00572): norms before branches, and none at the embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from omniform.architectures.counted_family import CountedHeads, CountedText, Sizes, counted_family
from omniform.architectures.encoder_family import PRENORM_KEYS, PreNormText
from omniform.architectures.heads import TokenClassifier
from omniform.architectures.labels import IGNORED
from omniform.architectures.losses import scored
from omniform.core.config import Common
from omniform.core.outputs import ClassifierOutput
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap

SIZES: Sizes = {
    "vocab_size": 250880,
    "token_types": 1,
    "dim": 2560,
    "hidden": 10240,
    "layers": 36,
    "heads": 32,
    "eps": 1e-5,
    "max_positions": 514,
}


class UnnormedText(PreNormText):
    """One whose layers read the sums of vectors as they are."""

    __slots__ = ()

    def first(self) -> None:
        return None


def read(r: ConfigReader) -> CountedText:
    """Read a config; every key is used, declared inert or refused."""
    return CountedText.read(r, UnnormedText, **SIZES)


def seen(labels: object, mask: object) -> Tensor | None:
    """Labels without those of padding."""
    if not isinstance(labels, Tensor) or not isinstance(mask, Tensor) or labels.shape != mask.shape:
        return labels if isinstance(labels, Tensor) else None
    return labels.masked_fill(mask != 1, IGNORED)


class SeenTokenClassifier(TokenClassifier):
    """One whose loss leaves padding out, whatever its labels are."""

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return scored(seen(inputs.get("labels"), inputs.get("attention_mask")))

    def forward(self, *args: Tensor, labels: Tensor | None = None, **inputs: object) -> ClassifierOutput:
        """Class scores of every token; see the base model for its inputs.

        Args:
            labels: Shape: [B, T], ``-100`` to leave out; gives a loss.
        """
        mask = args[1] if len(args) > 1 else cast("Tensor | None", inputs.get("attention_mask"))
        return super().forward(*args, labels=seen(labels, mask), **inputs)  # type: ignore[arg-type]


class Heads(CountedHeads[CountedText]):
    """RoBERTa's heads, one of them with another loss."""

    def token_classifier(self, c: CountedText, common: Common) -> SeenTokenClassifier:
        classifier = nn.Linear(c.text.dim, common.num_labels)
        return SeenTokenClassifier(model=self.bare(c), classifier=classifier, dropout=c.text.classifier_dropout)


KEYS = KeyMap(
    {
        **PRENORM_KEYS,
        "layers.{i}.input_layernorm": "encoder.layer.{i}.attention.self_attn_layer_norm",
        "layers.{i}.encoder_attn_layer_norm": "encoder.layer.{i}.crossattention.self_attn_layer_norm",
        "layers.{i}.post_attention_layernorm": "encoder.layer.{i}.LayerNorm",
        "norm": "encoder.LayerNorm",
    }
)

FAMILY = counted_family(
    "xlm-roberta-xl", "XLMRobertaXL", read, tokenizer="PreTrainedTokenizerFast", keys=KEYS, heads=Heads
).done()
