"""Whatever reads pictures refuses what is no batch of them, in the same words."""

import pytest
import torch

from omniform.architectures.backbone import ConvBackbone
from omniform.blocks.patches import Patching, PatchStem
from omniform.blocks.resnet import ResNet, ResNetSpec, Stage
from omniform.core.errors import InputError

PATCHES = PatchStem(Patching(channels=3, image_size=(16, 16), patch_size=(4, 4)), 8)
SPEC = ResNetSpec(stem=4, stages=(Stage(8, 1),))
CONVOLUTIONS = ConvBackbone(
    network=ResNet(SPEC), names=("stem", "stage1"), outputs=(1,), num_features=(4, 8), reductions=(4, 4)
)


@pytest.mark.parametrize("reader", [PATCHES, CONVOLUTIONS], ids=["patches", "convolutions"])
@pytest.mark.parametrize(
    "pictures, words",
    [
        ([[0.0]], "must be a tensor.*found list.*return_tensors"),
        (torch.rand(3, 16, 16), r"\[batch, 3, .*float32 of shape \[3, 16, 16\]"),
        (torch.rand(1, 2, 3, 16, 16), r"shape \[1, 2, 3, 16, 16\]"),
        (torch.rand(1, 4, 16, 16), r"shape \[1, 4, 16, 16\]"),
        (torch.rand(0, 3, 16, 16), r"shape \[0, 3, 16, 16\]"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "uint8"),
    ],
)
def test_no_pictures(reader, pictures, words):
    with pytest.raises(InputError, match=words) as caught:
        reader(pictures)
    assert caught.value.where == "pixel_values"


def test_another_size():
    larger = torch.rand(1, 3, 32, 16)
    with pytest.raises(InputError, match=r"\[batch, 3, 16, 16\].*interpolate_pos_encoding=True"):
        PATCHES(larger)
    assert PATCHES(larger, any_size=True).shape == (1, 32, 8)
    with pytest.raises(InputError, match="smaller than a patch"):
        PATCHES(torch.rand(1, 3, 3, 16), any_size=True)
    assert CONVOLUTIONS(larger).feature_maps[0].shape[0] == 1
