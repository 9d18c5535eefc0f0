"""CamemBERT (https://arxiv.org/abs/1911.03894): RoBERTa, in French."""

from __future__ import annotations

from omniform.architectures.counted_family import CountedText, counted_family

FAMILY = counted_family("camembert", "Camembert", CountedText.read, tokenizer="CamembertTokenizer").done()
