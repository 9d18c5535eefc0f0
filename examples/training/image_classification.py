"""A small ViT learns from nothing which colour a shape has, of any kind and size, on any background."""

from __future__ import annotations

import numpy as np
from common import arguments, options, trained
from pictures import COLOURS, drawn, scenes

from omniform import EvalPrediction, Trainer, ViTConfig, ViTForImageClassification, ViTImageProcessor, set_seed

SIDE, NAMES = 48, list(COLOURS)


def main() -> None:
    given = options(__doc__, steps=300, examples=2000, held_out=300)
    set_seed(1)
    processor = ViTImageProcessor(size={"height": SIDE, "width": SIDE})

    def read(title: str, count: int) -> list[dict]:
        found = scenes(title, count)
        pixels = processor([drawn(scene, SIDE) for scene in found], return_tensors="pt")["pixel_values"]
        labels = [NAMES.index(scene.items[0].colour) for scene in found]
        return [{"pixel_values": p, "labels": label} for p, label in zip(pixels, labels, strict=True)]

    config = ViTConfig(
        image_size=SIDE,
        patch_size=6,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=192,
        id2label=dict(enumerate(NAMES)),
        label2id={name: i for i, name in enumerate(NAMES)},
    )

    def accuracy(prediction: EvalPrediction) -> dict[str, float]:
        scores, labels = prediction
        return {"accuracy": float((np.argmax(scores, -1) == labels).mean())}

    trainer = Trainer(
        model=ViTForImageClassification(config),
        args=arguments(given),
        train_dataset=read("train", given.examples),
        eval_dataset=read("eval", given.held_out),
        processing_class=processor,
        compute_metrics=accuracy,
    )
    trained(trainer, "accuracy")


if __name__ == "__main__":
    main()
