"""LLaVA-NeXT against the reference: pictures of any size, as tiles, among the words of a text."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Question
from harness import Head, Parity, Table, compiled
from test_llava import IMAGE, TEXT, VISION
from writers import Feed, Illustrated

from omniform.core.errors import ConfigError, InputError
from omniform.core.tiles import best_resolution, fitted
from reference import omniform, saved_reference, transformers

PINPOINTS = [[16, 32], [32, 16], [32, 32], [48, 16]]

VARIANTS = {
    "plain": {},
    "several layers": {"vision_feature_layer": [-2, 1], "multimodal_projector_bias": False},
    "last layer": {"vision_feature_layer": -1, "projector_hidden_act": "relu"},
    "tied": {"tie_word_embeddings": True},
    "tied text": {"text": {"tie_word_embeddings": True}},
    "other resolutions": {"image_grid_pinpoints": [[32, 64], [48, 48], [16, 16]]},
    "initial": {"initializer_range": 0.1},
}


def config(**changes):
    text, vision = changes.pop("text", {}), changes.pop("vision", {})
    return transformers.LlavaNextConfig(
        text_config=transformers.LlamaConfig(**{**TEXT, **text}),
        vision_config=transformers.CLIPVisionConfig(**{**VISION, **vision}),
        image_token_index=IMAGE,
        **{"image_grid_pinpoints": PINPOINTS, **changes},
    )


def tiling(size, pinpoints):
    """How many tiles a picture has, the whole one among them."""
    height, width = best_resolution(size, [tuple(one) for one in pinpoints])
    return 1 + (height // 16) * (width // 16)


def vectors(size, pinpoints):
    """How many vectors stand for a picture, counted by the reference's own processor."""
    shell = object.__new__(transformers.LlavaNextProcessor)
    shell.image_processor = type("Settings", (), {"image_grid_pinpoints": pinpoints})()
    shell.patch_size, shell.num_additional_image_tokens = 8, 0
    return shell._get_number_of_features(*size, 16, 16)


def batch(rows, pinpoints=PINPOINTS):
    """Texts with pictures of these sizes among them, padded on the right."""
    torch.manual_seed(0)
    sizes = [size for row in rows for size in row]
    most = max(tiling(size, pinpoints) for size in sizes)
    pixels = torch.zeros(len(sizes), most, 3, 16, 16)
    for number, size in enumerate(sizes):
        count = tiling(size, pinpoints)
        pixels[number, :count] = torch.randn(count, 3, 16, 16)
    seen = [[t for size in row for t in (7, *[IMAGE] * vectors(size, pinpoints))] for row in rows]
    texts = [[1, *row, 11, 12, 13, 14] for row in seen]
    longest = max(map(len, texts))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in texts])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in texts])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "image_sizes": torch.tensor(sizes)}


ROWS = [[(20, 37), (40, 12)], [(31, 30)], [(9, 31)]]


def read(*fields):
    """A row without padding, hidden states and attentions included."""
    return lambda config: [
        Question(batch(ROWS[:1], config.image_grid_pinpoints), (*fields, "hidden_states", "attentions"))
    ]


def written_on(config):
    given = batch(ROWS, config.image_grid_pinpoints)
    real = given["attention_mask"].bool()
    labels = given["input_ids"].masked_fill(~real, -100)
    fields = ("loss", "logits", "image_hidden_states")
    return [*read("logits", "image_hidden_states")(config), Question({**given, "labels": labels}, fields, real)]


def lesson(config):
    given = batch(ROWS, config.image_grid_pinpoints)
    return {**given, "labels": given["input_ids"]}


class Tiled(Illustrated):
    """Texts with tiled pictures among them."""

    def split(self):
        return [(one["input_ids"][0], one) for one in (batch([row]) for row in ROWS)]

    def feed(self, config):
        ids, one = self.split()[0]
        first = {name: one[name] for name in ("pixel_values", "image_sizes")}
        return Feed(ids[None], first=first, beginning=ids.shape[0] - 3)

    def together(self):
        whole, alone = batch(ROWS), self.alone()
        longest = whole["input_ids"].shape[1]
        for row, one in enumerate(alone):
            own = one["input_ids"][0]
            whole["input_ids"][row] = torch.cat([torch.zeros(longest - len(own), dtype=torch.long), own])
            whole["attention_mask"][row] = (torch.arange(longest) >= longest - len(own)).long()
        at = 0
        for one in alone:  # each row's pictures are the same as where it stands alone
            for pixels in one["pixel_values"]:
                whole["pixel_values"][at] = 0
                whole["pixel_values"][at, : len(pixels)] = pixels
                at += 1
        return whole

    def alone(self):
        return [one for _, one in self.split()]


class TestLlavaNext(Parity):
    table = Table(
        model_type="llava_next",
        config=lambda **changes: config(**changes),
        config_class=transformers.LlavaNextConfig,
        tiny={},
        heads={
            "Model": Head("LlavaNextModel", "AutoModel", Given(read("last_hidden_state", "image_hidden_states"))),
            "ForConditionalGeneration": Head(
                "LlavaNextForConditionalGeneration", "AutoModelForImageTextToText", Given(written_on, lesson),
                everywhere=True, unused=("model.vision_tower.pooler", "model.vision_tower.layers.2"),
            ),
        },
        variants=VARIANTS,
        writes=("ForConditionalGeneration", Tiled(list)),
        writing=["plain", "several layers"],
        scale=0.3,
        derived=frozenset({"text_config", "vision_config"}),
        spellings={"compiled": compiled},
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("next")
    theirs = saved_reference(transformers.LlavaNextForConditionalGeneration, config(), folder, scale=0.2)
    return omniform.AutoModelForImageTextToText.from_pretrained(folder), theirs


def test_geometry_is_the_references():
    from transformers.image_processing_utils import get_patch_output_size, select_best_resolution

    generator = torch.Generator().manual_seed(0)
    for height, width in torch.randint(1, 900, (300, 2), generator=generator).tolist():
        for resolutions in (PINPOINTS, [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]):
            best = select_best_resolution((height, width), resolutions)
            assert best_resolution((height, width), [tuple(r) for r in resolutions]) == best
            picture = torch.empty(3, height, width)
            assert fitted((height, width), best) == get_patch_output_size(picture, best, "channels_first")


def test_features_of_pictures_and_flat_tiles(pair):
    ours, theirs = pair
    given = batch(ROWS)
    for options in ({}, {"vision_feature_layer": 1}):
        found = ours.get_image_features(given["pixel_values"], given["image_sizes"], **options)
        expected = theirs.get_image_features(given["pixel_values"], given["image_sizes"], **options)
        for mine, other in zip(found.pooler_output, expected.pooler_output, strict=True):
            torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
    counts = [tiling(tuple(size), PINPOINTS) for size in given["image_sizes"].tolist()]
    flat = torch.cat([tiles[:count] for tiles, count in zip(given["pixel_values"], counts, strict=True)])
    torch.testing.assert_close(ours(**{**given, "pixel_values": flat}).logits, ours(**given).logits)


def test_a_trace_that_is_told_the_facts(pair):
    ours, given = pair[0], batch(ROWS[:1])
    facts = {"image": ours.model.medium("image").facts(given)}
    program = torch.export.export(ours, (), {**given, "media_facts": facts, "use_cache": False}, strict=False)
    torch.testing.assert_close(
        program.module()(**given, media_facts=facts, use_cache=False).logits, ours(**given).logits
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b.pop("image_sizes"), r"image_sizes"),
        (lambda b: b.update(image_sizes=b["image_sizes"][:2]), r"tiles are not those.*2 picture"),
        (lambda b: b.update(image_sizes=b["image_sizes"].flip(1)), r"placeholder|tiles"),
        (lambda b: b.update(pixel_values=b["pixel_values"][:, :2]), r"tiles are not those"),
        (lambda b: b["input_ids"][0].__setitem__(3, 5), r"placeholder"),
        (lambda b: b.update(vision_feature_select_strategy="full"), r"no patches do not make a map"),
    ],
)
def test_pictures_that_do_not_fit(pair, change, says):
    given = batch(ROWS)
    change(given)
    with pytest.raises(InputError, match=f"(?s){says}"):
        pair[0](**given)


@pytest.mark.parametrize("pinpoints", [[[16]], [], [[16, 0]], 7])
def test_resolutions_that_are_none(tmp_path, pinpoints):
    raw = config().to_dict() | {"image_grid_pinpoints": pinpoints}
    with pytest.raises(ConfigError, match="image_grid_pinpoints"):
        omniform.LlavaNextConfig.from_dict(raw)
