"""LLaVA-OneVision against the reference: one picture as tiles, several as they are, videos."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Question
from harness import Head, Parity, Table, compiled
from test_llava import IMAGE, TEXT, VISION, tower_config
from writers import Feed, Illustrated

from omniform.core.errors import ConfigError, InputError
from omniform.core.tiles import best_resolution
from reference import omniform, saved_reference, transformers

VIDEO = 96
PINPOINTS = [[24, 24], [24, 48], [48, 24], [48, 48], [24, 96]]
# A tower of three by three patches, so that halves are no whole numbers.
TOWER = {**VISION, "image_size": 24, "num_hidden_layers": 2}

VARIANTS = {
    "plain": {},
    "few vectors": {"vision_aspect_ratio": "anyres_max_1"},
    "several layers": {"vision_feature_layer": [-2, 1], "multimodal_projector_bias": False},
    "tied": {"tie_word_embeddings": True},
    "tied text": {"text": {"tie_word_embeddings": True}, "projector_hidden_act": "relu"},
    "siglip": {"tower": "Siglip", "vision": {"vision_use_head": False}, "vision_feature_select_strategy": "full"},
}


def config(**changes):
    text, vision, tower = changes.pop("text", {}), changes.pop("vision", {}), changes.pop("tower", "CLIP")
    usual = {"image_grid_pinpoints": PINPOINTS, "vision_feature_select_strategy": "default"}  # CLIP's tower
    return transformers.LlavaOnevisionConfig(
        text_config=transformers.Qwen2Config(**{**TEXT, **text}),
        vision_config=tower_config(tower, {**TOWER, **vision}),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        **{**usual, **changes},
    )


def tiling(size):
    height, width = best_resolution(size, [tuple(one) for one in PINPOINTS])
    return 1 + (height // 24) * (width // 24)


def vectors(size, ratio):
    """How many vectors stand for a picture, counted by the reference's own processor."""
    shell = object.__new__(transformers.LlavaOnevisionProcessor)
    shell.image_processor = type("Settings", (), {"image_grid_pinpoints": PINPOINTS})()
    shell.num_image_tokens, shell.vision_aspect_ratio = 9, ratio
    return shell._get_number_of_features(*size, 24, 24)


def batch(rows, ratio="anyres_max_9", frames=2, seed=0):
    """Texts with pictures of these sizes and videos (``None``) among them, padded on the right."""
    torch.manual_seed(seed)
    sizes = [size for row in rows for size in row if size is not None]
    alone = [sum(size is not None for size in row) == 1 for row in rows for size in row if size is not None]
    counts = [tiling(size) if one else 1 for size, one in zip(sizes, alone, strict=True)]
    given = {}
    if sizes:
        pixels = torch.zeros(len(sizes), max(counts), 3, 24, 24)
        for number, count in enumerate(counts):
            pixels[number, :count] = torch.randn(count, 3, 24, 24)
        own = [sum(size is not None for size in row) for row in rows]
        given = {
            "pixel_values": pixels,
            "image_sizes": torch.tensor(sizes),
            "batch_num_images": torch.tensor([count for count in own if count]),
        }
    videos = sum(size is None for row in rows for size in row)
    if videos:
        given["pixel_values_videos"] = torch.randn(videos, frames, 3, 24, 24)
    texts, at = [], 0
    for row in rows:
        text = [1]
        for size in row:
            if size is None:
                text += [7, *[VIDEO] * (frames * 4 + 1)]
            else:
                text += [8, *[IMAGE] * (vectors(size, ratio) if alone[at] else 10)]
                at += 1
        texts.append([*text, 11, 12, 13, 14])
    longest = max(map(len, texts))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in texts])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in texts])
    return {"input_ids": ids, "attention_mask": mask, **given}


# One picture; two with a video between them; none; a video.
ROWS = [[(20, 70)], [(31, 30), None, (9, 31)], [], [None]]


def asked(fields):
    def read(config):
        row = batch(ROWS[:1], config.vision_aspect_ratio)
        return [Question(row, (*fields, "image_hidden_states", "hidden_states", "attentions"))]

    return read


def written_on(config):
    given = batch(ROWS, config.vision_aspect_ratio)
    real = given["attention_mask"].bool()
    labels = given["input_ids"].masked_fill(~real, -100)
    fields = ("loss", "logits", "image_hidden_states", "video_hidden_states")
    return [*asked(("logits",))(config), Question({**given, "labels": labels}, fields, real)]


def lesson(config):
    given = batch(ROWS, config.vision_aspect_ratio)
    return {**given, "labels": given["input_ids"]}


class Filmed(Illustrated):
    """Texts with pictures and videos among them."""

    def alone(self):
        return [batch([row], seed=number) for number, row in enumerate(ROWS)]

    def feed(self, config):
        one = self.alone()[1]
        first = {name: value for name, value in one.items() if name not in ("input_ids", "attention_mask")}
        return Feed(one["input_ids"], first=first, beginning=one["input_ids"].shape[1] - 3)

    def together(self):
        whole, alone = batch(ROWS), self.alone()
        longest = whole["input_ids"].shape[1]
        pictures, videos = [], []
        for row, one in enumerate(alone):
            own = one["input_ids"][0]
            whole["input_ids"][row] = torch.cat([torch.zeros(longest - len(own), dtype=torch.long), own])
            whole["attention_mask"][row] = (torch.arange(longest) >= longest - len(own)).long()
            pictures += list(one.get("pixel_values", ()))
            videos += list(one.get("pixel_values_videos", ()))
        whole["pixel_values"].zero_()
        for number, picture in enumerate(pictures):
            whole["pixel_values"][number, : len(picture)] = picture
        whole["pixel_values_videos"] = torch.stack(videos)
        return whole


class TestLlavaOnevision(Parity):
    table = Table(
        model_type="llava_onevision",
        config=lambda **changes: config(**changes),
        config_class=transformers.LlavaOnevisionConfig,
        tiny={},
        heads={
            "Model": Head("LlavaOnevisionModel", "AutoModel", Given(asked(("last_hidden_state",)))),
            "ForConditionalGeneration": Head(
                "LlavaOnevisionForConditionalGeneration", "AutoModelForImageTextToText", Given(written_on, lesson),
                everywhere=True, unused=("model.vision_tower.pooler", "model.vision_tower.head"),
            ),
        },
        variants=VARIANTS,
        writes=("ForConditionalGeneration", Filmed(list)),
        writing=["plain"],
        scale=0.3,
        derived=frozenset({"text_config", "vision_config"}),
        spellings={"compiled": compiled},
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onevision")
    theirs = saved_reference(transformers.LlavaOnevisionForConditionalGeneration, config(), folder, scale=0.2)
    return omniform.AutoModelForImageTextToText.from_pretrained(folder), theirs


def test_features_and_other_ratios(pair):
    ours, theirs = pair
    given = batch(ROWS)
    names = ("pixel_values", "image_sizes", "batch_num_images")
    for options in ({}, {"vision_aspect_ratio": "anyres_max_1", "vision_feature_layer": 1}):
        own = {**{name: given[name] for name in names}, **options}
        found, expected = ours.get_image_features(**own), theirs.get_image_features(**own)
        for mine, other in zip(found.pooler_output, expected.pooler_output, strict=True):
            torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
    found = ours.get_video_features(given["pixel_values_videos"])
    expected = theirs.get_video_features(given["pixel_values_videos"])
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
    # The reference's forward does not hand the ratio on: it is asked of a model whose config says it.
    few = ours(**batch(ROWS[:1], "anyres_max_1"), vision_aspect_ratio="anyres_max_1")
    assert len(few.image_hidden_states) == vectors(ROWS[0][0], "anyres_max_1") < vectors(ROWS[0][0], "anyres_max_9")


def test_videos_of_different_lengths_in_one_engine(pair):
    ours, _ = pair
    rows = [batch([[None]], frames=frames, seed=frames) for frames in (1, 3)]
    alone = [ours.generate(**row, max_new_tokens=6, do_sample=False)[0, row["input_ids"].shape[1] :] for row in rows]
    items = ours.items([rows[1]["input_ids"][0].tolist()], {"pixel_values_videos": rows[1]["pixel_values_videos"]})
    first = ours.items([rows[0]["input_ids"][0].tolist()], {"pixel_values_videos": rows[0]["pixel_values_videos"]})
    together = ours.encode_items([*first[0], *items[0]])
    assert [len(one) for one in together] == [5, 13]
    for one, own in zip(together, (*first, *items), strict=True):
        torch.testing.assert_close(one, ours.encode_items(own)[0])
    assert all(len(one) for one in alone)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b.pop("pixel_values_videos"), r"0 video"),
        (lambda b: b.update(pixel_values_videos=b["pixel_values_videos"][:, :1]), r"video placeholders do not match"),
        (lambda b: b.update(pixel_values_videos=b["pixel_values_videos"][0]), r"videos are frames"),
        (lambda b: b.update(batch_num_images=torch.tensor([2, 2])), r"batch_num_images.*3 together"),
        (lambda b: b.update(batch_num_images=torch.tensor([1, 1, 1])), r"image placeholders do not match"),
        (lambda b: b.update(vision_aspect_ratio="square"), r"anyres_max_ and a number.*square"),
    ],
)
def test_items_that_do_not_fit(pair, change, says):
    given = batch(ROWS)
    change(given)
    with pytest.raises(InputError, match=f"(?s){says}"):
        pair[0](**given)


def test_a_ratio_that_is_none():
    with pytest.raises(ConfigError, match="vision_aspect_ratio"):
        omniform.LlavaOnevisionConfig.from_dict(config().to_dict() | {"vision_aspect_ratio": "pad"})
