"""A small CLIP learns from nothing which description belongs to which picture."""

from __future__ import annotations

import numpy as np
import torch
from common import arguments, options, tokenizer_of, trained
from pictures import drawn, scenes

from omniform import CLIPConfig, CLIPImageProcessor, CLIPModel, EvalPrediction, Trainer, set_seed

SIDE = 48


def described(scene) -> str:
    """What is to be said of a scene of one shape."""
    item = scene.items[0]
    return f"a {item.size} {item.colour} {item.shape} on a {scene.background} background"


def main() -> None:
    given = options(__doc__, steps=300, examples=2000, held_out=300)
    set_seed(1)
    block = min(50, given.held_out)
    train, held_out = scenes("clip train", given.examples), scenes("clip eval", given.held_out)
    tokenizer = tokenizer_of((described(scene) for scene in train), vocab_size=400)
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})

    def read(found: list) -> list[dict]:
        pixels = processor([drawn(scene, SIDE) for scene in found], return_tensors="pt")["pixel_values"]
        texts = [[*tokenizer(described(scene))["input_ids"], tokenizer.eos_token_id] for scene in found]
        return [{"pixel_values": p, "input_ids": t} for p, t in zip(pixels, texts, strict=True)]

    def collate(rows: list[dict]) -> dict:
        text = tokenizer.pad([{"input_ids": row["input_ids"]} for row in rows], return_tensors="pt")
        return {**text, "pixel_values": torch.stack([row["pixel_values"] for row in rows]), "return_loss": True}

    tower = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = CLIPConfig(
        projection_dim=64,
        text_config={
            **tower,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 32,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**tower, "image_size": SIDE, "patch_size": 8},
    )

    def retrieval(prediction: EvalPrediction) -> dict[str, float]:
        """How often the picture's own description is the best of its batch."""
        blocks = prediction.predictions[0].reshape(-1, block, block)
        right = [np.argmax(one, -1) == np.arange(block) for one in blocks]
        return {"recall_at_1": float(np.mean(right))}

    trainer = Trainer(
        model=CLIPModel(config),
        args=arguments(given, per_device_eval_batch_size=block),
        train_dataset=read(train),
        eval_dataset=read(held_out),
        data_collator=collate,
        processing_class=tokenizer,
        compute_metrics=retrieval,
    )
    trained(trainer, "recall_at_1")


if __name__ == "__main__":
    main()
