"""A small DETR with a mask head learns from nothing which pixels are the shape's and which colour it has."""

from __future__ import annotations

import torch
from common import arguments, learned, options
from pictures import COLOURS, boxes, drawn, masks, scenes

from omniform import DetrConfig, DetrForSegmentation, DetrImageProcessor, Trainer, set_seed

SIDE, NAMES = 64, list(COLOURS)
RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 64, 96],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


def main() -> None:
    given = options(__doc__, steps=500, examples=2000, held_out=200)
    set_seed(1)
    processor = DetrImageProcessor(size={"height": SIDE, "width": SIDE}, do_pad=False)

    def read(title: str, count: int) -> list[dict]:
        found = scenes(title, count)
        made = []
        for scene, pixels in zip(found, processor([drawn(s, SIDE) for s in found])["pixel_values"], strict=True):
            sides = torch.tensor(boxes(scene, SIDE)) / SIDE
            labels = {
                "class_labels": torch.tensor([NAMES.index(item.colour) for item in scene.items]),
                "boxes": torch.cat([sides[:, :2] + sides[:, 2:] / 2, sides[:, 2:]], -1),  # centre, width and height
                "masks": torch.stack([torch.from_numpy(mask) for mask in masks(scene, SIDE)]).float(),
            }
            made.append({"pixel_values": torch.as_tensor(pixels), "labels": labels})
        return made

    def collate(rows: list[dict]) -> dict:
        return {
            "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
            "labels": [row["labels"] for row in rows],
        }

    config = DetrConfig(
        backbone_config=RESNET,
        use_timm_backbone=False,
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        num_queries=2,
        dropout=0.0,
        # Outlines count for more than boxes here.
        mask_loss_coefficient=10,
        dice_loss_coefficient=5,
        bbox_loss_coefficient=1,
        giou_loss_coefficient=1,
        id2label=dict(enumerate(NAMES)),
        label2id={name: i for i, name in enumerate(NAMES)},
    )
    model = DetrForSegmentation(config)
    held_out = read("segmentation eval", given.held_out)

    @torch.no_grad()
    def overlap() -> dict[str, float]:
        """Mean intersection over union of the surest query's pixels and the true ones; 0 if the colour is wrong."""
        model.eval()
        batch = collate(held_out)
        outputs = model(pixel_values=batch["pixel_values"].to(model.device))
        maps = torch.nn.functional.interpolate(outputs.pred_masks.cpu(), (SIDE, SIDE), mode="bilinear") > 0
        sure, kinds = outputs.logits.cpu().softmax(-1)[..., :-1].max(-1)
        total = 0.0
        for ours, best, kind, truth in zip(maps, sure.argmax(-1), kinds, batch["labels"], strict=True):
            mask, true = ours[best], truth["masks"][0] > 0
            right = kind[best] == truth["class_labels"][0]
            total += float(right * (mask & true).sum() / (mask | true).sum())
        return {"eval_mask_iou": total / len(held_out)}

    trainer = Trainer(
        model=model,
        args=arguments(given, remove_unused_columns=False, per_device_train_batch_size=16),
        train_dataset=read("segmentation train", given.examples),
        data_collator=collate,
        processing_class=processor,
    )
    before = overlap()
    trainer.train()
    trainer.save_model()
    learned(before, overlap(), "mask_iou")


if __name__ == "__main__":
    main()
