"""The bundled LLaVA learns to answer a question it was never asked: which colours, from left to right?"""

from __future__ import annotations

from itertools import pairwise

import torch
from common import arguments, learned, options
from pictures import Scene, drawn, scenes

from omniform import (
    AutoModelForImageTextToText,
    AutoProcessor,
    DataCollatorForMultimodal,
    Trainer,
    bundled_checkpoint,
    set_seed,
)

SIDE = 96
QUESTION = "Colors of the objects from left to right?"


def answer(scene: Scene) -> str:
    """As "red, blue"."""
    return ", ".join(item.colour for item in sorted(scene.items, key=lambda item: item.x))


def asked() -> list[dict]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]


def apart(scene: Scene) -> bool:
    """Whether no two objects stand one above the other."""
    places = sorted(item.x for item in scene.items)
    return len(places) > 1 and all(b - a > 0.12 for a, b in pairwise(places))


def read(title: str, count: int) -> list[dict]:
    """Pictures of two or three objects, asked about and answered."""
    found = [scene for scene in scenes(title, 4 * count, items=3) if apart(scene)][:count]
    return [
        {
            "images": drawn(scene, SIDE),
            "messages": [*asked(), {"role": "assistant", "content": answer(scene)}],
            "answer": answer(scene),
        }
        for scene in found
    ]


def main() -> None:
    given = options(__doc__, steps=200, examples=1500, held_out=100)
    set_seed(1)
    processor = AutoProcessor.from_pretrained(bundled_checkpoint())
    model = AutoModelForImageTextToText.from_pretrained(bundled_checkpoint())
    model.model.vision_tower.requires_grad_(False)  # it sees colours and places already
    held_out = read("llava eval", given.held_out)
    question = processor.apply_chat_template(asked(), add_generation_prompt=True)

    @torch.no_grad()
    def exact() -> dict[str, float]:
        """How many answers are right, every colour in its place."""
        model.eval()
        pictures = [row["images"] for row in held_out]
        inputs = processor(images=pictures, text=[question] * len(held_out), return_tensors="pt").to(model.device)
        written = model.generate(**inputs, max_new_tokens=16, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        texts = [text.strip() for text in processor.batch_decode(written, skip_special_tokens=True)]
        print(f'"{QUESTION}" is answered "{texts[1]}"; true is "{held_out[1]["answer"]}"')
        return {"eval_exact": sum(t == row["answer"] for t, row in zip(texts, held_out, strict=True)) / len(texts)}

    trainer = Trainer(
        model=model,
        args=arguments(given, remove_unused_columns=False, per_device_train_batch_size=16, learning_rate=3e-4),
        train_dataset=read("llava train", given.examples),
        data_collator=DataCollatorForMultimodal(processor),
        processing_class=processor,
    )
    before = exact()
    trainer.train()
    trainer.save_model()
    learned(before, exact(), "exact")


if __name__ == "__main__":
    main()
