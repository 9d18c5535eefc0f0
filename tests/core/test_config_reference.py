"""Configs answer as the reference's: explicit nulls, attributes that tools read, aliases."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from omniform import AutoConfig
from omniform.core.errors import ConfigError
from omniform.models import registry
from reference import transformers

KINDS = [name for name in registry.known_families() if name in transformers.CONFIG_MAPPING]
GENERATION = {"begin_suppress_tokens", "suppress_tokens", "rope_parameters"}
"""Settings of generation, and what is told by other names."""

COUNTED = {"convnext": "num_stages", "convnextv2": "num_stages", "segformer": "num_encoder_blocks"}
"""Whose stages are told twice, and must be told alike."""


def reference(kind: str) -> type:
    return transformers.CONFIG_MAPPING[kind]


FEWER = {"num_hidden_layers": 1, "n_layer": 1, "encoder_layers": 1, "decoder_layers": 1, "first_k_dense_replace": 0}
SHOWN = ("Model", "ForCausalLM", "WithProjection")


def serves(kind: str, field: str) -> bool:
    """Whether the reference makes something of a null, and does not fail in its midst; there it reads as the default.

    Shapes are enough to know: nothing is computed.
    """
    try:
        config = reference(kind)(**{field: None})
        for name, number in FEWER.items():
            if isinstance(getattr(config, name, None), int):
                setattr(config, name, number)
        config.output_router_logits = hasattr(config, "router_aux_loss_coef")
        classes = vars(sys.modules[transformers.AutoModel._model_mapping[type(config)].__module__]).values()
        for model in [c for c in classes if getattr(c, "config_class", None) is type(config)]:
            if model.__name__.endswith(SHOWN) and "PreTrained" not in model.__name__:
                with torch.device("meta"):
                    made = model(config).bfloat16()  # in which experts are computed without looking at numbers
                    made.set_attn_implementation("eager")
                    ids = torch.ones(1, 4, dtype=torch.long)
                    asked = {"input_ids": ids} if made.main_input_name == "input_ids" else made.dummy_inputs
                    made(**asked, **({"labels": ids} if made.__class__.__name__.endswith("ForCausalLM") else {}))
    except Exception:  # whatever it stumbles over
        return False
    return True


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
        except (ConfigError, ValueError, TypeError, StrictDataclassClassValidationError):
            continue
        if ours != theirs and not (theirs is None and ours == 0.0):  # no dropout is none
            wrong[field.name] = (ours, theirs)
    usual = ("eos_token_id", "initializer_range")  # no deviation is the usual one
    assert not [name for name in wrong if name not in usual and serves(kind, name)]


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
        if isinstance(getattr(theirs, name, None), int) and name not in ("image_token_index",):
            setattr(changed, name, getattr(ours, name))
            if name == COUNTED.get(kind):
                with pytest.raises(ConfigError, match="does not fit"):
                    setattr(changed, alias, getattr(ours, alias) * 2)
                continue
            setattr(changed, alias, getattr(ours, alias) * 2)
            assert getattr(changed, name) == getattr(changed, alias) == getattr(ours, name) * 2
            setattr(changed, alias, getattr(ours, alias))
