"""Qwen3-Omni against the reference: the thinker, the talker, what makes a sound, and all of them together."""

from __future__ import annotations

import pytest
import torch
from askers import Given
from harness import Head, Parity, Table, build
from omni import BANDS, FILM, FRAMES, HEAR, PICTURE, SEE, SOUND, SPARSE, TEXT, Sensed
from writers import in_pieces

from omniform.architectures.code_sound import SoundSoFar
from omniform.core.errors import InputError
from reference import check_round_trip, close, omniform, saved_reference, transformers

VISION = {
    "depth": 2, "hidden_size": 16, "intermediate_size": 20, "num_heads": 2, "patch_size": 2, "out_hidden_size": 16,
    "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
}  # fmt: skip
AUDIO = {
    "num_mel_bins": BANDS, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 20, "d_model": 8,
    "output_dim": 16, "n_window_infer": 100, "downsample_hidden_size": 3,
}  # fmt: skip
IDS = {
    "audio_token_id": SOUND, "image_token_id": PICTURE, "video_token_id": FILM, "vision_start_token_id": SEE,
    "audio_start_token_id": HEAR, "position_id_per_seconds": 13,
}  # fmt: skip
ROPE = TEXT["rope_parameters"]
VARIANTS = {
    "plain": {},
    "sparse and dense": {"text": {"mlp_only_layers": [1], "norm_topk_prob": False, "attention_bias": True}},
    "told of twice": {"vision": {"deepstack_visual_indexes": [0, 1]}, "text": {"head_dim": 6}},
    "wide windows": {"audio": {"n_window_infer": 200, "activation_function": "relu"}},
    "stretched": {"text": {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 3.0}}},
    "tied": {"tie_word_embeddings": True},
    "routed": {"text": {"output_router_logits": True}},
}
SENSED = Sensed({130: 17, 60: 8})
TURN, USER, MODEL = 90, 91, 92


def thinker(**changes):
    parts = {
        name: {**usual, **changes.pop(name, {})}
        for name, usual in (("text", {**TEXT, **SPARSE}), ("vision", VISION), ("audio", AUDIO))
    }
    own = {f"{name}_config": made for name, made in parts.items()}
    return transformers.Qwen3OmniMoeThinkerConfig(**own, **{**IDS, **changes})


class TestThinker(Parity):
    table = Table(
        model_type="qwen3_omni_moe_thinker",
        config=thinker,
        config_class=transformers.Qwen3OmniMoeThinkerConfig,
        tiny={},
        heads={
            "Model": Head("Qwen3OmniMoeThinkerModel", "AutoModel", Given(lambda _: SENSED.read("last_hidden_state"))),
            "ForConditionalGeneration": Head(
                "Qwen3OmniMoeThinkerForConditionalGeneration", "AutoModelForImageTextToText",
                Given(lambda _: SENSED.written_on(), lambda _: SENSED.lesson()), everywhere=True,
            ),
        },
        variants=VARIANTS,
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


def whole(**changes):
    text = {
        **TEXT, **SPARSE, "vocab_size": 1024 + 24, "hidden_size": 12, "shared_expert_intermediate_size": 10,
        "eos_token_id": None, "pad_token_id": None, "bos_token_id": None, "head_dim": 8,
    }  # fmt: skip
    predictor = {
        "vocab_size": 20, "hidden_size": 12, "intermediate_size": 14, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 6, "num_code_groups": 3,
    }  # fmt: skip
    talker = {
        "text_config": text, "code_predictor_config": predictor, "num_code_groups": 3, "thinker_hidden_size": 16,
        "codec_eos_token_id": 30, "accept_hidden_layer": 1, "codec_nothink_id": 31, "codec_think_bos_id": 32,
        "codec_think_eos_id": 33, "codec_pad_id": 34, "codec_bos_id": 35, "speaker_id": {"ethan": 40, "aiden": 41},
        "spatial_merge_size": 2, **IDS,
    }  # fmt: skip
    sound = {
        "codebook_size": 24, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2,
        "intermediate_size": 12, "num_hidden_layers": 1, "num_quantizers": 3, "upsample_rates": [3, 2],
        "upsampling_ratios": [2], "decoder_dim": 8, "sliding_window": 4,
    }  # fmt: skip
    return transformers.Qwen3OmniMoeConfig(
        thinker_config=thinker(),
        talker_config={**talker, **changes.pop("talker", {})},
        code2wav_config={**sound, **changes.pop("sound", {})},
        im_start_token_id=TURN, user_token_id=USER, assistant_token_id=MODEL, tts_pad_token_id=93,
        tts_bos_token_id=94, tts_eos_token_id=95, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def speakers(tmp_path_factory):
    """Ours and theirs, the same weights."""
    folder = tmp_path_factory.mktemp("omni") / "model"
    theirs = saved_reference(transformers.Qwen3OmniMoeForConditionalGeneration, whole(), folder, scale=0.2)
    theirs.set_experts_implementation("eager")
    return omniform.AutoModelForMultimodalLM.from_pretrained(folder), theirs, folder


def chats(*, pictures=True):
    """Chats whose last turn is the model's: one with a picture, one longer without."""
    first = [TURN, 3, 9, TURN, USER, 10, *([SEE, *[PICTURE] * 6, 85] if pictures else []), 12, 13, TURN, MODEL, 11]
    second = [TURN, USER, 20, 21, 22, TURN, MODEL, 11, 5, TURN, USER, 23, TURN, MODEL, 11]
    torch.manual_seed(3)
    seen = {"pixel_values": torch.randn(24, 24), "image_grid_thw": torch.tensor([[1, 4, 6]])} if pictures else {}
    return [first, second], seen


def inputs(rows, seen):
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, **seen}


SETTINGS = {"thinker_max_new_tokens": 7, "talker_max_new_tokens": 9, "thinker_eos_token_id": 96}


def same(found, expected):
    assert torch.equal(found[0], expected[0])
    waves = ([x] if isinstance(x, torch.Tensor) else x for x in (found[1], expected[1]))
    for mine, other in zip(*waves, strict=True):
        close(mine, other)


@pytest.mark.parametrize("drawn", [False, True], ids=["greedy", "drawn"])
@pytest.mark.parametrize("which", ["alone", "picture", "both"])
def test_speech_as_the_reference_speaks(speakers, which, drawn):
    ours, theirs, _ = speakers
    rows, seen = chats()
    given = {"alone": inputs(rows[1:], {}), "picture": inputs(rows[:1], seen), "both": inputs(rows, seen)}[which]
    settings = {**SETTINGS, "talker_do_sample": drawn, "speaker": "Aiden"}
    torch.manual_seed(5)
    expected = theirs.generate(**given, **settings)
    torch.manual_seed(5)
    same(ours.generate(**given, **settings), expected)


def test_rows_that_end_before_others(speakers):
    """What a thinker wrote tells what ends it early, what a talker wrote likewise."""
    ours, theirs, _ = speakers
    given = inputs(*chats())
    texts, _ = theirs.generate(**given, **SETTINGS, talker_do_sample=False)
    ends = [int(texts[0, -4]), 96]
    settings = {**SETTINGS, "thinker_eos_token_id": ends, "talker_do_sample": False}
    same(ours.generate(**given, **settings), theirs.generate(**given, **settings))
    codes = []
    step = theirs.code2wav.chunked_decode
    theirs.code2wav.chunked_decode = lambda codes_BKT, **how: codes.append(codes_BKT) or step(codes_BKT, **how)
    try:
        theirs.generate(**given, **settings)
    finally:
        del theirs.code2wav.chunked_decode
    settings["talker_eos_token_id"] = int(codes[0][0, 0, 3])
    same(ours.generate(**given, **settings), theirs.generate(**given, **settings))


def test_text_alone_is_the_thinkers(speakers):
    ours, theirs, _ = speakers
    given = inputs(*chats())
    for asked in ({"return_audio": False}, {"generation_mode": "text"}):
        assert torch.equal(ours.generate(**given, **SETTINGS, **asked), theirs.generate(**given, **SETTINGS, **asked))
    assert torch.equal(
        ours.thinker.generate(**given, max_new_tokens=5),
        ours.generate(**given, return_audio=False, thinker_max_new_tokens=5),
    )


@pytest.mark.parametrize("frames", [1, 4])
def test_speech_in_pieces_is_the_whole(speakers, frames):
    ours, _, _ = speakers
    rows, seen = chats()
    given = inputs(rows[:1], seen)
    text, wave = ours.generate(**given, **SETTINGS, talker_do_sample=False)
    pieces = list(ours.stream_speech(**given, **SETTINGS, talker_do_sample=False, frames=frames))
    assert sum((piece.tokens for piece in pieces), ()) == tuple(text[0, len(rows[0]) :].tolist())
    close(torch.cat([piece.samples for piece in pieces]), wave[0, 0])
    assert len(pieces) > 2 and len(pieces[0].tokens) < 7  # it speaks before all is written


def test_codes_in_pieces_sound_as_the_whole(speakers):
    ours, theirs, _ = speakers
    torch.manual_seed(0)
    codes = torch.randint(0, 24, (2, 3, 25))
    with torch.no_grad():
        close(ours.code2wav(codes), theirs.code2wav(codes))
        close(ours.code2wav.chunked_decode(codes, 9, 4), theirs.code2wav.chunked_decode(codes, 9, 4))
    so_far = SoundSoFar()
    pieces = [ours.code2wav.go_on(part, so_far) for part in codes.split((1, 1, 5, 2, 16), dim=-1)]
    close(torch.cat(pieces, dim=-1), ours.code2wav(codes))


@torch.no_grad()
def test_parts_as_the_references(speakers):
    ours, theirs, _ = speakers
    torch.manual_seed(0)
    x, mask = torch.randn(2, 7, 12), torch.tensor([[1] * 7, [0] * 2 + [1] * 5])
    expected = theirs.talker(inputs_embeds=x, attention_mask=mask, output_hidden_states=True)
    found = ours.talker(inputs_embeds=x, attention_mask=mask, output_hidden_states=True)
    real = mask.bool()
    close(found.logits[real], expected.logits[real])
    assert found.generation_step == expected.generation_step and list(found.keys()) == list(expected.keys())
    for mine, other in zip(found.hidden_states[0], expected.hidden_states[0], strict=True):
        close(mine[real], other[real])
    theirs_p, ours_p = theirs.talker.code_predictor, ours.talker.code_predictor
    labels = torch.randint(0, 20, (2, 2))
    expected = theirs_p(inputs_embeds=x[:, :2], labels=labels, use_cache=True, output_hidden_states=True)
    found = ours_p(inputs_embeds=x[:, :2], labels=labels, use_cache=True, output_hidden_states=True)
    for name in ("loss", "logits"):
        close(found[name], expected[name])
    again = {"input_ids": labels[:, :1], "generation_steps": 1}
    other = theirs_p(**again, past_key_values=expected.past_key_values).logits
    close(ours_p(**again, past_key_values=found.past_key_values).logits, other)
    frames = torch.randn(2, 9, 8)
    expected = theirs.code2wav.pre_transformer(inputs_embeds=frames, output_hidden_states=True)
    found = ours.code2wav.pre_transformer(inputs_embeds=frames, output_hidden_states=True)
    for mine, other in zip(found.hidden_states, expected.hidden_states, strict=True):
        close(mine, other)
    features, lengths = torch.randn(BANDS, 250), torch.tensor([130, 7, 113])
    tower, heard = theirs.thinker.model.audio_tower, ours.thinker.model.audio_tower
    close(heard(features, lengths).last_hidden_state, tower(features, feature_lens=lengths).last_hidden_state)
    given = {"input_features": torch.randn(2, BANDS, 130), "feature_attention_mask": torch.ones(2, 130).long()}
    given["feature_attention_mask"][1, 60:] = 0
    expected = theirs.thinker.get_audio_features(**given).last_hidden_state
    close(ours.thinker.get_audio_features(**given).last_hidden_state, expected)


@torch.no_grad()
def test_a_film_among_the_tokens_of_its_sound(tmp_path):
    theirs = saved_reference(
        transformers.Qwen3OmniMoeThinkerForConditionalGeneration, thinker(), tmp_path / "model", scale=0.3
    )
    ours = omniform.AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    torch.manual_seed(1)
    film = SENSED.row([("film", (3, 4, 4))])
    sound = SENSED.row([("sound", FRAMES[0])])
    steps, heard = [13 * 0.77 * (i // 4) for i in range(12)], list(range(17))
    order = sorted([*((t, 0) for t in steps), *((t, 1) for t in heard)])
    mixed = [SOUND if kind else FILM for _, kind in order]
    row = [5, SEE, HEAR, *mixed, 87, 85, 6, SEE, *[PICTURE] * 2, 85, HEAR, *[SOUND] * 8, 87, 7, 8]
    picture, other = SENSED.row([("picture", (1, 2, 4))]), SENSED.row([("sound", FRAMES[1])])
    given = {name: x for one in (film, picture) for name, x in one.items() if name != "input_ids"}
    for name in ("input_features", "feature_attention_mask"):
        given[name] = torch.cat((sound[name], other[name]))
    ids, mask = torch.zeros(2, len(row), dtype=torch.long), torch.zeros(2, len(row), dtype=torch.long)
    ids[0], mask[0] = torch.tensor(row), 1
    ids[1, -3:], mask[1, -3:] = torch.tensor([9, 10, 11]), 1
    given |= {"input_ids": ids, "attention_mask": mask, "use_audio_in_video": True}
    real = mask.bool()
    close(ours(**given).logits[real], theirs(**given).logits[real])
    written = theirs.generate(**given, max_new_tokens=8, do_sample=False)
    assert torch.equal(ours.generate(**given, max_new_tokens=8, do_sample=False), written)


def test_parts_of_the_whole_load_alone_and_all_is_saved_as_it_was(speakers, tmp_path):
    ours, _, folder = speakers
    check_round_trip(folder, ours, tmp_path / "again")
    alone = omniform.Qwen3OmniMoeThinkerForConditionalGeneration.from_pretrained(folder)
    given = inputs(*chats())
    assert torch.equal(alone.generate(**given, max_new_tokens=4), ours.thinker.generate(**given, max_new_tokens=4))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"speaker": "Nobody"}, r"nobody of this name.*aiden or ethan"),
        ({"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": None}, r"speech answers a chat"),
        ({"talker_num_beams": 2}, r"talker_num_beams"),
        ({"token2wav_chunk_size": 0}, r"token2wav_chunk_size"),
    ],
)
def test_what_cannot_be_spoken_is_said(speakers, change, says):
    ours, _, _ = speakers
    given = {**inputs(chats()[0][1:], {}), **SETTINGS, **change}
    with pytest.raises(InputError, match=says):
        ours.generate(**given)


def test_a_silent_model_writes(tmp_path):
    theirs = saved_reference(
        transformers.Qwen3OmniMoeForConditionalGeneration, whole(enable_audio_output=False), tmp_path / "model"
    )
    ours = omniform.AutoModelForMultimodalLM.from_pretrained(tmp_path / "model")
    given = inputs(*chats())
    assert torch.equal(ours.generate(**given, **SETTINGS), theirs.generate(**given, **SETTINGS))
    with pytest.raises(InputError, match="no talker"):
        ours.generate(**given, return_audio=True)
