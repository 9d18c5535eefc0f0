"""Disentangled attention against the reference where its parity table does not reach: distances, labels, configs."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch

from omniform.blocks.disentangled import Logarithmic
from omniform.core.errors import ConfigError
from reference import close, omniform, saved_reference, transformers

TINY = {
    "vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 32, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 6,
    "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False,
}  # fmt: skip


@pytest.mark.parametrize(("buckets", "far"), [(256, 512), (4, 9), (2, 7), (3, 512), (32, 5), (9, 512), (48, 128)])
def test_buckets_of_far_distances(buckets: int, far: int) -> None:
    """Every distance of a long text, edges of buckets included, in the last bucket where the table ends."""
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    distance = torch.arange(-3000, 3001)
    expected = make_log_bucket_position(distance, buckets, far).long()
    found = Logarithmic(buckets, far)(distance)
    assert torch.equal(found.clamp(-buckets, buckets), expected.clamp(-buckets, buckets))


def test_distances_that_no_row_has_are_in_range() -> None:
    """The formula divides by zero where exact distances end at the farthest; the reference's then has no value."""
    found = Logarithmic(8, 5)(torch.arange(-9, 10))
    assert found.tolist() == [-8] * 5 + list(range(-4, 5)) + [8] * 5


LABELS: Mapping[str, tuple[Mapping[str, object], torch.Tensor]] = {
    "some rows without a label": ({"num_labels": 3}, torch.tensor([2, -1, 0])),
    "no row with one": ({"num_labels": 3}, torch.tensor([-1, -1, -1])),
    "shares": ({"num_labels": 3}, torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0], [0.1, 0.1, 0.8]])),
    "one number": ({"num_labels": 1}, torch.tensor([0.5, -1.0, 2.0])),
    "one number, said so": ({"num_labels": 1, "problem_type": "regression"}, torch.tensor([0.5, -1.0, 2.0])),
}


@pytest.mark.parametrize("labels", LABELS)
def test_labels_of_rows(labels: str, tmp_path) -> None:
    """What labels mean where the config does not say; padding in front, whose place the pooler takes, too."""
    changes, given = LABELS[labels]
    config = transformers.DebertaV2Config(**copy.deepcopy({**TINY, **changes}))
    theirs = saved_reference(transformers.DebertaV2ForSequenceClassification, config, tmp_path)
    ours = omniform.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    ids = torch.randint(3, 61, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    for backend in ("eager", "sdpa"):
        ours.set_attn_implementation(backend)
        with torch.no_grad():
            found = ours(ids, attention_mask=mask, labels=given)
            expected = theirs(ids, attention_mask=mask, labels=given)
        close(found.logits, expected.logits, "logits")
        close(found.loss, expected.loss, "loss")


@pytest.mark.parametrize("relative", [True, False])
def test_padding_in_front_without_comparing_places(relative: bool, tmp_path) -> None:
    """Padding gets the mean of all values in either implementation, whatever is added to the scores."""
    changes = {"relative_attention": relative, "pos_att_type": [], "position_biased_input": True, "conv_kernel_size": 3}
    config = transformers.DebertaV2Config(**copy.deepcopy({**TINY, **changes}))
    theirs = saved_reference(transformers.DebertaV2Model, config, tmp_path)
    ours = omniform.AutoModel.from_pretrained(tmp_path)
    ids = torch.randint(3, 61, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    for backend in ("eager", "sdpa"):
        ours.set_attn_implementation(backend)
        with torch.no_grad():
            found = ours(ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids))
            expected = theirs(ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids))
        close(found.last_hidden_state, expected.last_hidden_state)


def test_longer_than_its_positions(tmp_path) -> None:
    """Without absolute positions nothing bounds a row."""
    theirs = saved_reference(transformers.DebertaV2Model, transformers.DebertaV2Config(**copy.deepcopy(TINY)), tmp_path)
    ids = torch.randint(3, 61, (1, 90), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = omniform.AutoModel.from_pretrained(tmp_path)(ids).last_hidden_state
        close(found, theirs(ids).last_hidden_state)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pos_att_type", ["c2c"]), ("pos_att_type", "c2p|nearest"), ("norm_rel_ebd", "rms_norm"),
        ("conv_kernel_size", 4), ("conv_groups", 5), ("attention_head_size", 4), ("pooler_hidden_size", 8),
        ("position_buckets", 1), ("num_hidden_layers", 0), ("is_decoder", True), ("pooler_hidden_act", "gellu"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        omniform.AutoConfig.for_model("deberta-v2", **{**TINY, name: value})


def test_the_new_head_is_as_wide_as_the_layers() -> None:
    config = omniform.AutoConfig.for_model("deberta-v2", **TINY, legacy=False, embedding_size=8)
    with pytest.raises(ConfigError, match="embedding_size"):
        omniform.AutoModelForMaskedLM.from_config(config)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "of their own"])
def test_hooks_see_what_the_references_see(shared: bool, tmp_path) -> None:
    """A projection that reads tokens and places is called for either, with the same inputs."""
    config = transformers.DebertaV2Config(**{**TINY, "share_att_key": shared})
    theirs = saved_reference(transformers.DebertaV2Model, config, tmp_path)
    ours = omniform.AutoModel.from_pretrained(tmp_path)
    seen: list[list[torch.Tensor]] = []

    def watch(layer: torch.nn.Module, *names: str) -> None:
        for name in names:
            seen.append(found := [])
            getattr(layer, name).register_forward_hook(
                lambda _, given, out, to=found: to.append(given[0].flatten(0, -2))
            )

    watch(theirs.encoder.layer[1].attention.self, "query_proj", "key_proj")
    watch(ours.layers[1].self_attn, "q_proj", "k_proj")
    ids = torch.randint(3, 61, (2, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs(ids)
        ours(ids)
    assert [len(found) for found in seen] == [1 + shared] * 4
    for expected, found in zip(seen[:2], seen[2:], strict=True):
        for x, y in zip(expected, found, strict=True):
            close(y, x)
