"""Phi-4-multimodal, its tower and its speech encoder against the reference."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from askers import Given, Inputs, Question
from harness import Case, Head, Parity, Table, build, halved, over, theirs_of
from safetensors.torch import load_file, save_file
from torch import Tensor
from writers import Feed

from omniform.core.errors import ConfigError, InputError
from reference import check_round_trip, close, omniform, padded, saved_reference, transformers

IMAGE, AUDIO, PAD = 90, 91, 0
CROP, BANDS = 16, 12
TEXT = {
    "vocab_size": 97, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": PAD, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": CROP,
    "patch_size": 4, "crop_size": CROP, "image_token_id": IMAGE,
}  # fmt: skip
SOUND = {
    "hidden_size": 8, "intermediate_size": 12, "num_blocks": 2, "num_attention_heads": 2, "input_size": BANDS,
    "ext_pw_out_channel": 8, "depthwise_separable_out_channel": 8, "nemo_conv_channels": 4, "bias_max_distance": 4,
    "audio_token_id": AUDIO,
}  # fmt: skip
FACTORS = {"rope_type": "longrope", "short_factor": [1.0, 1.2], "long_factor": [2.0, 3.0]}

VARIANTS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True, "num_key_value_heads": None},
    "window": {"sliding_window": 9, "hidden_act": "gelu", "rms_norm_eps": 1e-3},
    "long": {"rope_parameters": FACTORS, "original_max_position_embeddings": 12},
    "partial": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}},
    "odd tiles": {"vision": {"image_size": 20, "crop_size": 20, "feature_layer": 1}},
    "chunks": {"audio": {"chunk_size": 2, "left_chunk": 1, "kernel_size": 4, "depthwise_multiplier": 2}},
    "stem": {"audio": {"time_reduction": 4, "bias_symmetric": True, "bias_max_distance": 40, "activation": "gelu",
                       "conv_activation": "relu", "conv_glu_type": "sigmoid", "nemo_activation": "silu"}},
}  # fmt: skip


def config(**changes):
    vision, audio = changes.pop("vision", {}), changes.pop("audio", {})
    return transformers.Phi4MultimodalConfig(
        **{**TEXT, **changes}, vision_config={**VISION, **vision}, audio_config={**SOUND, **audio}
    )


@dataclass(frozen=True)
class Media:
    """Pictures and sounds as a model of some config reads them."""

    crop: int = CROP
    reduction: int = 8

    def picture(self, rows: int, columns: int, tiles: int, seed: int, missing: tuple[int, int] = (0, 0)):
        """Tiles, their size, and marks that leave out rows below and columns to the right; and how many tokens."""
        generator = torch.Generator().manual_seed(seed)
        patches, side = self.crop // 4, (self.crop // 4 + 1) // 2
        marks = torch.ones(rows * patches, columns * patches)
        marks[marks.shape[0] - missing[0] :] = 0
        marks[:, marks.shape[1] - missing[1] :] = 0
        cut = marks.view(rows, patches, columns, patches).transpose(1, 2).reshape(-1, patches, patches)
        every = torch.cat((torch.ones(1, patches, patches), cut, torch.ones(tiles - len(cut) - 1, patches, patches)))
        seen = cut[:, ::2, ::2].view(rows, columns, side, side).transpose(1, 2).reshape(rows * side, columns * side)
        real = int(seen[:, 0].sum()), int(seen[0].sum())
        length = real[0] * (real[1] + 1) + 1 + side * (side + 1)
        pixels = torch.randn(tiles, 3, self.crop, self.crop, generator=generator)
        return pixels, torch.tensor([rows * self.crop, columns * self.crop]), every, length

    def pictures(self, *which: Tensor) -> Inputs:
        pixels, sizes, marks, _ = zip(*which, strict=True)
        return {
            "image_pixel_values": torch.stack(pixels), "image_sizes": torch.stack(sizes),
            "image_attention_mask": torch.stack(marks),
        }  # fmt: skip

    def sounds(self, *frames: int) -> tuple[Inputs, list[int]]:
        values = torch.randn(len(frames), max(frames), BANDS, generator=torch.Generator().manual_seed(sum(frames)))
        counts = [-(-n // self.reduction) for n in frames]
        made: Inputs = {"audio_input_features": values, "audio_embed_sizes": torch.tensor(counts)}
        if len(frames) > 1:
            made["audio_attention_mask"] = torch.arange(max(frames))[None] < torch.tensor(frames)[:, None]
        return made, counts


def media_of(config) -> Media:
    return Media(config.vision_config.crop_size, config.audio_config.time_reduction)


def rows_of(media: Media):
    """Text with two pictures, with a picture and a sound, and alone; what they are of."""
    first, second = media.picture(1, 2, 4, 0, (1, 2)), media.picture(1, 1, 4, 1)
    third = media.picture(2, 1, 4, 2, (3, 0))
    sounds, counts = media.sounds(30, 17)
    rows = [
        [1, 7, *[IMAGE] * first[3], 9, *[IMAGE] * second[3], 11, 12],
        [1, *[IMAGE] * third[3], 21, *[AUDIO] * counts[0], 22, *[AUDIO] * counts[1], 8],
        [1, 31, 32, 33],
    ]
    return [torch.tensor(row) for row in rows], {**media.pictures(first, second, third), **sounds}


def mixed(media: Media, side: str = "right") -> Inputs:
    rows, given = rows_of(media)
    ids, mask = padded(rows, PAD, side)
    return {"input_ids": ids, "attention_mask": mask, **given}


def questions(*fields):
    def asked(config):
        media = media_of(config)
        batch = mixed(media)
        real = batch["attention_mask"].bool()
        sounds, counts = media.sounds(26)
        heard = {"input_ids": torch.tensor([[1, 5, *[AUDIO] * counts[0], 6, 7]]), **sounds}
        labels = batch["input_ids"].masked_fill(~real, -100)
        yield Question(batch, (*fields, "hidden_states"), real)
        yield Question(heard, (*fields, "attentions"))
        yield Question(mixed(media, "left"), fields, mixed(media, "left")["attention_mask"].bool())
        if "logits" in fields:
            yield Question({**batch, "labels": labels}, ("loss",), real)

    return asked


def lesson(config):
    # Two forwards would be needed to reach both ways of reading sounds.
    batch = mixed(media_of(config))
    return {**batch, "labels": batch["input_ids"]}


@dataclass(frozen=True)
class Rows:
    """Rows of pictures and sounds to write on from."""

    def feed(self, config: object) -> Feed:
        rows, given = rows_of(media_of(config))
        pictures = {name: x[:2] for name, x in given.items() if name.startswith("image")}
        return Feed(rows[0][None], first=pictures, beginning=len(rows[0]) - 2)

    def together(self) -> Inputs:
        return mixed(Media(), "left")

    def alone(self) -> list[Inputs]:
        # A sound keeps the padding that it has beside others, which is heard.
        rows, given = rows_of(Media())
        pictures = [slice(0, 2), slice(2, 3), slice(0, 0)]
        made: list[Inputs] = []
        for row, seen in zip(rows, pictures, strict=True):
            own = {k: x[seen] if k.startswith("image") else x for k, x in given.items()}
            keep = ("image", "audio") if len(made) == 1 else ("image",) if len(made) == 0 else ()
            own = {k: x for k, x in own.items() if k.startswith(keep)} if keep else {}
            made.append({"input_ids": row[None], "attention_mask": torch.ones_like(row)[None], **own})
        return made

    def prompt(self, row: Inputs) -> object:
        return dict(row)

    def written(self, row: Inputs, answer: Tensor) -> list[int]:
        return answer[0, row["input_ids"].shape[1] :].tolist()

    def given_back(self, answers: Tensor) -> Tensor:
        return answers


class TestPhi4Multimodal(Parity):
    table = Table(
        model_type="phi4_multimodal",
        config=lambda **changes: config(**changes),
        config_class=transformers.Phi4MultimodalConfig,
        tiny={},
        heads={
            "Model": Head("Phi4MultimodalModel", "AutoModel", Given(questions("last_hidden_state"))),
            # The tower's last layer and its pooled vector are not asked for, nor how sounds are read alone.
            "ForCausalLM": Head(
                "Phi4MultimodalForCausalLM", "AutoModelForCausalLM", Given(questions("logits"), lesson),
                everywhere=True,
                unused=(
                    "model.embed_tokens_extend.image_embed.img_processor.pooler",
                    "model.embed_tokens_extend.image_embed.img_processor.norm",
                    "model.embed_tokens_extend.image_embed.img_processor.layers.1",
                    "model.embed_tokens_extend.audio_embed.up_proj_for_speech",
                    "model.embed_tokens_extend.audio_embed.down_proj_for_speech",
                ),
            ),
        },
        variants=VARIANTS,
        writes=("ForCausalLM", Rows()),
        writing=["plain"],
        scale=0.3,
        derived=frozenset({"vision_config", "audio_config"}),
    )  # fmt: skip


def towers(side: int, *fields: str):
    """Whole pictures, and pictures in the corner of their frames, of so many patches along an edge."""

    def asked(config):
        pixels = torch.randn(2, 3, side * 4, side * 4, generator=torch.Generator().manual_seed(0))
        marks = torch.ones(2, side, side, dtype=torch.bool)
        marks[1, 3:], marks[1, :, 2:] = False, False
        yield Question({"pixel_values": pixels}, (*fields, "hidden_states", "attentions"))
        yield Question({"pixel_values": pixels, "patch_attention_mask": marks}, fields)
        yield Question({"pixel_values": pixels[:1, :, :, :9]}, fields)

    return asked


class TestTower(Parity):
    table = Table(
        model_type="phi4_multimodal_vision",
        config=transformers.models.phi4_multimodal.Phi4MultimodalVisionConfig,
        tiny=VISION,
        heads={"Model": Head("Phi4MultimodalVisionModel", "", Given(towers(4, "last_hidden_state", "pooler_output")))},
        variants={"plain": {}},
    )

    @over(Table.plain)
    @torch.no_grad()
    def test_bfloat16(self, case: Case) -> None:
        """Without the reference's fused attention, by which patches do not see those that follow."""
        built, pixels = build(case), torch.randn(2, 3, 16, 16).bfloat16()
        ours, theirs = built.again(case, dtype="bfloat16"), halved(built.theirs)
        close(ours(pixels).last_hidden_state, theirs(pixels).last_hidden_state, tolerance=5e-2)


class TestSpeech(Parity):
    table = Table(
        model_type="phi4_multimodal_audio",
        config=transformers.models.phi4_multimodal.Phi4MultimodalAudioConfig,
        tiny=SOUND,
        heads={
            "Model": Head(
                "Phi4MultimodalAudioModel", "",
                Given(lambda config: [Question({"hidden_states": torch.zeros(1, 40, BANDS), "mask": None}, ("wave",))]),
            )
        },
        variants={"plain": {}},
    )  # fmt: skip

    @over(Table.plain)
    @torch.no_grad()
    def test_outputs(self, case: Case) -> None:
        """Vectors are a tensor, not an output with names."""
        built, sounds = build(case), torch.randn(2, 77, BANDS)
        close(built.ours(sounds, None), built.theirs(sounds, None))

    @over(Table.plain)
    @torch.no_grad()
    def test_bfloat16(self, case: Case) -> None:
        built, sounds = build(case), torch.randn(2, 77, BANDS).bfloat16()
        ours, theirs = built.again(case, dtype="bfloat16"), halved(built.theirs)
        close(ours(sounds, None), theirs(sounds, None), tolerance=5e-2)


def encoder(**changes):
    return transformers.models.phi4_multimodal.Phi4MultimodalAudioConfig(**{**SOUND, **changes})


@pytest.mark.parametrize("frames", [61, 4100])
@pytest.mark.parametrize("changes", [{}, {"chunk_size": 3, "left_chunk": 1}])
def test_speech_encoder(tmp_path, frames, changes):
    """What is longer than 500 vectors is cut; the reference does so for one sound at a time only."""
    from omniform.models.phi4_multimodal import Phi4MultimodalAudioModel

    kind = transformers.models.phi4_multimodal.Phi4MultimodalAudioModel
    theirs = saved_reference(kind, encoder(**changes), tmp_path / "model")
    theirs.set_attn_implementation("eager")
    ours = Phi4MultimodalAudioModel.from_pretrained(tmp_path / "model")
    sounds = torch.randn(1 if frames > 500 else 2, frames, BANDS)
    marks = torch.arange(frames)[None] < torch.tensor([[frames - 20], [frames // 3]])[: len(sounds)]
    with torch.no_grad():
        for mask in (None, marks, torch.ones_like(marks)):
            close(ours(sounds, mask), theirs(sounds, mask))
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"time_reduction": 6}, "power of 2"),
        ({"ext_pw_out_channel": 9}, "hidden_size"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"downsample_rate": 2}, "downsample_rate"),
    ],
)
def test_encoders_that_could_not_be(change, says):
    with pytest.raises(ConfigError, match=says):
        omniform.AutoConfig.for_model("phi4_multimodal", audio_config={**SOUND, **change})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b.update(image_sizes=b["image_sizes"] * 4), "tiles"),
        (lambda b: b.pop("image_sizes"), "image_sizes"),
        (lambda b: b.update(image_attention_mask=b["image_attention_mask"][:, :1]), "image_attention_mask"),
        (lambda b: b.update(audio_embed_sizes=torch.tensor([4, 9])), "audio_embed_sizes"),
        (lambda b: b.update(audio_input_features=b["audio_input_features"][..., :5]), "audio_input_features"),
        (lambda b: b["input_ids"].__setitem__((1, 1), 5), "placeholder"),
        (lambda b: [b.pop(name) for name in [*b] if name.startswith("audio")], "0 audio"),
    ],
)
def test_media_that_do_not_match_the_text(change, says):
    ours = build(TestPhi4Multimodal.table.case("ForCausalLM")).ours
    batch = mixed(Media())
    change(batch)
    for call in (ours, ours.generate):
        with pytest.raises(InputError, match=says):
            call(**batch)


def test_features_by_name():
    built = build(TestPhi4Multimodal.table.case("ForCausalLM"))
    _, given = rows_of(Media())
    pictures = built.ours.get_image_features(**{k: x for k, x in given.items() if k.startswith("image")})
    sounds = built.ours.get_audio_features(**{k: x for k, x in given.items() if k.startswith("audio")})
    assert [len(x) for x in pictures.pooler_output] == [15, 13, 16]
    assert [x.shape[1] for x in (*pictures.pooler_output, *sounds.pooler_output)] == [16] * 5
    assert [len(x) for x in sounds.pooler_output] == [4, 3]


def test_the_models_own_spellings(tmp_path):
    """Checkpoints of the model's own code: other names, and adapters beside the weights that they are for."""
    built = build(TestPhi4Multimodal.table.case("ForCausalLM"))
    old = {
        ".gate_up_proj": ".net.0.linear", ".feed_forward_in.down_proj": ".feed_forward_in.net.2",
        ".feed_forward_out.down_proj": ".feed_forward_out.net.2", "img_projection_up": "img_projection.0",
        "img_projection_down": "img_projection.2", "global_img_feature_extensor": "glb_GN",
        "sub_img_feature_extensor": "sub_GN", "up_proj_for_speech": "audio_projection.speech.0",
        "down_proj_for_speech": "audio_projection.speech.2",
        "up_proj_for_vision_speech": "audio_projection.vision.0",
        "down_proj_for_vision_speech": "audio_projection.vision.2",
    }  # fmt: skip

    def renamed(key):
        if ".layers." in key and "img_processor" not in key:
            return key.replace("_proj.weight", "_proj.base_layer.weight")
        for new, former in old.items():
            key = key.replace(new, former) if "audio_embed" in key or "image_embed" in key else key
        if "audio_embed.encoder.encoders" in key:
            for name in "qkv":
                key = key.replace(f"self_attn.{name}_proj", f"self_attn.linear_{name}")
            key = key.replace("self_attn.o_proj", "self_attn.linear_out")
        return key

    tensors = {renamed(key): x for key, x in load_file(built.folder / "model.safetensors").items()}
    beside = "model.layers.0.mlp.down_proj.lora_A.vision.weight"
    save = {**tensors, beside: torch.zeros(2, 24), beside.replace("A.v", "B.v"): torch.zeros(16, 2)}
    (tmp_path / "config.json").write_text((built.folder / "config.json").read_text())
    save_file(save, tmp_path / "model.safetensors", {"format": "pt"})
    again = omniform.AutoModelForCausalLM.from_pretrained(tmp_path)
    batch = mixed(Media())
    close(again(**batch).logits, built.ours(**batch).logits)


@pytest.mark.parametrize("variant", ["plain", "long"])
def test_sounds_written_on_from(variant):
    """Where the answer passes the length that the decoder was trained for, all of the row is read anew."""
    built = build(TestPhi4Multimodal.table.case("ForCausalLM", variant, scale=0.3))
    sounds, counts = Media().sounds(45)
    ids = torch.tensor([[1, 5, *[AUDIO] * counts[0], 6]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **sounds}
    expected = ids
    with torch.no_grad():  # without a cache: the reference forgets the row where it should read it anew
        for _ in range(8):
            logits = theirs_of(built)(input_ids=expected, **sounds, use_cache=False).logits
            expected = torch.cat((expected, logits[:, -1:].argmax(-1)), dim=1)
    assert built.ours.generate(**batch, max_new_tokens=8).tolist() == expected.tolist()
