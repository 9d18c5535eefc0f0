"""T5, mT5 and UMT5 against the reference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from askers import PROBLEMS, STREAMS, Labels, Nothing, Places, Text, TextToText, Tokens, Words, ended
from harness import Head, Parity, Table, compiled
from safetensors.torch import load_file, save_file
from writers import Sources

from omniform.blocks.relative import BucketedBias
from omniform.core.errors import ConfigError, InputError, WeightsError
from reference import (
    check_round_trip,
    close,
    compare,
    omniform,
    padded,
    ragged,
    saved_reference,
    trains,
    transformers,
)

TINY = {
    "vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
    "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip

FEW_BUCKETS = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 10, "layer_norm_epsilon": 1e-2}
SHORT = {"num_layers": 3, "num_decoder_layers": 1, "dropout_rate": 0.0}
WIDE = {"d_kv": 20, "num_heads": 3}
VARIANTS = {
    "gelu, few buckets": {"feed_forward_proj": "gelu", **FEW_BUCKETS},
    "gated gelu, unscaled": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "activation overridden, odd buckets": {
        "feed_forward_proj": "gated-gelu", "dense_act_fn": "silu",
        "relative_attention_num_buckets": 11, "relative_attention_max_distance": 30,
    },
    "no longer gated, short decoder": {"feed_forward_proj": "gated-relu", "is_gated_act": False, **SHORT},
    "long decoder, near maximum": {
        "num_layers": 1, "num_decoder_layers": 3,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 17,
    },
    "wide heads, another start": {**WIDE, "decoder_start_token_id": 5, "pad_token_id": 3},
    "scaling said outright": {"tie_word_embeddings": False, "scale_decoder_outputs": True},
}  # fmt: skip


Keys = Mapping[str, object]


def pair(tmp_path: Path, head: str = "ForConditionalGeneration", scale: float = 0.2, **changes: object):
    config = transformers.T5Config(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"T5{head}"), config, tmp_path / "model", scale=scale)
    return auto(head).from_pretrained(tmp_path / "model"), theirs


def auto(head: str) -> type[omniform.AutoModel]:
    names = {
        "Model": "AutoModel", "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
        "EncoderModel": "AutoModelForTextEncoding",
    }  # fmt: skip
    return getattr(omniform, names.get(head, f"AutoModel{head}"))


def text(labels: Labels, **options: object) -> Text:
    return Text(labels, taps=STREAMS, rows=ended(1), embeds=None, **options)


def table(
    model_type: str,
    name: str,
    asked: Mapping[str, Keys],
    variants: Mapping[str, Keys],
    problems: Sequence[str] = ("classes",),
    **more: object,
) -> Table:
    """A family of the line; ``asked``: config keys of question answerers."""
    return Table(
        model_type=model_type,
        config=getattr(transformers, f"{name}Config"),
        tiny=TINY,
        heads={
            "Model": Head(f"{name}Model", "AutoModel", TextToText(Nothing())),
            "ForConditionalGeneration": Head(
                f"{name}ForConditionalGeneration", "AutoModelForSeq2SeqLM", TextToText(Words()), everywhere=True
            ),
            "EncoderModel": Head(f"{name}EncoderModel", "AutoModelForTextEncoding", Text(Nothing())),
            "ForTokenClassification": Head(
                f"{name}ForTokenClassification", "AutoModelForTokenClassification", Text(Tokens(), embeds=None)
            ),
            **{
                f"ForSequenceClassification, {problem}": Head(
                    f"{name}ForSequenceClassification", "AutoModelForSequenceClassification", text(labels)
                )
                for problem, labels in PROBLEMS.items()
                if problem in problems
            },
            **{
                f"ForQuestionAnswering, {kind}": Head(
                    f"{name}ForQuestionAnswering",
                    "AutoModelForQuestionAnswering",
                    text(Places(config={"dropout_rate": 0.0, **config})),
                    rate=1e-3,
                )
                for kind, config in asked.items()
            },
        },
        variants={"plain": {}, **variants},
        writes=("ForConditionalGeneration", Sources()),
        scale=0.8,
        spellings={"compiled": compiled},
        half=5e-2,
        **more,
    )


GATED = {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 1}
FEW = {
    "relu, unscaled": {"feed_forward_proj": "relu", "tie_word_embeddings": False},
    "gated silu, few buckets": {"feed_forward_proj": "gated-silu", **FEW_BUCKETS},
    "wide heads, short decoder": {**WIDE, **SHORT},
}


class TestT5(Parity):
    writing = ("plain", "gelu, few buckets", "gated gelu, unscaled", "wide heads, another start")
    table = table("t5", "T5", {"plain": {}, "other": GATED}, VARIANTS, tuple(PROBLEMS), writing=writing)


class TestMT5(Parity):
    table = table("mt5", "MT5", {"relu": {"feed_forward_proj": "relu"}}, FEW, writing=("plain",))


class TestUMT5(Parity):
    writing = ("plain", "wide heads, short decoder")
    table = table("umt5", "UMT5", {"relu": {"feed_forward_proj": "relu"}}, FEW, writing=writing)


def inputs_of(side: str = "right", answer: bool = True) -> dict[str, torch.Tensor]:
    ids, mask = padded(ragged(97, [13, 6, 2]), side=side)
    labels, real = padded(ragged(97, [7, 4, 1], seed=1))
    given = {"input_ids": ids, "attention_mask": mask}
    return {**given, "labels": labels.masked_fill(real == 0, -100)} if answer else given


def test_the_engines_steps(tmp_path):
    ours, theirs = pair(tmp_path)
    given = inputs_of("left", answer=False)
    assert ours.can_generate() and ours.start_token_id == 0 and ours.max_positions is None
    assert ours.encoder_inputs == {"input_ids", "attention_mask", "inputs_embeds"}
    found = ours.generate(**given, max_new_tokens=9, do_sample=False)
    expected = theirs.generate(**given, max_new_tokens=9, do_sample=False)
    assert found.tolist() == expected.tolist()


@torch.no_grad()
def test_writes_of_what_an_encoder_gave(tmp_path):
    """Ours or the reference's, padded on the right, on the left or not at all."""
    ours, theirs = pair(tmp_path, scale=0.6)
    for side in ("right", "left"):
        given = inputs_of(side, answer=False)
        expected = theirs.generate(**given, max_new_tokens=7, do_sample=False).tolist()
        mask = given["attention_mask"]
        for output in (ours.get_encoder()(**given), theirs.get_encoder()(**given), (theirs.encoder(**given)[0],)):
            found = ours.generate(encoder_outputs=output, attention_mask=mask, max_new_tokens=7, do_sample=False)
            assert found.tolist() == expected
    states = torch.randn(2, 5, 32)
    beams = {"num_beams": 3, "max_new_tokens": 6}
    expected = theirs.generate(encoder_outputs=transformers.modeling_outputs.BaseModelOutput(states), **beams)
    assert ours.generate(encoder_outputs=(states,), **beams).tolist() == expected.tolist()
    with pytest.raises(InputError, match="encoder_outputs"):
        ours.generate(encoder_outputs=3)


def test_dropout_only_in_training(tmp_path):
    ours, _ = pair(tmp_path, dropout_rate=0.5)
    with torch.no_grad():
        given = inputs_of()
        assert torch.equal(ours(**given).logits, ours(**given).logits)
        ours.train()
        assert not torch.equal(ours(**given).logits, ours(**given).logits)


def test_base_and_heads_load_one_another(tmp_path):
    pair(tmp_path)
    folder = tmp_path / "model"
    ids = torch.stack(ragged(97, [9, 9]))
    given = {"input_ids": ids, "decoder_input_ids": ids[:, :5]}
    base = omniform.AutoModel.from_pretrained(folder)
    compare(base, transformers.T5Model.from_pretrained(folder), given, ["last_hidden_state"])
    encoder = omniform.AutoModelForTextEncoding.from_pretrained(folder)
    compare(encoder, transformers.T5EncoderModel.from_pretrained(folder), {"input_ids": ids}, ["last_hidden_state"])
    for head in ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"):
        model, report = auto(head).from_pretrained(folder, output_loading_info=True)
        assert report.fresh and all("classif" in f or "qa_outputs" in f for f in report.fresh), report.fresh
        model.save_pretrained(str(tmp_path / head))
    from_head = omniform.AutoModel.from_pretrained(tmp_path / "ForSequenceClassification")
    with torch.no_grad():
        assert torch.equal(from_head(**given).last_hidden_state, base(**given).last_hidden_state)


def rewritten(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({k: t.clone() for k, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def test_duplicates_strays_and_old_names(tmp_path):
    _, theirs = pair(tmp_path)

    def change(tensors):
        for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors["shared.weight"]
        tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.rand(32, 4)

    rewritten(tmp_path / "model", change)
    again, report = omniform.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report.unexpected and not report.fresh
    assert again.lm_head.weight is again.model.encoder.embed_tokens.weight
    compare(again, theirs, inputs_of(), ["logits"])
    rewritten(tmp_path / "model", lambda tensors: tensors.pop("shared.weight"))
    compare(omniform.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model"), theirs, inputs_of(), ["logits"])
    rewritten(tmp_path / "model", lambda tensors: tensors.update({"encoder.block.0.nonsense": torch.rand(3)}))
    with pytest.raises(WeightsError, match="nonsense"):
        omniform.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("name", ["T5", "MT5", "UMT5"])
@pytest.mark.parametrize("tie", [True, False])
def test_a_projection_of_its_own(tmp_path, name, tie):
    """Checkpoints from 1.1 on hold an ``lm_head`` that differs from the token table: it counts, whatever config says.

    Only T5's outputs are scaled or not by what it says; mT5's never are, and UMT5's always, as the reference has it.
    """
    folder, made = tmp_path / "model", getattr(transformers, f"{name}ForConditionalGeneration")
    tied = saved_reference(made, getattr(transformers, f"{name}Config")(**TINY, tie_word_embeddings=tie), folder)
    raw = json.loads((folder / "config.json").read_text())
    raw.pop("scale_decoder_outputs", None)
    (folder / "config.json").write_text(json.dumps({**raw, "tie_word_embeddings": tie, "scalable_attention": True}))
    rewritten(folder, lambda tensors: tensors.update({"lm_head.weight": torch.randn(97, 32) * 0.2}))
    theirs = made.from_pretrained(folder).eval()
    ours = omniform.AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert not ours.config.unknown
    compare(ours, theirs, inputs_of(), ["logits", "loss"])
    assert not torch.allclose(ours(**inputs_of()).logits, tied(**inputs_of()).logits, atol=1e-2)
    check_round_trip(folder, ours, tmp_path / "again")


def test_defaults_and_generic_key_names(tmp_path):
    config = transformers.T5Config(**{**TINY, "num_decoder_layers": 3})
    theirs = saved_reference(transformers.T5ForConditionalGeneration, config, tmp_path / "model")
    raw = {
        "model_type": "t5", "vocab_size": 97, "hidden_size": 32, "head_dim": 8, "d_ff": 48, "num_hidden_layers": 2,
        "num_decoder_layers": 3, "num_attention_heads": 4, "decoder_start_token_id": 0,
    }  # fmt: skip
    (tmp_path / "model" / "config.json").write_text(json.dumps(raw))
    compare(omniform.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model"), theirs, inputs_of(), ["logits", "loss"])


def test_embeddings_instead_of_ids(tmp_path):
    ours, theirs = pair(tmp_path)
    given = {"inputs_embeds": torch.randn(2, 6, 32), "decoder_inputs_embeds": torch.randn(2, 3, 32)}
    compare(ours, theirs, given, ["logits"])


def test_every_offset_has_the_references_bucket():
    reference = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
    offsets = torch.arange(-400, 401)
    for buckets, distance in ((32, 128), (32, 64), (12, 40), (7, 9), (64, 512)):
        for two_sided in (True, False):
            bias = BucketedBias(buckets, 1, max_distance=distance, two_sided=two_sided)
            expected = reference(offsets, two_sided, buckets, distance)
            assert torch.equal(bias.bucket(offsets), expected), (buckets, distance, two_sided)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"input_ids": torch.tensor([[97]])}, "input_ids"),
        ({"decoder_input_ids": torch.tensor([[-1]])}, "decoder_input_ids"),
        ({"decoder_input_ids": None}, "decoder_input_ids"),
        ({"decoder_input_ids": torch.zeros(2, 3, dtype=torch.long)}, "rows"),
        ({"attention_mask": torch.ones(1, 9)}, "attention_mask"),
        ({"decoder_attention_mask": torch.ones(1, 9)}, "attention_mask"),
        ({"input_ids": None}, "input_ids"),
        ({"input_ids": None, "encoder_outputs": (3,)}, "encoder_outputs"),
        ({"labels": torch.tensor([[100, 3]])}, "labels"),
    ],
)
def test_bad_inputs(tmp_path, wrong, named):
    ours, _ = pair(tmp_path)
    good = {"input_ids": torch.tensor([[5, 6]]), "decoder_input_ids": torch.tensor([[0]])}
    with pytest.raises(InputError, match=named):
        ours(**{**good, **wrong})


def test_rows_without_an_end(tmp_path):
    ours, _ = pair(tmp_path, "ForSequenceClassification")
    for ids in ([[5, 6, 7]], [[5, 1, 1], [5, 6, 1]]):
        with pytest.raises(InputError, match="end tokens"):
            ours(torch.tensor(ids))


def test_labels_need_a_start_token(tmp_path):
    ours, _ = pair(tmp_path)
    ours.shift = type(ours.shift)(None, 0)
    with pytest.raises(InputError, match="decoder_start_token_id"):
        ours(**inputs_of())


@pytest.mark.parametrize("proj", ["gated-nonsense", "gate-gelu", "relu-gelu-x", ""])
def test_unknown_activation(proj):
    with pytest.raises(ConfigError, match="feed_forward_proj"):
        omniform.AutoConfig.for_model("t5", feed_forward_proj=proj)


def test_from_scratch_trains():
    config = omniform.AutoConfig.for_model("t5", **TINY)
    model = omniform.AutoModelForSeq2SeqLM.from_config(config)
    trains(model, inputs_of())


def test_a_row_read_on(tmp_path: Path) -> None:
    """The state of a classifier's step goes on in another, told at its own end tokens."""
    ours, theirs = pair(tmp_path, "ForSequenceClassification")
    ids = torch.randint(2, 97, (2, 6), generator=torch.Generator().manual_seed(4))
    ids[:, -1] = 1
    with torch.no_grad():
        past = [model(input_ids=ids).past_key_values for model in (ours, theirs)]
        found, expected = (
            model(input_ids=ids, decoder_input_ids=ids, past_key_values=kept).logits
            for model, kept in zip((ours, theirs), past, strict=True)
        )
    close(found, expected)
