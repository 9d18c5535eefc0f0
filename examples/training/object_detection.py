"""A small DETR learns from nothing where the shape in a picture is and which colour it has."""

from __future__ import annotations

import torch
from common import arguments, learned, options
from pictures import COLOURS, boxes, drawn, scenes

from omniform import DetrConfig, DetrForObjectDetection, DetrImageProcessor, Trainer, set_seed

SIDE, NAMES = 48, list(COLOURS)
RESNET = {
    "model_type": "resnet",
    "num_channels": 5,
    "embedding_size": 24,
    "hidden_sizes": [24, 48],
    "depths": [1, 1],
    "layer_type": "basic",
    "out_features": ["stage2"],
}


def overlap(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    low, high = torch.maximum(ours[:2], theirs[:2]), torch.minimum(ours[2:], theirs[2:])
    shared = (high - low).clamp(min=0).prod()
    return float(shared / ((ours[2:] - ours[:2]).prod() + (theirs[2:] - theirs[:2]).prod() - shared))


def main() -> None:
    given = options(__doc__, steps=500, examples=2000, held_out=200)
    set_seed(1)
    processor = DetrImageProcessor(size={"height": SIDE, "width": SIDE}, do_pad=False)

    def read(title: str, count: int) -> list[dict]:
        found = scenes(title, count)
        notes = [
            {
                "image_id": i,
                "annotations": [
                    {"bbox": box, "category_id": NAMES.index(item.colour), "area": box[2] * box[3], "iscrowd": 0}
                    for box, item in zip(boxes(scene, SIDE), scene.items, strict=True)
                ],
            }
            for i, scene in enumerate(found)
        ]
        made = processor([drawn(scene, SIDE) for scene in found], annotations=notes, return_tensors="pt")
        return [
            {"pixel_values": p, "labels": label} for p, label in zip(made["pixel_values"], made["labels"], strict=True)
        ]

    # Two channels tell every pixel where it is (CoordConv: R. Liu et al., 2018): DETR is slow to find that out itself.
    places = torch.stack(torch.meshgrid(2 * [torch.linspace(-1, 1, SIDE)], indexing="ij"))

    def collate(rows: list[dict]) -> dict:
        return {
            "pixel_values": torch.stack([torch.cat([row["pixel_values"], places]) for row in rows]),
            "labels": [dict(row["labels"]) for row in rows],
        }

    config = DetrConfig(
        backbone_config=RESNET,
        use_timm_backbone=False,
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        num_queries=2,
        dropout=0.0,
        id2label=dict(enumerate(NAMES)),
        label2id={name: i for i, name in enumerate(NAMES)},
    )
    model = DetrForObjectDetection(config)
    held_out = read("detection eval", given.held_out)

    @torch.no_grad()
    def overlaps() -> dict[str, float]:
        """Mean overlap of the surest box of each picture with the true one; none counts if the colour is wrong."""
        model.eval()
        batch = collate(held_out)
        outputs = model(pixel_values=batch["pixel_values"].to(model.device))
        sizes = torch.tensor([[SIDE, SIDE]] * len(held_out))
        found = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
        total = 0.0
        for one, label in zip(found, batch["labels"], strict=True):
            best = int(one["scores"].argmax())
            x, y, w, h = (label["boxes"][0] * SIDE).tolist()
            true = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
            if int(one["labels"][best]) == int(label["class_labels"][0]):
                total += overlap(one["boxes"][best].cpu(), true)
        return {"eval_iou": total / len(found)}

    trainer = Trainer(
        model=model,
        args=arguments(given, remove_unused_columns=False, learning_rate=7e-4),
        train_dataset=read("detection train", given.examples),
        data_collator=collate,
        processing_class=processor,
    )
    before = overlaps()
    trainer.train()
    trainer.save_model()
    learned(before, overlaps(), "iou")


if __name__ == "__main__":
    main()
