"""What the tables of BART's line share."""

from __future__ import annotations

from collections.abc import Mapping

from askers import PROBLEMS, STREAMS, Labels, Nothing, Places, Text, TextToText, Words, ended
from harness import Head

TINY = {
    "vocab_size": 97, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 48, "max_position_embeddings": 60,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
}  # fmt: skip

UNEVEN = {"encoder_layers": 1, "decoder_layers": 3, "encoder_attention_heads": 2, "decoder_ffn_dim": 20}


def text(labels: Labels, **options: object) -> Text:
    return Text(labels, taps=STREAMS, rows=ended(2), embeds=None, **options)


def both(name: str, writer: str = "ForConditionalGeneration") -> dict[str, Head]:
    """The base and the writer."""
    return {
        "Model": Head(f"{name}Model", "AutoModel", TextToText(Nothing()), everywhere=True),
        "Writer": Head(f"{name}{writer}", "AutoModelForSeq2SeqLM", TextToText(Words()), everywhere=True),
    }


def alone(name: str, *but: str) -> dict[str, Head]:
    """The decoder alone; the reference counts the encoder's layers in one that has fewer."""
    options = {"but": ("uneven", *but), "unused": tuple(f"model.layers.{i}.encoder_attn" for i in range(2))}
    head = Head(f"{name}ForCausalLM", "AutoModelForCausalLM", Text(Words()), everywhere=True, **options)
    return {"ForCausalLM": head}


def asked(name: str, problems: Mapping[str, Labels] = PROBLEMS) -> dict[str, Head]:
    """Row classifiers and a question answerer."""
    rows = {
        f"ForSequenceClassification, {problem}": Head(
            f"{name}ForSequenceClassification", "AutoModelForSequenceClassification", text(labels)
        )
        for problem, labels in problems.items()
    }
    answerer = Head(f"{name}ForQuestionAnswering", "AutoModelForQuestionAnswering", text(Places()))
    return {**rows, "ForQuestionAnswering": answerer}
