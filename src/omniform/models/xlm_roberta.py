"""XLM-RoBERTa (https://arxiv.org/abs/1911.02116): RoBERTa, of a hundred languages."""

from __future__ import annotations

from omniform.architectures.counted_family import CountedText, counted_family

FAMILY = counted_family("xlm-roberta", "XLMRoberta", CountedText.read, tokenizer="XLMRobertaTokenizer").done()
