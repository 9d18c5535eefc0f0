"""BART against the reference."""

from __future__ import annotations

import pytest
import torch
from askers import PROBLEMS, STREAMS, Labels, Nothing, Places, Rows, Text, TextToText, Words, ended
from harness import Head, Parity, Table, compiled
from writers import Sources

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, padded, ragged, saved_reference, transformers

TINY = {
    "vocab_size": 97, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 48, "max_position_embeddings": 60,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
}  # fmt: skip


# A reference's config of two classes, saved, reads as three: it leaves out what every config has, and BART's has three.
NUMBERS = Rows(
    torch.tensor([[0.0, 1.5, 2.0], [1.0, -0.4, 0.0], [0.3, 0.1, 0.2]]), {"num_labels": 3, "problem_type": "regression"}
)


def text(labels: Labels, **options: object) -> Text:
    return Text(labels, taps=STREAMS, rows=ended(2), embeds=None, **options)


class TestBart(Parity):
    table = Table(
        model_type="bart",
        config=transformers.BartConfig,
        tiny=TINY,
        heads={
            "Model": Head("BartModel", "AutoModel", TextToText(Nothing()), everywhere=True),
            "ForConditionalGeneration": Head(
                "BartForConditionalGeneration", "AutoModelForSeq2SeqLM", TextToText(Words()), everywhere=True
            ),
            **{
                f"ForSequenceClassification, {problem}": Head(
                    "BartForSequenceClassification", "AutoModelForSequenceClassification", text(labels)
                )
                for problem, labels in {**PROBLEMS, "several numbers": NUMBERS}.items()
            },
            "ForQuestionAnswering": Head("BartForQuestionAnswering", "AutoModelForQuestionAnswering", text(Places())),
            "ForCausalLM": Head(
                "BartForCausalLM", "AutoModelForCausalLM", Text(Words()), everywhere=True,
                but=("uneven",),  # the reference counts the encoder's layers here
                unused=tuple(f"model.layers.{i}.encoder_attn" for i in range(2)),
            ),
        },
        variants={
            "plain": {},
            "gelu_new": {"activation_function": "gelu_new"},
            "relu": {"activation_function": "relu"},
            "scaled": {"scale_embedding": True},
            "untied": {"tie_word_embeddings": False},
            "scaled, untied": {"scale_embedding": True, "tie_word_embeddings": False},
            "uneven": {"encoder_layers": 1, "decoder_layers": 3, "encoder_attention_heads": 2, "decoder_ffn_dim": 20},
            "another start": {"decoder_start_token_id": 5, "pad_token_id": 3},
            "forced": {"forced_bos_token_id": 7, "forced_eos_token_id": 9},
        },
        writes=("ForConditionalGeneration", Sources()),
        writing=["plain", "scaled", "untied", "uneven", "another start", "forced"],
        scale=0.5,
        spellings={"compiled": compiled},
    )  # fmt: skip


def pair(tmp_path, head="ForConditionalGeneration", auto="Seq2SeqLM", **changes):
    config = transformers.BartConfig(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"Bart{head}"), config, tmp_path / "model", scale=0.4)
    return getattr(omniform, f"AutoModel{auto}").from_pretrained(tmp_path / "model"), theirs


@pytest.mark.parametrize(("head", "auto"), [("Model", ""), ("ForConditionalGeneration", "ForSeq2SeqLM")])
def test_the_decoder_reads_the_text_again(tmp_path, head, auto):
    """Where it is given nothing; with nothing to read it is an error."""
    ours, theirs = pair(tmp_path, head, auto)
    ids, mask = padded(ragged(97, [9, 4]))
    field = "logits" if auto else "last_hidden_state"
    compare(ours, theirs, {"input_ids": ids, "attention_mask": mask}, [field])
    compare(ours, theirs, {"input_ids": ids, "decoder_inputs_embeds": torch.randn(2, 3, 32)}, [field])
    with pytest.raises(InputError, match="decoder needs a beginning"):
        ours(inputs_embeds=torch.randn(2, 3, 32))


def test_defaults(tmp_path):
    """Three classes, and an end that is forced, where the config says nothing."""
    config = omniform.AutoConfig.for_model("bart", **{k: v for k, v in TINY.items() if "token" not in k})
    assert config.num_labels == 3 and config.forced_eos_token_id == 2
    assert omniform.BartConfig(num_labels=2).num_labels == 2 == omniform.BertConfig().num_labels
    torch.manual_seed(0)
    model = omniform.AutoModelForSeq2SeqLM.from_config(config).eval()
    written = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=5, min_new_tokens=5)
    assert written[0, 0] == 2 and written[0, -1] == 2


def test_a_classifier_needs_an_end_in_every_row(tmp_path):
    ours, theirs = pair(tmp_path, "ForSequenceClassification", "ForSequenceClassification")
    ids = torch.tensor([[5, 2, 7, 2, 0], [5, 6, 2, 2, 9]])
    compare(ours, theirs, {"input_ids": ids}, ["logits"])
    with pytest.raises(InputError, match="same number of end tokens"):
        ours(torch.tensor([[5, 2, 2], [5, 2, 6]]))


@pytest.mark.parametrize("tie", [True, False])
def test_more_tokens(tmp_path, tie):
    """The bias of the scores grows with the table, by zeros."""
    ours, _ = pair(tmp_path, auto="ForSeq2SeqLM", tie_word_embeddings=tie)
    ids = torch.stack(ragged(97, [9, 9]))
    before = ours(ids).logits
    for size in (101, 90):
        ours.resize_token_embeddings(size)
        found = ours(ids.clamp(max=89), decoder_input_ids=ids.clamp(max=89))
        assert found.logits.shape[-1] == size
        ours.save_pretrained(tmp_path / str(size))
        again = omniform.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / str(size))
        assert torch.equal(again.adjust.bias, ours.adjust.bias) and not again.adjust.bias[:, 97:].any()
        other = transformers.BartForConditionalGeneration.from_pretrained(tmp_path / str(size)).eval()
        compare(again, other, {"input_ids": ids.clamp(max=89)}, ["logits"])
    assert before.shape[-1] == 97


def test_the_decoder_alone_from_a_whole_model(tmp_path):
    """From the base's file and the writer's, however the shared table is spelled there."""
    ids, states, seen = torch.stack(ragged(97, [9, 9])), torch.randn(2, 5, 32), torch.tensor([[1] * 5, [1, 1, 0, 0, 0]])
    for head, auto in (("Model", ""), ("ForConditionalGeneration", "ForSeq2SeqLM")):
        _, theirs = pair(tmp_path, head, auto)
        alone, report = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
        assert not report.fresh and not report.unexpected
        inner = theirs.get_decoder()
        crossed = {"encoder_hidden_states": states, "encoder_attention_mask": seen}
        with torch.no_grad():
            close(alone.model(ids, **crossed).last_hidden_state, inner(input_ids=ids, **crossed).last_hidden_state)


@pytest.mark.parametrize(
    "change", [{"encoder_attention_heads": 5}, {"normalize_before": True}, {"normalize_embedding": False}]
)
def test_bad_configs(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        omniform.AutoConfig.for_model("bart").replace(**change)
