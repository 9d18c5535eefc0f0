"""SpeechT5 and its vocoder against the reference. Chance is in use here too: seeds are the same on either side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from askers import Inputs, Question, TextToText, Words, noise
from harness import Case, Head, Parity, Table, build, halved, over
from writers import Waves

from omniform.core.errors import ConfigError, InputError
from reference import close, omniform, padded, ragged, saved_reference, transformers

TINY = {
    "vocab_size": 97, "hidden_size": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24,
    "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 20, "conv_dim": [8, 8],
    "conv_stride": [16, 8], "conv_kernel": [20, 9], "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    "num_mel_bins": 6, "speech_decoder_prenet_units": 10, "speaker_embedding_dim": 7,
    "speech_decoder_postnet_layers": 3, "speech_decoder_postnet_units": 9, "speech_decoder_postnet_kernel": 3,
    "encoder_max_relative_position": 4, "max_speech_positions": 90, "max_text_positions": 30,
    "speech_decoder_prenet_dropout": 0.3, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0,
}  # fmt: skip
VARIANTS = {
    "plain": {},
    "uneven": {
        "encoder_layers": 1, "decoder_layers": 3, "scale_embedding": True, "feat_extract_norm": "layer",
        "conv_bias": True, "tie_word_embeddings": False, "pad_token_id": 5, "num_conv_pos_embeddings": 5,
        "hidden_act": "relu", "layer_norm_eps": 0.01, "reduction_factor": 3, "speech_decoder_prenet_layers": 1,
        "speech_decoder_postnet_layers": 1, "guided_attention_loss_num_heads": -1, "encoder_max_relative_position": 50,
        "mask_time_prob": 0.0, "feat_extract_activation": "relu",
    },
    "one frame a step": {
        "reduction_factor": 1, "guided_attention_loss_sigma": 0.1, "guided_attention_loss_scale": 3.0,
        "speech_decoder_prenet_dropout": 0.9,
    },
    "not guided": {"use_guided_attention_loss": False, "guided_attention_loss_num_heads": 0, "pad_token_id": 0},
}  # fmt: skip
OUTPUTS = ("spectrogram", "encoder_last_hidden_state")
STREAMS = (
    "decoder_hidden_states", "decoder_attentions", "cross_attentions", "encoder_hidden_states", "encoder_attentions",
)  # fmt: skip


@dataclass(frozen=True)
class Heard(TextToText):
    """Waves, and a decoder's rows of text."""

    def sources(self, side: str = "right") -> Inputs:
        given = Waves().sounds()
        return given if side == "right" else {"input_values": given["input_values"]}

    def long_sources(self) -> Inputs:
        return {"input_values": noise(2, 2100)}

    def questions(self, config):
        for question in super().questions(config):
            # A mask of samples is not one of the encoder's frames.
            if question.fields != ("encoder_last_hidden_state",):
                yield question


def words(lengths: tuple[int, ...] = (9, 5, 2)) -> Inputs:
    ids, mask = padded(ragged(97, list(lengths)))
    return {"input_ids": ids, "attention_mask": mask}


def sounds() -> Inputs:
    given = Waves().sounds()
    return {"input_values": given["input_values"], "attention_mask": given["attention_mask"]}


def vectors() -> Inputs:
    return {"input_values": noise(3, 9, 16), "attention_mask": words()["attention_mask"]}


def speech(each: int, steps: int = 5) -> torch.Tensor:
    """Three rows of a spectrogram, one of them shorter."""
    frames = noise(3, steps * each, 6)
    frames[1, 3 * each :] = -100.0
    return frames


@dataclass(frozen=True)
class Speaks:
    """A source, and frames.

    Attributes:
        source: makes it.
        learns: whether labels give a loss.
        outputs: what to compare.
        width: of a frame.
    """

    source: object
    learns: bool = True
    outputs: tuple[str, ...] = OUTPUTS
    width: int = 6
    config: Mapping[str, object] = field(default_factory=dict)

    def questions(self, config: object) -> Iterator[Question]:
        given = self.source()
        frames, voice = noise(3, 7, self.width), noise(3, 7)
        mask = torch.ones(3, 7, dtype=torch.long)
        mask[1, 4:] = 0
        bare = {k: v for k, v in given.items() if k != "attention_mask"}
        yield Question({**bare, "decoder_input_values": frames, "speaker_embeddings": voice}, self.outputs + STREAMS)
        yield Question({**given, "decoder_input_values": frames}, self.outputs)
        yield Question(
            {**given, "decoder_input_values": frames, "decoder_attention_mask": mask, "speaker_embeddings": voice},
            ("encoder_last_hidden_state", *self.outputs[:0]),
        )
        if self.learns is not None and self.width == 6:
            fields = ("loss", "spectrogram") if self.learns else ("spectrogram",)
            yield Question({**given, "labels": speech(config.reduction_factor), "speaker_embeddings": voice}, fields)

    def lesson(self, config: object) -> Inputs | None:
        if not self.learns or self.width != 6:
            return None
        return {**self.source(), "labels": speech(config.reduction_factor), "speaker_embeddings": noise(3, 7)}


class TestSpeechT5(Parity):
    table = Table(
        model_type="speecht5",
        config=transformers.SpeechT5Config,
        tiny=TINY,
        heads={
            "Model": Head(
                "SpeechT5Model", "AutoModel",
                Speaks(vectors, False, ("last_hidden_state", "encoder_last_hidden_state"), 16),
            ),
            "ForSpeechToText": Head(
                "SpeechT5ForSpeechToText", "AutoModelForSpeechSeq2Seq", Heard(Words()), everywhere=True
            ),
            "ForTextToSpeech": Head(
                "SpeechT5ForTextToSpeech", "AutoModelForTextToSpectrogram", Speaks(words), everywhere=True
            ),
            "ForSpeechToSpeech": Head("SpeechT5ForSpeechToSpeech", "", Speaks(sounds, False)),
        },
        variants=VARIANTS,
        writes=("ForSpeechToText", Waves()),
        writing=["plain", "uneven"],
        scale=0.5,
        half=6e-2,
    )  # fmt: skip

    @over(Table.beyond_base)
    def test_base_and_head_load_one_another(self, case: Case) -> None:
        """The layers; what stands before and after them the base model does not have."""
        first, base, head = self.table.case("Model"), build(self.table.case("Model")), build(case)
        made, report = case.architecture.load(base.folder, output_loading_info=True)
        assert not report.unexpected
        assert not [key for key in report.fresh if "attn" in key or "mlp" in key or "wrapped" in key]
        back = first.architecture.load(head.folder)
        within = made.base_model.encoder
        within = within if case.head == "ForTextToSpeech" else within.encoder
        assert torch.equal(within.layers[0].mlp.fc1.weight, base.ours.encoder.layers[0].mlp.fc1.weight)
        within = made.base_model.decoder
        assert torch.equal(within.layers[0].mlp.fc1.weight, base.ours.decoder.layers[0].mlp.fc1.weight)
        own = getattr(transformers, case.architecture.reference).from_pretrained(head.folder).speecht5
        mine, other = back.encoder.layers[1], own.encoder.wrapped_encoder.layers[1]
        assert torch.equal(mine.self_attn.q_proj.weight, other.attention.q_proj.weight)
        mine, other = back.decoder.layers[1], own.decoder.wrapped_decoder.layers[1]
        assert torch.equal(mine.encoder_attn.o_proj.weight, other.encoder_attn.out_proj.weight)


VOCODER = {
    "model_in_dim": 6, "upsample_initial_channel": 8, "upsample_rates": [2, 3], "upsample_kernel_sizes": [4, 7],
    "resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 3], [1, 2]],
}  # fmt: skip


def vocoders(folder: Path, **changes: object):
    config = transformers.SpeechT5HifiGanConfig(**{**VOCODER, **changes})
    theirs = saved_reference(transformers.SpeechT5HifiGan, config, folder, scale=0.2)
    return omniform.SpeechT5HifiGan.from_pretrained(folder), theirs


@dataclass(frozen=True)
class Frames:
    """Spectrograms for a vocoder."""

    config: Mapping[str, object] = field(default_factory=dict)

    def questions(self, config: object) -> Iterator[Question]:
        yield Question({"spectrogram": noise(2, 7, 6)}, ("wave",))

    def lesson(self, config: object) -> None:
        return None


class TestVocoder(Parity):
    table = Table(
        model_type="speecht5_hifigan",
        config=transformers.SpeechT5HifiGanConfig,
        tiny=VOCODER,
        heads={"Model": Head("SpeechT5HifiGan", "", Frames())},
        variants={"plain": {}},
    )

    @over(Table.plain)
    @torch.no_grad()
    def test_outputs(self, case: Case) -> None:
        """A wave is a tensor, not an output with names."""
        built, (question,) = build(case), case.questions()
        close(built.ours(**question.inputs), built.theirs(**question.inputs))

    @over(Table.plain)
    @torch.no_grad()
    def test_bfloat16(self, case: Case) -> None:
        built, (question,) = build(case), case.questions()
        frames = question.inputs["spectrogram"].bfloat16()
        ours, theirs = built.again(case, dtype="bfloat16"), halved(built.theirs)
        close(ours(frames), theirs(frames), tolerance=3e-2)


@pytest.mark.parametrize("changes", [{}, {"normalize_before": False, "leaky_relu_slope": 0.3}], ids=str)
@torch.no_grad()
def test_vocoder(tmp_path, changes):
    ours, theirs = vocoders(tmp_path / "a", **changes)
    for frames in (noise(2, 7, 6), noise(2, 7, 6)[0], noise(1, 1, 6)):
        close(ours(frames), theirs(frames))
    ours.save_pretrained(tmp_path / "b")
    again = transformers.SpeechT5HifiGan.from_pretrained(tmp_path / "b")
    close(again(noise(2, 7, 6)), theirs(noise(2, 7, 6)))
    for wrong in (noise(2, 7, 5), noise(6), noise(2, 0, 6)):
        with pytest.raises(InputError, match="spectrogram"):
            ours(wrong)


def pair(folder: Path, head: str = "ForTextToSpeech", **changes: object):
    config = transformers.SpeechT5Config(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"SpeechT5{head}"), config, folder, scale=0.4).eval()
    return getattr(omniform, f"SpeechT5{head}").from_pretrained(folder), theirs


def spoken(model: torch.nn.Module, *given: object, **how: object) -> tuple[object, ...]:
    torch.manual_seed(4)
    found = model.generate_speech(*given, **how)
    return found if isinstance(found, tuple) else (found,)


def same(found: tuple[object, ...], expected: tuple[object, ...]) -> None:
    assert len(found) == len(expected)
    for mine, other in zip(found, expected, strict=True):
        if isinstance(other, torch.Tensor):
            close(mine, other)
        else:
            assert mine == other


MANNERS = {
    "plain": {},
    "long at least": {"minlenratio": 4.0, "maxlenratio": 6.0},
    "at most nothing": {"maxlenratio": 0.0},
    "shown": {"output_cross_attentions": True},
    "counted": {"return_output_lengths": True},
    "counted and shown": {"return_output_lengths": True, "output_cross_attentions": True},
}


@pytest.mark.parametrize("manner", MANNERS)
def test_speech(tmp_path, manner):
    """Rows together, whose speech ends at different times, and one alone; spectrograms and waves."""
    ours, theirs = pair(tmp_path / "model")
    vocoder, reference_vocoder = vocoders(tmp_path / "vocoder")
    how = {"maxlenratio": 3.0, **MANNERS[manner]}
    ends: set[int] = set()
    none, both = (None, None), (vocoder, reference_vocoder)
    for given, voice, threshold, (mine, other) in (
        (words(), noise(3, 7), 0.15, none), (words(), noise(3, 7), 0.3, none), (words(), noise(1, 7), 0.3, both),
        (words((6,)), noise(1, 7), 0.3, both),
    ):  # fmt: skip
        ids, mask = given["input_ids"], given["attention_mask"]
        expected = spoken(theirs, ids, voice, mask, vocoder=other, threshold=threshold, **how)
        same(spoken(ours, ids, voice, mask, vocoder=mine, threshold=threshold, **how), expected)
        ends |= set(expected[1]) if "counted" in manner and other is None else set()
    if "counted" in manner:
        assert len(ends) > 2
    # Without a mask what is padding is padding, and ``generate`` is the same by another name.
    ids, mask = words()["input_ids"], words()["attention_mask"]
    same(spoken(ours, ids, noise(1, 7), **how), spoken(theirs, ids, noise(1, 7), **how))
    for model in (ours, theirs):
        torch.manual_seed(4)
        found = model.generate(input_ids=ids, attention_mask=mask, speaker_embeddings=noise(1, 7), **how)
        same(found if isinstance(found, tuple) else (found,), spoken(theirs, ids, noise(1, 7), mask, **how))


def test_another_voice(tmp_path):
    ours, theirs = pair(tmp_path / "model", "ForSpeechToSpeech", reduction_factor=1)
    waves, mask = sounds()["input_values"], sounds()["attention_mask"]
    for given in ((waves, noise(3, 7), mask), (waves[:1], noise(1, 7))):
        for threshold in (0.5, 0.7):
            how = {"maxlenratio": 3.0, "threshold": threshold, "return_output_lengths": True}
            same(spoken(ours, *given, **how), spoken(theirs, *given, **how))
    same(
        spoken(ours, waves[:1], maxlenratio=1.0),
        spoken(theirs, waves[:1], torch.zeros(1, 7), maxlenratio=1.0),
    )


def test_speech_ends_where_places_do(tmp_path):
    ours, _ = pair(tmp_path / "model", max_speech_positions=12)
    found, lengths = spoken(
        ours, words((6,))["input_ids"], noise(1, 7), threshold=9.0, maxlenratio=100.0, return_output_lengths=True
    )
    assert lengths == [24] and found.isfinite().all()


@torch.no_grad()
def test_step_by_step(tmp_path):
    """Frames fed with a cache, each piece with the luck of the reference's."""
    ours, theirs = pair(tmp_path / "model")
    frames, kept = noise(2, 6, 6), [None, None]
    given = {k: v[:2] for k, v in words().items()}
    for start, stop in ((0, 2), (2, 3), (3, 6)):
        found = []
        for side, model in enumerate((ours, theirs)):
            torch.manual_seed(3)
            out = model(
                **given, decoder_input_values=frames[:, start:stop], past_key_values=kept[side], use_cache=True,
                speaker_embeddings=noise(2, 7),
            )  # fmt: skip
            kept[side] = out.past_key_values
            found.append(out.spectrogram)
        close(*found)


@torch.no_grad()
def test_a_voice_that_is_changed_needs_no_whole_steps(tmp_path):
    """Labels that are only read, and not compared, may end within a step."""
    theirs = saved_reference(transformers.SpeechT5ForSpeechToSpeech, transformers.SpeechT5Config(**TINY), tmp_path)
    ours = omniform.SpeechT5ForSpeechToSpeech.from_pretrained(tmp_path)
    given = {**sounds(), "labels": speech(1, 7), "speaker_embeddings": noise(3, 7)}
    found = []
    for model in (ours, theirs):
        torch.manual_seed(4)
        found.append(model(**given).spectrogram)
    close(*found)


def test_refused(tmp_path):
    ours, _ = pair(tmp_path / "model")
    ids = words()["input_ids"]
    for call, named in (
        (lambda: ours.generate_speech(ids), "speaker_embeddings"),
        (lambda: ours.generate_speech(ids, noise(2, 7)), "speaker_embeddings"),
        (lambda: ours.generate_speech(ids, noise(1, 8)), "speaker_embeddings"),
        (lambda: ours.generate_speech(ids[0], noise(1, 7)), "input_ids"),
        (lambda: ours.generate_speech(ids + 97, noise(1, 7)), "input_ids"),
        (lambda: ours(input_ids=ids), "decoder_input_values"),
        (lambda: ours(input_ids=ids, decoder_input_values=noise(3, 4, 5)), "decoder_input_values"),
        (lambda: ours(input_ids=ids, decoder_input_values=noise(3, 91, 6)), "at most 90"),
        (lambda: ours(input_ids=ids, labels=noise(3, 5, 6)), "multiple of 2"),
        (lambda: ours(input_ids=torch.ones(1, 31, dtype=torch.long), decoder_input_values=noise(1, 4, 6)), "30"),
    ):
        with pytest.raises(InputError, match=named):
            call()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pad_token_id", None), ("hidden_size", 15), ("decoder_attention_heads", 5),
        ("speech_decoder_postnet_kernel", 4), ("speech_decoder_prenet_dropout", 1.0), ("conv_stride", [2]),
    ],
)  # fmt: skip
def test_refused_configs(key, value):
    with pytest.raises(ConfigError, match=key):
        omniform.SpeechT5ForTextToSpeech.from_config(omniform.SpeechT5Config(**{**TINY, key: value}))
