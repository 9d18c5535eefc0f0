"""ZoeDepth against the reference: one domain and several."""

from __future__ import annotations

import pytest
import torch
from askers import noise
from harness import Head, Parity, Table
from test_dpt import BEIT, DINO, SWIN, Sizes

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, saved_reference, transformers

TINY = {
    "backbone_config": {**DINO, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]},
    "neck_hidden_sizes": [6, 8, 10, 12], "fusion_hidden_size": 8, "bottleneck_features": 8,
    "num_relative_features": 5, "num_attractors": [4, 3, 2, 1], "bin_embedding_dim": 6,
    "bin_configurations": [{"n_bins": 7, "min_depth": 0.01, "max_depth": 8.0}],
}  # fmt: skip
DOMAINS = {
    "bin_configurations": [
        {"name": "nyu", "n_bins": 7, "min_depth": 0.01, "max_depth": 8.0},
        {"name": "kitti", "n_bins": 6, "min_depth": 0.1, "max_depth": 80.0},
    ],
    "num_patch_transformer_layers": 5, "patch_transformer_hidden_size": 128, "patch_transformer_intermediate_size": 20,
    "patch_transformer_num_attention_heads": 4,
}  # fmt: skip


def config(backbone_config: object = None, **given: object):
    """The reference's."""
    if isinstance(backbone_config, dict):
        backbone_config = transformers.AutoConfig.for_model(**backbone_config)
    return transformers.ZoeDepthConfig(backbone_config=backbone_config, **given)


def head(everywhere: bool = False, fields=("predicted_depth",), sizes=((16, 16), (24, 36)), **changes: object) -> Head:
    asks = Sizes(fields, sizes, changes)
    return Head("ZoeDepthForDepthEstimation", "AutoModelForDepthEstimation", asks, everywhere)


class TestZoeDepth(Parity):
    table = Table(
        model_type="zoedepth",
        config=config,
        config_class=transformers.ZoeDepthConfig,
        tiny=TINY,
        heads={
            "ForDepthEstimation": head(True),
            "beit": head(backbone_config={**BEIT, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]}),
            "domains": head(fields=("predicted_depth", "domain_logits"), **DOMAINS),
            "domains, normed": head(
                fields=("predicted_depth", "domain_logits"), bin_centers_type="normed", **DOMAINS),
            "swinv2": head(sizes=((32, 32), (36, 20)), backbone_config=SWIN, neck_hidden_sizes=[8, 16, 32]),
        },
        variants={
            "plain": {},
            "normed": {"bin_centers_type": "normed"},
            "summed": {"attractor_kind": "sum", "min_temp": 0.5, "max_temp": 2.0},
            "normed, summed": {"bin_centers_type": "normed", "attractor_kind": "sum"},
            "batch norms": {"use_batch_norm_in_fusion_residual": True, "batch_norm_eps": 0.1},
            "no biases": {"use_bias_in_fusion_residual": False, "hidden_act": "relu", "head_in_index": 2},
            "not read": {"attractor_alpha": 7, "attractor_gamma": 1, "num_attractors": [1, 1, 2, 9]},
        },
        derived=frozenset({"backbone_config"}),
    )  # fmt: skip


def pair(folder, **changes: object):
    made = config(**{**TINY, **changes})
    theirs = saved_reference(transformers.ZoeDepthForDepthEstimation, made, folder)
    return omniform.AutoModelForDepthEstimation.from_pretrained(folder), theirs


@pytest.mark.parametrize("domain", [0, 1])
def test_each_domain(tmp_path, domain):
    """The batch votes."""
    ours, theirs = pair(tmp_path, **DOMAINS)
    with torch.no_grad():
        for bias in (ours.metric_head.mlp_classifier.fc2.bias, theirs.metric_head.mlp_classifier.linear2.bias):
            bias[domain] += 100
    pixels = noise(3, 3, 16, 20)
    compare(ours, theirs, {"pixel_values": pixels}, ["predicted_depth", "domain_logits"])


def test_trains_as_the_reference(tmp_path):
    """Gradients of a loss of the user's own, through bins, attractors and distributions."""
    ours, theirs = pair(tmp_path)
    for model in (ours, theirs):
        model.train()
        model(noise(1, 3, 16, 16)).predicted_depth.square().mean().backward()
    for path in ("metric_head.attractors.1.conv2", "metric_head.conditional_log_binomial.mlp.0", "neck.convs.0"):
        mine, other = (model.get_submodule(path).weight.grad for model in (ours, theirs))
        close(mine / other.abs().max(), other / other.abs().max(), path, 1e-3)


BINS = DOMAINS["bin_configurations"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bin_centers_type": "hybrid2"}, "bin_centers_type"),
        ({"attractor_kind": "max"}, "attractor_kind"),
        ({"num_attractors": [4, 2]}, "num_attractors"),
        ({"bin_configurations": [3]}, "bin_configurations"),
        ({"bin_configurations": [{"n_bins": 3, "min_depth": 4.0, "max_depth": 1.0}]}, "max_depth"),
        ({**DOMAINS, "bin_configurations": [BINS[0], BINS[0]]}, "names that differ"),
        ({"bin_configurations": BINS}, "num_patch_transformer_layers"),
        ({**DOMAINS, "num_patch_transformer_layers": 3}, "at least 4"),
        ({**DOMAINS, "patch_transformer_hidden_size": 64}, "128"),
    ],
)
def test_bad_configs(change, words):
    with pytest.raises(ConfigError, match=words):
        omniform.ZoeDepthConfig(**{**TINY, **change})


def test_refused(tmp_path):
    ours, _ = pair(tmp_path)
    with pytest.raises(InputError, match="at least 4 pixels"):
        ours(noise(1, 3, 3, 16))
    with pytest.raises(ConfigError, match="bottleneck_features"):
        omniform.ZoeDepthForDepthEstimation(omniform.ZoeDepthConfig(**{**TINY, "bottleneck_features": 4}))
