"""Configs answer as the reference's: explicit nulls, attributes that tools read, aliases."""

from __future__ import annotations

import dataclasses

import pytest

from omniform import AutoConfig
from omniform.core.errors import ConfigError
from omniform.models import registry
from reference import transformers

KINDS = [name for name in registry.known_families() if name in transformers.CONFIG_MAPPING]
UNBUILDABLE = {
    "projection_dim", "logit_scale_init_value", "layer_norm_eps", "image_size", "patch_size", "embedding_multiplier",
    "logits_scaling", "residual_multiplier", "attention_multiplier", "num_local_experts", "num_experts_per_tok",
    "router_aux_loss_coef",
}  # fmt: skip
"""Where the reference takes a null and fails in its midst; such a null reads as the default."""
GENERATION = {"begin_suppress_tokens", "suppress_tokens", "rope_parameters"}
"""Settings of generation, and what is told by other names."""


def reference(kind: str) -> type:
    return transformers.CONFIG_MAPPING[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_null_is_none_where_the_reference_takes_none(kind):
    wrong = {}
    for field in dataclasses.fields(reference(kind)):
        plain = field.default is not None and field.default is not dataclasses.MISSING
        switch = field.name in ("return_dict", "output_hidden_states", "use_cache")
        if "None" not in str(field.type) or not plain or switch:
            continue
        try:
            theirs = getattr(reference(kind)(**{field.name: None}), field.name)
            ours = AutoConfig.for_model(kind, **{field.name: None}).get(field.name)
        except (ConfigError, ValueError, TypeError):
            continue
        if ours != theirs and not (theirs is None and ours == 0.0):  # no dropout is none
            wrong[field.name] = (ours, theirs)
    assert not wrong.keys() - UNBUILDABLE - {"eos_token_id"}


@pytest.mark.parametrize("kind", KINDS)
def test_attributes_that_tools_read(kind):
    theirs, ours = reference(kind)(), AutoConfig.for_model(kind)
    names = {*theirs.to_dict(), *theirs.attribute_map, "num_labels", "use_return_dict", "name_or_path", "hidden_size"}
    missing = {n for n in names if hasattr(theirs, n) and not hasattr(ours, n) and not n.startswith("_")}
    assert not missing - GENERATION
    assert ours.is_encoder_decoder == theirs.is_encoder_decoder
    for alias, name in theirs.attribute_map.items():
        assert getattr(ours, alias) == getattr(ours, name)
    changed = AutoConfig.for_model(kind)
    for alias, name in theirs.attribute_map.items():
        if isinstance(getattr(theirs, name), int) and name not in ("image_token_index",):
            setattr(changed, name, getattr(ours, name))
            setattr(changed, alias, getattr(ours, alias) * 2)
            assert getattr(changed, name) == getattr(changed, alias) == getattr(ours, name) * 2
            setattr(changed, alias, getattr(ours, alias))
