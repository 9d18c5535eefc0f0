"""The mask-generation pipeline, beside the reference's."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from PIL import Image

from omniform.core.errors import InputError, OmniformError
from omniform.inputs.images import automatic_masks as am
from reference import close, omniform, saved_reference, transformers

VISION = {
    "hidden_size": 12, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 4, "window_size": 3, "global_attn_indexes": [0], "num_pos_feats": 8, "mlp_dim": 20,
}  # fmt: skip
MASKS = {"hidden_size": 16, "mlp_dim": 20, "num_attention_heads": 2, "iou_head_hidden_dim": 12}
HIERA = {
    "model_type": "sam2_hiera_det_model", "hidden_size": 8, "patch_kernel_size": [3, 3], "patch_stride": [2, 2],
    "patch_padding": [1, 1], "blocks_per_stage": [1, 1, 1], "embed_dim_per_stage": [8, 12, 16],
    "num_attention_heads_per_stage": [1, 2, 2], "window_size_per_stage": [4, 2, 4], "global_attention_blocks": [],
    "window_positional_embedding_background_size": [3, 3],
}  # fmt: skip
PYRAMID = {
    "backbone_config": HIERA, "backbone_channel_list": [16, 12, 8], "fpn_hidden_size": 16,
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
}  # fmt: skip
ALL = {"pred_iou_thresh": -9.0, "stability_score_thresh": 0.01, "stability_score_offset": 0.01}
TOLD = {"output_rle_mask": True, "output_bboxes_mask": True}


def plain_suppression(boxes, scores, idxs, iou_threshold):
    """Torchvision's, which needs operations that are not built here."""
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        covered = False
        for j in kept:
            a, b = boxes[i], boxes[j]
            sides = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
            shared, areas = sides.prod(), [(c[2:] - c[:2]).prod() for c in (a, b)]
            covered |= bool(shared / (sum(areas) - shared) > iou_threshold)
        kept += [] if covered else [i]
    return torch.tensor(kept, dtype=torch.long)


@pytest.fixture(autouse=True)
def suppression(monkeypatch):
    for module in ("sam.image_processing_sam", "sam2.image_processing_sam2"):
        monkeypatch.setattr(import_module(f"transformers.models.{module}"), "batched_nms", plain_suppression)


def prompts(patch: int) -> dict[str, int]:
    return {"hidden_size": 16, "image_size": 32, "patch_size": patch, "mask_input_channels": 8}


def picture(width: int = 70, height: int = 45) -> Image.Image:
    pixels = torch.rand(height // 5, width // 5, 3, generator=torch.Generator().manual_seed(5)) * 255
    return Image.fromarray(pixels.byte().numpy()).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module", params=["sam", "sam2"])
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sam":
        config = transformers.SamConfig(
            vision_config=VISION, prompt_encoder_config=prompts(4), mask_decoder_config=MASKS
        )
        saved_reference(transformers.SamModel, config, folder, scale=0.3)
        square = {"height": 32, "width": 32}
        transformers.SamImageProcessor(size={"longest_edge": 32}, pad_size=square).save_pretrained(folder)
    else:
        config = transformers.Sam2Config(
            vision_config=PYRAMID, prompt_encoder_config=prompts(8), mask_decoder_config=MASKS
        )
        saved_reference(transformers.Sam2Model, config, folder, scale=0.3)
        transformers.Sam2ImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    theirs = transformers.pipeline("mask-generation", model=str(folder), device="cpu")
    return omniform.pipeline("mask-generation", model=str(folder)), theirs


@pytest.mark.parametrize(
    "options",
    [
        {**ALL, "points_per_crop": 6},
        {**ALL, "points_per_crop": 5, "points_per_batch": 7, "crops_nms_thresh": 0.3},
        {**ALL, "points_per_crop": 4, "crops_n_layers": 1, "points_per_batch": None, "mask_threshold": 0.1},
        {**ALL, "points_per_crop": 3, "crops_n_layers": 2, "crop_overlap_ratio": 0.1, "crops_nms_thresh": 0.9},
        {"points_per_crop": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
    ],
    ids=str,
)
def test_masks_are_the_references(both, options):
    ours, theirs = both
    found, expected = ours(picture(), **options, **TOLD), theirs(picture(), **options, **TOLD)
    assert found.keys() == expected.keys()
    assert len(expected["masks"]) == len(found["masks"])
    close(found["scores"], expected["scores"])
    assert found["rle_mask"] == expected["rle_mask"]
    assert torch.equal(found["bounding_boxes"], expected["bounding_boxes"])
    for mine, other in zip(found["masks"], expected["masks"], strict=True):
        assert torch.equal(mine, torch.as_tensor(other))


def test_several_pictures_and_what_is_shown(both, tmp_path):
    ours, _ = both
    pictures = [picture(), picture(30, 64)]
    answers = ours(pictures, points_per_crop=4, batch_size=2, **ALL)
    assert [a["masks"][0].shape for a in answers] == [(45, 70), (64, 30)]
    assert set(answers[0]) == {"masks", "scores"} and (answers[0]["scores"].diff() <= 0).all()
    drawn = ours.draw(pictures[0], answers[0])
    assert drawn.mode == "RGB" and drawn.width >= 70
    rows, plain = ours.rows(answers[0]), ours.plain(answers[0])
    assert len(rows) == len(plain) == len(answers[0]["masks"]) and set(rows[0]) == set(ours.columns)
    assert torch.equal(am.mask_of(plain[0]["mask"]), answers[0]["masks"][0])


def test_nothing_is_found(both):
    found = both[0](picture(), points_per_crop=2, pred_iou_thresh=99.0, **TOLD)
    assert found["masks"] == [] == found["rle_mask"] and found["bounding_boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    "options",
    [
        {"points_per_batch": 0},
        {"points_per_crop": "many"},
        {"crops_n_layer": 1},
        {"points_per_crop": 4, "crops_n_layers": 1, "crop_n_points_downscale_factor": 2},
    ],
    ids=str,
)
def test_bad_options(both, options):
    with pytest.raises(OmniformError, match=r"crop|points"):
        both[0](picture(), **options)


def test_runs_and_boxes_of_odd_masks():
    full, none = torch.ones(3, 4, dtype=torch.bool), torch.zeros(3, 4, dtype=torch.bool)
    assert am.run_lengths(full)["counts"] == [0, 12] and am.run_lengths(none)["counts"] == [12]
    for mask in (full, none, torch.eye(3, 4).bool()):
        assert torch.equal(am.mask_of(am.run_lengths(mask)), mask)
    assert am.boxes_of(torch.stack((full, none))).tolist() == [[0, 0, 3, 2], [0, 0, 0, 0]]
    with pytest.raises(InputError, match=r"size|mask"):
        _bad_masks()


def _bad_masks():
    processor = omniform.Sam2ImageProcessor()
    return processor.post_process_masks([torch.zeros(3, 3)], [(4, 4)])
