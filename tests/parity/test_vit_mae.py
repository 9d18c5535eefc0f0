"""ViTMAE against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from askers import Nothing, Pictures, Question, noise
from harness import Head, Parity, Table, compiled
from safetensors.torch import load_file, save_file

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, saved_reference, transformers

TINY = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
    "patch_size": 4, "decoder_hidden_size": 24, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 40,
}  # fmt: skip
SIZES = ((16, 16), (32, 32), (8, 32), (4, 4), (12, 20))


@dataclass(frozen=True)
class Noisy(Pictures):
    """Pictures some of whose patches are hidden by numbers that are given."""

    sizes: tuple[tuple[int, int], ...] = SIZES

    def inputs(self, config: object, rows: int, height: int, width: int) -> dict[str, object]:
        side = config.patch_size
        luck = torch.rand(rows, (height // side) * (width // side), generator=torch.Generator().manual_seed(2))
        return {"pixel_values": noise(rows, config.num_channels, height, width), "noise": luck}

    def questions(self, config: object) -> Iterator[Question]:
        own = self.inputs(config, 3, *self.pixels(config).shape[2:])
        yield Question(own, (*self.labels.fields, *self.taps))
        for size in self.sizes:
            inputs = {**self.inputs(config, 2, *size), "interpolate_pos_encoding": True}
            yield Question(inputs, self.labels.fields)

    def lesson(self, config: object) -> dict[str, object] | None:
        return self.inputs(config, 3, 16, 16) if "loss" in self.labels.fields else None


ALL = ("loss", "logits", "mask", "ids_restore")


def drawer(**config: object) -> Head:
    sizes = tuple(size for size in SIZES if size != (4, 4))  # one patch: nothing is seen of it, or nothing hidden
    return Head("ViTMAEForPreTraining", "AutoModelForPreTraining", Noisy(Nothing(ALL, config), sizes=sizes), rate=1e-3)


class TestViTMAE(Parity):
    table = Table(
        model_type="vit_mae",
        config=transformers.ViTMAEConfig,
        tiny=TINY,
        heads={
            "Model": Head(
                "ViTMAEModel", "AutoModel", Noisy(Nothing(("last_hidden_state", "mask", "ids_restore"))),
                everywhere=True,
            ),
            "ForPreTraining": drawer(),
            "ForPreTraining, normed": drawer(
                head_dim=12, norm_pix_loss=True, mask_ratio=0.4, qkv_bias=False, num_channels=1
            ),
            "ForPreTraining, relu": drawer(hidden_act="relu", layer_norm_eps=1e-2, decoder_num_hidden_layers=1),
        },
        variants={
            "plain": {},
            "all seen": {"mask_ratio": 0.0, "qkv_bias": False},
            "grey": {"num_channels": 1, "layer_norm_eps": 1e-2, "hidden_act": "gelu_new"},
            "wide": {"image_size": [8, 32], "mask_ratio": 0.3},
        },
        spellings={"compiled": compiled},
    )  # fmt: skip


def pair(folder, head="ForPreTraining", **changes):
    config = transformers.ViTMAEConfig(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"ViTMAE{head}"), config, folder)
    return getattr(omniform, f"ViTMAE{head}").from_pretrained(folder), theirs


def test_the_same_patches_are_drawn(tmp_path):
    """Without numbers of the caller's: the reference's draw for draw."""
    ours, theirs = pair(tmp_path)
    found = []
    for model in (ours, theirs):
        torch.manual_seed(5)
        with torch.no_grad():
            found.append(model(noise(2, 3, 16, 16)))
    assert torch.equal(found[0].mask, found[1].mask) and found[0].mask.sum() == 2 * 12
    close(found[0].loss, found[1].loss)


def test_decoders_of_older_checkpoints(tmp_path):
    """Their layers have a name that today's release of the reference reads, but no longer writes."""
    _, theirs = pair(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {key.replace("decoder_encoder.layer.", "decoder_layers."): tensor for key, tensor in tensors.items()}
    assert old.keys() != tensors.keys()
    save_file(old, tmp_path / "model.safetensors", {"format": "pt"})
    ours = omniform.AutoModelForPreTraining.from_pretrained(tmp_path)
    luck = torch.rand(2, 16, generator=torch.Generator().manual_seed(2))
    compare(ours, theirs, {"pixel_values": noise(2, 3, 16, 16), "noise": luck}, ["loss", "logits"])
    ours.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == old.keys()


@pytest.mark.parametrize("size", [None, (8, 24)])
def test_pictures_to_patches_and_back(tmp_path, size):
    ours, theirs = pair(tmp_path)
    pixels = noise(2, 3, *(size or (16, 16)))
    patches = ours.patchify(pixels, interpolate_pos_encoding=size is not None)
    close(patches, theirs.patchify(pixels, interpolate_pos_encoding=size is not None))
    assert torch.equal(ours.unpatchify(patches, size), pixels)
    with pytest.raises(InputError, match="another number of patches"):
        ours.unpatchify(patches, (8, 8))


def test_from_scratch():
    """Positions are sines, and learn nothing (the reference means to, and leaves zeros)."""
    config = transformers.ViTMAEConfig(**TINY)
    theirs = transformers.ViTMAEForPreTraining(config)
    ours = omniform.ViTMAEForPreTraining(omniform.ViTMAEConfig(**TINY))
    theirs.decoder.initialize_weights(16)
    close(ours.decoder.positions.weight, theirs.decoder.decoder_pos_embed[0])
    assert ours.model.positions.weight[1:].std() > 0.5
    fixed = {name for name, p in theirs.named_parameters() if not p.requires_grad}
    assert len(fixed) == 2 and not any("positions" in name for name, _ in ours.named_parameters())
    most = (6 / (32 + 48)) ** 0.5
    weight = ours.model.patches.projection.weight
    assert 0.9 * most < weight.abs().max() <= most


def test_labels_of_several_batches(tmp_path):
    ours, _ = pair(tmp_path)
    inputs = {"pixel_values": noise(2, 3, 16, 16), "noise": torch.rand(2, 16)}
    with torch.no_grad():
        close(ours(**inputs, num_items_in_batch=7).loss, ours(**inputs).loss * ours.loss_items(inputs) / 7)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"pixel_values": torch.zeros(2, 3, 16, 20)}, "interpolate_pos_encoding=True"),
        ({"noise": torch.rand(2, 15)}, "noise"),
        ({"noise": torch.rand(1, 16)}, "noise"),
    ],
)
def test_bad_inputs(tmp_path, inputs, words):
    ours, _ = pair(tmp_path)
    with pytest.raises(InputError, match=words):
        ours(**{"pixel_values": noise(2, 3, 16, 16), **inputs})


@pytest.mark.parametrize("change", [{"hidden_size": 30, "num_attention_heads": 3}, {"decoder_hidden_size": 18},
                                    {"decoder_num_attention_heads": 5}, {"mask_ratio": 1.5}])  # fmt: skip
def test_bad_configs(change):
    with pytest.raises(ConfigError):
        omniform.AutoConfig.for_model("vit_mae", **{**TINY, **change})
