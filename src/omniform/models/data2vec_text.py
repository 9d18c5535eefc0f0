"""Data2Vec of text (https://arxiv.org/abs/2202.03555): RoBERTa, trained otherwise."""

from __future__ import annotations

from omniform.architectures.counted_family import CountedText, counted_family

FAMILY = counted_family("data2vec-text", "Data2VecText", CountedText.read, prefix="data2vec_text").done()
