"""MusicGen against the reference: the decoder alone, the whole, and what both write."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from askers import Given, Question, noise
from harness import Head, Parity, Table

from omniform.core.errors import ConfigError, InputError
from reference import (
    check_round_trip,
    close,
    omniform,
    saved_reference,
    trains,
    transformers,
    unaccounted,
    wrong_defaults,
)

WRITER = {
    "vocab_size": 16, "hidden_size": 12, "ffn_dim": 20, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_codebooks": 4, "pad_token_id": 16, "bos_token_id": 16, "max_position_embeddings": 9,
}  # fmt: skip
TEXT = {
    "vocab_size": 40, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2, "pad_token_id": 0,
    "decoder_start_token_id": 0,
}  # fmt: skip
CODEC = {
    "hidden_size": 8, "num_filters": 4, "upsampling_ratios": [3, 2], "codebook_size": 16, "sampling_rate": 600,
    "target_bandwidths": [1.6], "num_lstm_layers": 1,
}  # fmt: skip
STEREO = {"audio_channels": 2, "num_codebooks": 8}
ASKED = {"output_hidden_states": True, "output_attentions": True}
ASKED_OF = ("hidden_states", "attentions")
FIELDS = ("logits", "hidden_states", "attentions", "cross_attentions")
IDS = torch.tensor([[5, 9, 7, 3, 1], [8, 4, 1, 0, 0]])
MASK = (IDS != 0).long()


def codes(rows: int, books: int = 4, length: int = 6) -> torch.Tensor:
    return torch.randint(0, 16, (rows * books, length), generator=torch.Generator().manual_seed(1))


def asked(reference: str, auto: str, fields: tuple[str, ...], **inputs: torch.Tensor) -> dict[str, Head]:
    """One head, asked one thing."""
    return {"Model": Head(reference, auto, Given(lambda config: [Question({**inputs}, fields)]))}


class TestMusicgenDecoder(Parity):
    table = Table(
        model_type="musicgen_decoder", config=transformers.MusicgenDecoderConfig, tiny=WRITER,
        heads=asked("MusicgenModel", "AutoModel", ("last_hidden_state", *ASKED_OF), input_ids=codes(2)),
    )  # fmt: skip


def composed(**changes: object):
    parts = {"text_encoder": TEXT, "audio_encoder": CODEC, "decoder": WRITER, **changes}
    kinds = {"text_encoder": "T5Config", "audio_encoder": "EncodecConfig", "decoder": "MusicgenDecoderConfig"}
    return transformers.MusicgenConfig(**{name: getattr(transformers, kinds[name])(**parts[name]) for name in kinds})


class TestMusicgen(Parity):
    table = Table(
        model_type="musicgen", config=composed, tiny={}, config_class=transformers.MusicgenConfig,
        derived=frozenset({"text_encoder", "audio_encoder", "decoder"}),
        heads=asked("MusicgenForConditionalGeneration", "AutoModelForTextToWaveform",
            ("logits", "decoder_hidden_states"), input_ids=IDS, attention_mask=MASK, decoder_input_ids=codes(2)),
    )  # fmt: skip


def writers(folder: Path, **changes: object):
    config = transformers.MusicgenDecoderConfig(**{**WRITER, **changes})
    theirs = saved_reference(transformers.MusicgenForCausalLM, config, folder, scale=0.4)
    theirs.set_attn_implementation("eager")
    return omniform.AutoModelForCausalLM.from_pretrained(folder), theirs


def wholes(folder: Path, writer: dict[str, object] | None = None, **text: object):
    config = composed(text_encoder={**TEXT, **text}, decoder={**WRITER, **(writer or {})})
    theirs = saved_reference(transformers.MusicgenForConditionalGeneration, config, folder, scale=0.4)
    theirs.set_attn_implementation("eager")
    theirs.generation_config.decoder_start_token_id = theirs.generation_config.pad_token_id = 16
    return omniform.MusicgenForConditionalGeneration.from_pretrained(folder), theirs


@pytest.mark.parametrize("changes", [{}, STEREO, {"activation_function": "relu", "hidden_size": 10}], ids=str)
@torch.no_grad()
def test_the_writer(tmp_path, changes):
    """Scores, all that is seen on the way, steps from a cache, masks of both sides."""
    ours, theirs = writers(tmp_path / "one", **changes)
    check_round_trip(tmp_path / "one", ours, tmp_path / "again")
    books, dim = theirs.config.num_codebooks, theirs.config.hidden_size
    ids, seen = codes(2, books, 11), noise(2, 5, dim)
    mask, own = torch.tensor([[1, 1, 1, 0, 0], [1] * 5]), torch.tensor([[1] * 11, [0, 0] + [1] * 9])
    for given in ({}, {"encoder_hidden_states": seen}, {"encoder_hidden_states": seen, "encoder_attention_mask": mask}):
        found, expected = ours(ids, **given, **ASKED), theirs(ids, **given, **ASKED)
        for name in FIELDS[: 4 if given else 3]:
            close(found[name], expected[name], name)
        masked = ours(ids, own, **given).logits[:, 2:], theirs(ids, own, **given).logits[:, 2:]
        close(*masked)
        past = None
        for piece in ids.split([4, 1, 6], dim=1):
            out = ours(piece, past_key_values=past, use_cache=True, **given)
            past = out.past_key_values
        close(out.logits[:, -1], expected.logits[:, -1])
        close(ours.model(ids, **given)[0], theirs.model(ids, **given)[0])
    base = omniform.MusicgenModel.from_pretrained(tmp_path / "one")
    close(base(ids)[0], theirs.model(ids)[0])
    labels = torch.randint(0, 17, (2, 7, books), generator=torch.Generator().manual_seed(2))
    labels[0, 2] = -100
    for given in ({}, {"input_ids": codes(2, books, 7)}):
        found, expected = ours(labels=labels, **given), theirs(labels=labels, **given)
        close(found.loss, expected.loss)
        close(found.logits, expected.logits)


WAYS = {
    "greedy": {"do_sample": False},
    "guided": {"do_sample": False, "guidance_scale": 3.0},
    "drawn": {"do_sample": True, "guidance_scale": 2.5, "top_k": 5, "temperature": 1.3},
    "rules": {"do_sample": True, "repetition_penalty": 1.5, "top_p": 0.9},
    "few steps": {"do_sample": False, "max_new_tokens": 4},
    "no cache": {"do_sample": False, "use_cache": False, "guidance_scale": 2.0},
}


def alike(ours, theirs, tolerance: float = 1e-3, **given: object) -> None:
    """Both write the same, drawing the same numbers."""
    given = {"max_new_tokens": 9, **given}
    made = []
    for model in (ours, theirs):
        torch.manual_seed(4)
        made.append(model.generate(**given))
    close(*made, tolerance=tolerance)


@pytest.mark.parametrize("way", WAYS)
def test_writing(tmp_path, way):
    """Texts, padded and without a mask, and sounds to go on with."""
    ours, theirs = wholes(tmp_path)
    alike(ours, theirs, input_ids=IDS, attention_mask=MASK, **WAYS[way])
    if way in ("guided", "drawn"):
        alike(ours, theirs, input_ids=IDS, **WAYS[way])
        mask = torch.ones(2, 40)
        mask[1, 30:] = 0
        sound = {"input_values": noise(2, 1, 40), "padding_mask": mask}
        alike(ours, theirs, input_ids=IDS, attention_mask=MASK, **sound, **WAYS[way])
        beginning = {"decoder_input_ids": codes(2, 4, 3)}
        alike(ours, theirs, input_ids=IDS, attention_mask=MASK, **beginning, **WAYS[way])
    if way == "greedy":
        nothing = [model.get_unconditional_inputs(num_samples=2) for model in (ours, theirs)]
        assert nothing[0].guidance_scale == nothing[1].guidance_scale == 1.0
        made = [m.generate(**given, max_new_tokens=8) for m, given in zip((ours, theirs), nothing, strict=True)]
        close(*made)


def test_stereo(tmp_path):
    """Two channels by turns, and a sound of two to go on with."""
    ours, theirs = wholes(tmp_path, STEREO)
    way = {**WAYS["guided"], "input_ids": IDS, "attention_mask": MASK}
    alike(ours, theirs, **way)
    alike(ours, theirs, **way, input_values=noise(2, 2, 30))
    with torch.no_grad():
        given = {"input_ids": IDS, "input_values": noise(2, 1, 30)}
        close(ours(**given).logits, theirs(**given).logits)


def test_the_writer_alone_writes(tmp_path):
    """Codes, from codes, looking at something or at nothing."""
    ours, theirs = writers(tmp_path)
    theirs.generation_config.decoder_start_token_id = 16
    first = torch.full((8, 1), 16)  # of more than one frame, the reference reads the last alone
    seen = {"encoder_hidden_states": noise(2, 3, 12), "use_cache": False}  # whose cache takes both attentions' keys
    for given in ({}, seen):
        mask = {"attention_mask": torch.ones_like(first)}  # or the reference leaves the first frame out
        alike(ours, theirs, inputs=first, **mask, **given, do_sample=False, num_return_sequences=1)
    plain, kept = (ours.generate(first, max_new_tokens=9, **{**seen, "use_cache": kept}) for kept in (False, True))
    assert torch.equal(plain, kept)
    out = ours.generate(codes(2, 4, 3), max_new_tokens=5, do_sample=False, return_dict_in_generate=True,
                        output_logits=True)  # fmt: skip
    assert out.sequences.shape[:2] == (2, 4) and len(out.logits) == 5
    many = ours.generate(codes(2, 4, 3), max_new_tokens=5, do_sample=True, top_k=1, num_return_sequences=2)
    assert torch.equal(many[::2], out.sequences) and torch.equal(many[1::2], out.sequences)


@torch.no_grad()
def test_the_whole(tmp_path):
    """Scores, outputs of both sides, losses, and what is saved."""
    ours, theirs = wholes(tmp_path / "one", {"decoder_start_token_id": 16})
    check_round_trip(tmp_path / "one", ours, tmp_path / "again")
    given = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": codes(2)}
    found, expected = ours(**given, **ASKED), theirs(**given, **ASKED)
    names = ("logits", "encoder_last_hidden_state", "decoder_hidden_states", "encoder_attentions", "cross_attentions")
    for name in names:
        close(found[name], expected[name], name)
    known = {"encoder_outputs": (found.encoder_last_hidden_state,), "decoder_input_ids": codes(2)}
    close(ours(**known).logits, theirs(**known).logits)
    labels = torch.randint(0, 16, (2, 7, 4), generator=torch.Generator().manual_seed(2))
    close(ours(input_ids=IDS, labels=labels).loss, theirs(input_ids=IDS, labels=labels).loss)
    heard = {"input_ids": IDS, "input_values": noise(2, 1, 30)}
    close(ours(**heard).logits, theirs(**heard).logits)
    narrow, same = wholes(tmp_path / "two", {"hidden_size": 8})
    assert narrow.enc_to_dec_proj is None
    close(narrow(**given).logits, same(**given).logits)


def test_learning(tmp_path):
    ours, _ = wholes(tmp_path)
    ours.freeze_text_encoder()
    ours.freeze_audio_encoder()
    labels = torch.randint(0, 16, (2, 7, 4), generator=torch.Generator().manual_seed(2))
    trains(ours.codes, {"labels": labels, "encoder_hidden_states": noise(2, 5, 12)})


def test_configs():
    assert not unaccounted("musicgen_decoder", transformers.MusicgenDecoderConfig)
    assert not wrong_defaults("musicgen_decoder", transformers.MusicgenDecoderConfig)
    assert not unaccounted("musicgen", transformers.MusicgenConfig)
    assert omniform.MusicgenConfig().sampling_rate == 24000
    for key, value in {"audio_channels": 3, "num_attention_heads": 5}.items():
        with pytest.raises(ConfigError, match=key):
            omniform.MusicgenDecoderConfig(**{key: value})


def test_bad_inputs(tmp_path):
    ours, _ = wholes(tmp_path)
    for given, told in (
        ({"decoder_input_ids": codes(1)[:3]}, "no codes of this decoder"),
        ({}, "the decoder needs a beginning"),
        ({"labels": torch.zeros(2, 4, 3, dtype=torch.long)}, "no codes of this decoder"),
    ):
        with pytest.raises(InputError, match=told):
            ours(input_ids=IDS, **given)
    with pytest.raises(InputError, match="there is no text"):
        ours.generate(max_new_tokens=3)
    with pytest.raises(InputError, match="greedily or drawn"):
        ours.generate(input_ids=IDS, num_beams=2)


def test_the_processor_and_the_pipeline(tmp_path):
    """Texts and sounds in, sounds out: as the reference's."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "slow": 3, "drums": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    extractor = transformers.EncodecFeatureExtractor(sampling_rate=600)
    ours, theirs = wholes(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    reader = transformers.MusicgenProcessor(extractor, tokenizer)
    mine = omniform.MusicgenProcessor(
        omniform.AutoFeatureExtractor.from_pretrained(tmp_path), omniform.AutoTokenizer.from_pretrained(tmp_path)
    )
    sounds = [noise(50).numpy(), noise(31).numpy()]
    for given in (
        {"text": ["slow drums", "slow"]}, {"audio": sounds, "sampling_rate": 600},
        {"text": ["slow drums", "slow"], "audio": sounds, "sampling_rate": 600},
    ):  # fmt: skip
        found, expected = (one(**given, padding=True, return_tensors="pt") for one in (mine, reader))
        for name in expected.keys() - {"token_type_ids"}:
            close(found[name], expected[name], name)
    made = noise(2, 1, 60)
    for mask in (None, found["padding_mask"]):
        heard = mine.batch_decode(made, padding_mask=mask), reader.batch_decode(made, padding_mask=mask)
        for one, other in zip(*heard, strict=True):
            close(torch.as_tensor(one), torch.as_tensor(other))
    settings = {"generate_kwargs": {"max_new_tokens": 8, "do_sample": False}}
    pipe = omniform.pipeline("text-to-audio", model=ours, tokenizer=mine.tokenizer)
    theirs_pipe = transformers.pipeline("text-to-audio", model=theirs, tokenizer=tokenizer)
    found, expected = pipe("slow drums", **settings), theirs_pipe("slow drums", **settings)
    close(torch.as_tensor(found["audio"]), torch.as_tensor(expected["audio"]).view_as(torch.as_tensor(found["audio"])),
          tolerance=1e-3)  # fmt: skip
    assert found["sampling_rate"] == expected["sampling_rate"] == 600
