"""Speech encoder-decoders against the reference."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import test_wav2vec2_bert
import torch
import waves
from askers import Inputs, TextToText, Words, noise
from harness import Head, Parity, Table, compiled
from writers import Waves as Sounds

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, saved_reference, transformers

TEXT = {"vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 28}
BERT = {**TEXT, "model_type": "bert", "is_decoder": True, "add_cross_attention": True}
GPT2 = {
    "model_type": "gpt2", "vocab_size": 97, "n_embd": 32, "n_layer": 1, "n_head": 4, "add_cross_attention": True,
}  # fmt: skip
MBART = {
    "model_type": "mbart", "vocab_size": 97, "d_model": 20, "decoder_layers": 1, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 24, "encoder_attention_heads": 4, "is_decoder": True, "add_cross_attention": True,
    "scale_embedding": True,
}  # fmt: skip
WAV = {**waves.TINY, "model_type": "wav2vec2", "num_hidden_layers": 1}
ADAPTED = {**WAV, "add_adapter": True, "num_adapter_layers": 1, "output_hidden_size": 20}
TINY = {"encoder": WAV, "decoder": BERT, "pad_token_id": 0, "decoder_start_token_id": 3, "eos_token_id": 2}


@dataclass(frozen=True)
class Spoken(TextToText):
    """Waves, and a decoder's rows."""

    def sources(self, side: str = "right") -> Inputs:
        given = Sounds((313, 297, 151)).sounds()
        return given if side == "right" else {"inputs": given["input_values"]}

    def long_sources(self) -> Inputs:
        return {"input_values": noise(2, 301)}

    def questions(self, config):
        for question in super().questions(config):
            # A mask of samples is not one of the encoder's frames.
            if question.fields != ("encoder_last_hidden_state",):
                yield question


class Padded(Sounds):
    """Waves whose rows keep their padding."""

    def __init__(self) -> None:
        super().__init__((313, 297, 151))

    def written(self, row, answer):
        return answer[0, 1:].tolist()


NAME, AUTO = "SpeechEncoderDecoderModel", "AutoModelForSpeechSeq2Seq"


class TestSpeechEncoderDecoder(Parity):
    table = Table(
        model_type="speech-encoder-decoder",
        config=transformers.SpeechEncoderDecoderConfig,
        tiny=TINY,
        heads={"Model": Head(NAME, AUTO, Spoken(Words()), everywhere=True)},
        variants={
            "plain": {},
            "a bridge to GPT-2": {"decoder": GPT2},
            "an adapter, MBart": {"encoder": ADAPTED, "decoder": MBART},
        },
        writes=("Model", Padded()),
        scale=0.6,
        half=5e-2,
        spellings={"compiled": compiled},
        derived=frozenset({"encoder", "decoder"}),
    )


def test_features_of_any_encoder(tmp_path):
    """An encoder of features, and one that cannot say what is padding; both behind a decoder that is not as wide."""
    bert = {**test_wav2vec2_bert.TINY, "model_type": "wav2vec2-bert", "hidden_size": 16}
    ast = {"model_type": "audio-spectrogram-transformer", "hidden_size": 16, "num_hidden_layers": 1, "patch_size": 4,
        "num_attention_heads": 2, "intermediate_size": 20, "max_length": 13, "num_mel_bins": 9}  # fmt: skip
    ids = torch.tensor([[3, 5, 7], [3, 9, 2]])
    mask = (torch.arange(19) < torch.tensor([[19], [11]])).long()
    for encoder, given in (
        (bert, {"input_features": noise(2, 19, 10), "attention_mask": mask}),
        (bert, {"inputs": noise(2, 19, 10)}),
        (ast, {"input_values": noise(2, 13, 9)}),
    ):
        config = transformers.SpeechEncoderDecoderConfig(**{**TINY, "encoder": encoder})
        theirs = saved_reference(transformers.SpeechEncoderDecoderModel, config, tmp_path)
        ours = omniform.SpeechEncoderDecoderModel.from_pretrained(tmp_path)
        given = {**given, "decoder_input_ids": ids}
        compare(ours, theirs, given, ["logits", "encoder_last_hidden_state", "cross_attentions"])
        with torch.no_grad():
            encoded = ours.encoder(**{ours.main_input: next(iter(given.values()))})
            rest = {name: t for name, t in given.items() if name in ("attention_mask", "decoder_input_ids")}
            if "attention_mask" not in given:
                close(ours(encoder_outputs=encoded, **rest).logits, theirs(**given).logits)
    with pytest.raises(InputError, match="masked"):
        ours(**given, attention_mask=torch.tensor([[1, 1, 1], [1, 1, 0]]))


def test_what_goes_to_the_decoder(tmp_path):
    config = transformers.SpeechEncoderDecoderConfig(**TINY)
    theirs = saved_reference(transformers.SpeechEncoderDecoderModel, config, tmp_path)
    ours = omniform.SpeechEncoderDecoderModel.from_pretrained(tmp_path)
    given = {
        "inputs": noise(1, 301), "decoder_input_ids": torch.tensor([[3, 5, 7]]),
        "decoder_position_ids": torch.tensor([[4, 5, 9]]), "decoder_token_type_ids": torch.tensor([[0, 1, 1]]),
    }  # fmt: skip
    compare(ours, theirs, given, ["logits"])
    labels = torch.tensor([[5, -100, 7]])
    assert torch.equal(
        ours.prepare_decoder_input_ids_from_labels(labels), theirs.prepare_decoder_input_ids_from_labels(labels)
    )
    ours.freeze_feature_encoder()
    frozen = {name for name, p in ours.named_parameters() if not p.requires_grad}
    assert frozen == {f"encoder.feature_extractor.{n}" for n, _ in ours.encoder.feature_extractor.named_parameters()}


def test_beams(tmp_path):
    config = transformers.SpeechEncoderDecoderConfig(**TINY)
    theirs = saved_reference(transformers.SpeechEncoderDecoderModel, config, tmp_path, scale=0.5)
    ours = omniform.SpeechEncoderDecoderModel.from_pretrained(tmp_path)
    sounds = Padded().sounds()
    given = {"attention_mask": sounds["attention_mask"], "num_beams": 3, "max_new_tokens": 7, "do_sample": False}
    expected = theirs.generate(sounds["input_values"], **given)
    assert torch.equal(ours.generate(sounds["input_values"], **given), expected)
    assert torch.equal(ours.generate(inputs=sounds["input_values"], **given), expected)
    assert torch.equal(ours.generate(input_values=sounds["input_values"], **given), expected)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"decoder": {**BERT, "add_cross_attention": False}}, "add_cross_attention"),
        ({"decoder": WAV}, "does not write"),
        ({"decoder": {**BERT, "cross_attention_hidden_size": 20}}, "cross_attention_hidden_size"),
        ({"encoder": {"model_type": "nobody"}}, "nobody"),
        ({"encoder": {**ADAPTED, "output_hidden_size": 22}}, "output_hidden_size"),
    ],
)
def test_bad_pairs(wrong, named):
    with pytest.raises((ConfigError, KeyError, ValueError), match=named):
        omniform.SpeechEncoderDecoderModel(omniform.SpeechEncoderDecoderConfig(**{**TINY, **wrong}))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"decoder_input_ids": None}, "decoder_input_ids"),
        ({"inputs": None}, "input_values"),
        ({"decoder_input_ids": torch.tensor([[97]])}, "vocabulary"),
        ({"labels": torch.tensor([[97]])}, "labels"),
        ({"attention_mask": torch.ones(1, 299)}, "attention_mask"),
    ],
)
def test_bad_inputs(wrong, named):
    ours = omniform.SpeechEncoderDecoderModel(omniform.SpeechEncoderDecoderConfig(**TINY))
    with pytest.raises(InputError, match=named):
        ours(**{"inputs": noise(1, 301), "decoder_input_ids": torch.tensor([[3]]), **wrong})


def test_of_two_checkpoints(tmp_path):
    """A text's model learns to look at sounds: what it lacks for that is made anew, and said."""
    wav = {name: value for name, value in WAV.items() if name != "model_type"}
    encoder = saved_reference(transformers.Wav2Vec2Model, transformers.Wav2Vec2Config(**wav), tmp_path / "encoder")
    saved_reference(
        transformers.BertModel, transformers.BertConfig(**{**TEXT, "hidden_size": 32}), tmp_path / "decoder"
    )
    ours = omniform.SpeechEncoderDecoderModel.from_encoder_decoder_pretrained(
        tmp_path / "encoder", tmp_path / "decoder", encoder_layerdrop=0.0, pad_token_id=0, decoder_start_token_id=3
    )
    _, report = omniform.AutoModelForCausalLM.from_pretrained(
        tmp_path / "decoder", is_decoder=True, add_cross_attention=True, output_loading_info=True
    )
    assert any("encoder_attn" in path for path in report.fresh) and not ours.training
    assert ours.config.decoder.is_decoder is True and ours.config.decoder.add_cross_attention is True
    wave = noise(2, 301)
    with torch.no_grad():
        close(ours.encoder(wave).last_hidden_state, encoder(wave).last_hidden_state)
        assert torch.isfinite(ours(wave, labels=torch.tensor([[5, 7], [9, -100]])).loss)
    ours.save_pretrained(tmp_path / "both")
    theirs = transformers.SpeechEncoderDecoderModel.from_pretrained(tmp_path / "both").eval()
    given = {"input_values": wave, "decoder_input_ids": torch.tensor([[3, 5], [3, 6]])}
    compare(ours, theirs, given, ["logits"])
    again = omniform.SpeechEncoderDecoderModel(encoder=ours.encoder, decoder=ours.writer)
    assert again.encoder is ours.encoder and again.writer is ours.writer
    again.enc_to_dec_proj.load_state_dict(ours.enc_to_dec_proj.state_dict())
    compare(again.eval(), theirs, given, ["logits"])
    both = omniform.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(
        omniform.Wav2Vec2Config(**wav), omniform.BertConfig(**TEXT), pad_token_id=0
    )
    assert both.decoder.add_cross_attention is True and both.encoder.hidden_size == 24 and both.pad_token_id == 0
    for wrong in ({"encoder": ours.encoder}, {}):
        with pytest.raises(InputError, match="two models"):
            omniform.SpeechEncoderDecoderModel(**wrong)
    with pytest.raises(TypeError, match="encodr"):
        omniform.SpeechEncoderDecoderModel(encodr=ours.encoder, decoder=ours.writer)
    with pytest.raises(InputError, match="no decoder"):
        omniform.SpeechEncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path / "encoder")
