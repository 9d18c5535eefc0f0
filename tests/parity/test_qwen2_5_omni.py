"""Qwen2.5-Omni against the reference: the thinker, and what makes a sound of codes."""

from __future__ import annotations

import random

import pytest
import torch
from askers import Given
from harness import Head, Parity, Table, build
from omni import BANDS, FILM, HEAR, HEARD, PICTURE, SEE, SEEN, SOUND, TEXT, Sensed
from writers import in_pieces

from omniform.core.errors import InputError
from reference import check_round_trip, close, omniform, saved_reference, transformers

FLOW = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "head_dim": 8, "emb_dim": 6, "block_size": 4,
    "look_ahead_layers": [1], "look_backward_layers": [0, 2], "num_embeds": 30, "mel_dim": 10, "enc_emb_dim": 6,
    "enc_dim": 7, "enc_channels": [8, 8, 8, 16], "enc_kernel_sizes": [5, 3, 3, 1], "enc_dilations": [1, 2, 3, 1],
    "enc_attention_channels": 5, "enc_se_channels": 4, "max_position_embeddings": 40,
}  # fmt: skip
VOCODER = {
    "mel_dim": 10, "upsample_initial_channel": 16, "upsample_rates": [3, 2], "upsample_kernel_sizes": [7, 4],
    "resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 3, 5], [1, 2, 3]],
}  # fmt: skip


VISION = {
    "depth": 2, "hidden_size": 16, "intermediate_size": 20, "num_heads": 2, "patch_size": 2, "out_hidden_size": 16,
    "window_size": 8, "fullatt_block_indexes": [1],
}  # fmt: skip
AUDIO = {
    "num_mel_bins": BANDS, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 20, "d_model": 8,
    "output_dim": 16, "n_window": 25,
}  # fmt: skip
IDS = {
    "audio_token_index": SOUND, "image_token_index": PICTURE, "video_token_index": FILM, "vision_start_token_id": SEE,
    "audio_start_token_id": HEAR,
}  # fmt: skip
ROPE = TEXT["rope_parameters"]
SENSED = Sensed({130: 32, 60: 15})


def thinker(**changes):
    parts = {
        name: {**usual, **changes.pop(name, {})}
        for name, usual in (("text", TEXT), ("vision", VISION), ("audio", AUDIO))
    }
    own = {f"{name}_config": made for name, made in parts.items()}
    return transformers.Qwen2_5OmniThinkerConfig(**own, **{**IDS, **changes})


class TestThinker(Parity):
    table = Table(
        model_type="qwen2_5_omni_thinker",
        config=thinker,
        config_class=transformers.Qwen2_5OmniThinkerConfig,
        tiny={},
        heads={
            "Model": Head("Qwen2_5OmniThinkerModel", "AutoModel", Given(lambda _: SENSED.read("last_hidden_state"))),
            "ForConditionalGeneration": Head(
                "Qwen2_5OmniThinkerForConditionalGeneration", "AutoModelForImageTextToText",
                Given(lambda _: SENSED.written_on(), lambda _: SENSED.lesson()), everywhere=True,
                unused=("model.audio_tower.audio_bos_eos_token",),
            ),
        },
        variants={
            "plain": {},
            "windows": {"text": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}},
            "other ears": {"audio": {"n_window": 40, "activation_function": "relu"}, "position_id_per_seconds": 7},
            "stretched": {"text": {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 3.0}}},
            "tied": {"tie_word_embeddings": True},
        },
        writes=("ForConditionalGeneration", SENSED),
        writing=["plain", "stretched"],
        feeding=[],  # the reference takes no logits_to_keep
        scale=0.3,
        derived=frozenset({"text_config", "vision_config", "audio_config"}),
        spellings={"within the whole": lambda key: f"thinker.{key}"},
    )  # fmt: skip


@torch.no_grad()
def test_piece_by_piece():
    built = build(TestThinker.table.case("ForConditionalGeneration"))
    feed = SENSED.feed(built.theirs.config)
    expected = built.theirs(**feed.whole()).logits
    for pieces in ((9, 3), (1,), (2, 5, 3)):
        close(in_pieces(built.ours, feed, pieces), expected)


@torch.no_grad()
def test_films_among_their_sounds():
    """Positions of random rows, and the hidden states of one of them."""
    built = build(TestThinker.table.case("Model"))
    ours, theirs = built.ours, built.theirs
    draw, turns = random.Random(3), 0
    for _ in range(200):
        ids, films, pictures, sounds, seconds = [], [], [], [], []
        for _ in range(draw.randrange(1, 5)):
            ids += [5] * draw.randrange(4)
            kind = draw.choice(("talkie", "talkie", "sound", "picture"))
            grid = (draw.randrange(1, 6), 2 * draw.randrange(1, 4), 2 * draw.randrange(1, 4))
            frames = draw.randrange(10, 600)
            heard = ((frames - 1) // 2 + 1) // 2
            if kind == "picture":
                pictures.append((1, *grid[1:]))
                ids += [SEE, *[PICTURE] * (grid[1] * grid[2] // 4), SEEN]
                continue
            sounds.append(frames)
            if kind == "sound":
                ids += [HEAR, *[SOUND] * heard, HEARD]
                continue
            films.append(grid)
            seconds.append(draw.choice((0.5, 1.0, 2.0, 0.08, 3.3)))
            count = grid[0] * grid[1] * grid[2] // 4
            ids += [SEE, HEAR, *[FILM] * count, *[SOUND] * heard, HEARD, SEEN]
        if not films:
            continue
        turns += 1
        row = torch.tensor([[*ids, 7]])
        told = {
            "image_grid_thw": torch.tensor(pictures) if pictures else None, "video_grid_thw": torch.tensor(films),
            "attention_mask": torch.ones_like(row), "use_audio_in_video": True, "audio_seqlens": torch.tensor(sounds),
            "second_per_grids": torch.tensor(seconds),
        }  # fmt: skip
        found, expected = ours.get_rope_index(row, **told), theirs.get_rope_index(row, **told)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert turns > 100
    row = SENSED.row([5, ("film", (3, 4, 2)), ("sound", 130), 6])
    ids = row["input_ids"][0].tolist()
    begin = ids.index(HEAR)
    film = ids[2:8]
    ids = [5, SEE, HEAR, *film[:4], *ids[begin + 1 : begin + 26], *film[4:], *ids[begin + 26 : -2], HEARD, SEEN, 6]
    given = {**row, "input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    close(
        ours(**given, use_audio_in_video=True).last_hidden_state,
        theirs(**given, use_audio_in_video=True).last_hidden_state,
    )


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Ours and theirs, the same weights."""
    folder = tmp_path_factory.mktemp("token2wav") / "model"
    config = transformers.Qwen2_5OmniToken2WavConfig(dit_config=FLOW, bigvgan_config=VOCODER)
    theirs = saved_reference(transformers.Qwen2_5OmniToken2WavModel, config, folder, scale=0.2)
    return omniform.Qwen2_5OmniToken2WavModel.from_pretrained(folder), theirs, folder


def codes_of_a_voice():
    torch.manual_seed(0)
    return torch.randint(0, 30, (1, 9)), torch.randn(1, 6), torch.randn(1, 20, 10)


@pytest.mark.parametrize("how", [{}, {"guidance_scale": 0.0, "num_steps": 4}, {"sway_coefficient": None}])
def test_codes_sound_alike(sounds, how):
    ours, theirs, _ = sounds
    torch.manual_seed(1)
    expected = theirs(*codes_of_a_voice(), **how)
    torch.manual_seed(1)
    close(ours(*codes_of_a_voice(), **how), expected)


@torch.no_grad()
@pytest.mark.parametrize("time", [torch.tensor(0.3), torch.tensor([0.2, 0.7])], ids=["one", "each"])
@pytest.mark.parametrize(
    "how", [{}, {"apply_cfg": False, "drop_audio_conditioning": True}, {"apply_cfg": False, "drop_code": True}]
)
def test_where_noise_goes(sounds, how, time):
    ours, theirs, _ = sounds
    torch.manual_seed(2)
    given = torch.randn(2, 18, 10), torch.randn(2, 20, 10), torch.randn(2, 18, 6), torch.randint(0, 30, (2, 9)), time
    close(ours.code2wav_dit_model(*given, **how), theirs.code2wav_dit_model(*given, **how))


def test_saved_as_it_was(sounds, tmp_path):
    ours, _, folder = sounds
    check_round_trip(folder, ours, tmp_path / "again")


def test_so_long_a_sound_is_refused(sounds):
    ours, _, _ = sounds
    with pytest.raises(InputError, match="at most 20 codes"):
        ours(torch.zeros(1, 21, dtype=torch.long), *codes_of_a_voice()[1:])


def whole(**changes):
    talker = {
        "vocab_size": 60, "embedding_size": 16, "hidden_size": 12, "intermediate_size": 14, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "rope_parameters": ROPE,
        "tts_text_start_token_id": 90, "tts_text_end_token_id": 91, "tts_text_pad_token_id": 92,
        "tts_codec_start_token_id": 41, "tts_codec_end_token_id": 42, "tts_codec_pad_token_id": 40,
        "tts_codec_mask_token_id": 44, **IDS,
    }  # fmt: skip
    return transformers.Qwen2_5OmniConfig(
        thinker_config=thinker(),
        talker_config=talker,
        token2wav_config={"dit_config": {**FLOW, "num_embeds": 60}, "bigvgan_config": VOCODER},
        **changes,
    )


@pytest.fixture(scope="module")
def speakers(tmp_path_factory):
    """Ours and theirs, the same weights and voices."""
    folder = tmp_path_factory.mktemp("omni") / "model"
    theirs = saved_reference(transformers.Qwen2_5OmniForConditionalGeneration, whole(), folder, scale=0.2)
    torch.manual_seed(4)
    voices = {
        name: {"bos_token": begin, "cond": torch.randn(1, 6), "ref_mel": torch.randn(1, 20, 10)}
        for name, begin in (("Chelsie", 93), ("Ethan", 94))
    }
    torch.save(voices, folder / "spk_dict.pt")
    theirs.load_speakers(folder / "spk_dict.pt")
    return omniform.AutoModelForMultimodalLM.from_pretrained(folder), theirs, folder


SETTINGS = {"thinker_max_new_tokens": 7, "talker_max_new_tokens": 9, "thinker_eos_token_id": 96,
            "talker_eos_token_id": [40, 42]}  # fmt: skip


def told(given):
    """A call as the reference takes it: pixels of the thinker alone."""
    return {f"thinker_{name}" if name.startswith("pixel") else name: value for name, value in given.items()}


def padded(given):
    """The same with padding in front: without any the reference's writing loop leaves the mask out, and its talker then
    neither opens speech nor counts on axes, other than in a batch, and other than it was trained."""
    front = {"input_ids": 0, "attention_mask": 0}
    return {n: torch.nn.functional.pad(x, (1, 0), value=front[n]) if n in front else x for n, x in given.items()}


def words():
    return inputs_of([3, 4, 15, 16, 17, 20, 8])


def inputs_of(row):
    ids = torch.tensor([row])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def same(found, expected):
    assert torch.equal(found[0], expected[0])
    waves = ([x] if isinstance(x, torch.Tensor) else x for x in (found[1], expected[1]))
    for mine, other in zip(*waves, strict=True):
        close(mine, other)


@pytest.mark.parametrize("drawn", [False, True], ids=["greedy", "drawn"])
@pytest.mark.parametrize("which", ["words", "picture", "sound and film", "several"])
def test_speech_as_the_reference_speaks(speakers, which, drawn):
    ours, theirs, _ = speakers
    rows = SENSED.alone()
    batch = SENSED.together()
    given = {"words": words(), "picture": rows[0], "sound and film": rows[1], "several": batch}[which]
    settings = {**SETTINGS, "talker_do_sample": drawn, "speaker": "Ethan"}
    torch.manual_seed(5)
    ids, wave = theirs.generate(**told(given if which == "several" else padded(given)), **settings)
    torch.manual_seed(5)
    same(ours.generate(**given, **settings), (ids[:, which != "several" :], wave))


def test_rows_that_end_before_others(speakers):
    ours, theirs, _ = speakers
    given = SENSED.together()
    texts, _ = theirs.generate(**told(given), **SETTINGS, talker_do_sample=False)
    settings = {**SETTINGS, "thinker_eos_token_id": [int(texts[0, -4]), 96], "talker_do_sample": False}
    torch.manual_seed(6)
    expected = theirs.generate(**told(given), **settings)
    torch.manual_seed(6)
    same(ours.generate(**given, **settings), expected)


def test_text_alone_is_the_thinkers(speakers):
    ours, theirs, _ = speakers
    given = SENSED.together()
    expected = theirs.generate(**told(given), **SETTINGS, generation_mode="text")
    for asked in ({"return_audio": False}, {"generation_mode": "text"}):
        assert torch.equal(ours.generate(**given, **SETTINGS, **asked), expected)


def test_whole_saved_with_its_voices(speakers, tmp_path):
    ours, _, folder = speakers
    check_round_trip(folder, ours, tmp_path / "again")
    again = omniform.Qwen2_5OmniForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert again.speaker_map.keys() == {"Chelsie", "Ethan"}
    again.disable_talker()
    assert not again.has_talker and isinstance(again.generate(**SENSED.alone()[2], max_new_tokens=2), torch.Tensor)
    with pytest.raises(InputError, match="talker"):
        again.generate(**SENSED.alone()[2], generation_mode="audio")
    with pytest.raises(InputError, match="speaks"):
        ours.generate(**SENSED.alone()[2], speaker="Nobody")


@torch.no_grad()
def test_talker_and_its_decoder_alone(tmp_path):
    config = whole().talker_config
    theirs = saved_reference(transformers.Qwen2_5OmniTalkerForConditionalGeneration, config, tmp_path / "t", scale=0.2)
    ours = omniform.Qwen2_5OmniTalkerForConditionalGeneration.from_pretrained(tmp_path / "t")
    row = SENSED.row([5, ("film", (3, 4, 2)), 7, ("sound", 60), 14])
    ids = row["input_ids"]
    told = {
        "inputs_embeds": torch.randn(1, ids.shape[1], 16), "attention_mask": torch.ones_like(ids),
        "input_text_ids": ids, "video_grid_thw": row["video_grid_thw"], "audio_feature_lengths": torch.tensor([60]),
        "video_second_per_grid": torch.tensor([0.77]),
    }  # fmt: skip
    close(ours(**told).logits, theirs(**{**told, "inputs_embeds": told["inputs_embeds"].clone()}).logits)
    later = {"input_ids": torch.tensor([[3, 4]]), "thinker_reply_part": torch.randn(1, 3, 16)}
    mine, other = ours(**later), theirs(**later)
    close(mine.logits, other.logits)
    close(mine.thinker_reply_part, other.thinker_reply_part)
    vectors = torch.randn(2, 5, 12)
    decoder = omniform.Qwen2_5OmniTalkerModel(ours.config)
    decoder.load_state_dict(ours.model.state_dict())
    close(decoder(inputs_embeds=vectors).last_hidden_state, theirs.model(inputs_embeds=vectors).last_hidden_state)
