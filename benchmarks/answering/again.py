"""How soon a second question about the same picture is answered: what decoder and encoder made is kept."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from turns import Contest

GOAL = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seer:
    """A model that is asked twice about a picture.

    Attributes:
        text, vision: its parts' configs.
        patches: how many placeholders a picture has.
    """

    text: Mapping[str, object]
    vision: Mapping[str, object]
    patches: int


TEXT: Mapping[str, object] = {
    "vocab_size": 32064, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12,
    "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 2048,
}  # fmt: skip
SEERS: Mapping[str, Seer] = {
    "LLaVA on CLIP ViT-L/14 at 336": Seer(
        text=TEXT,
        vision={
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
            "image_size": 336, "patch_size": 14, "projection_dim": 768,
        },
        patches=576,
    ),
    "LLaVA on CLIP ViT-B/32": Seer(text=TEXT, vision={"projection_dim": 512}, patches=49),
}  # fmt: skip
TINY = Seer(
    text={
        "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2,
    },
    vision={
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8, "projection_dim": 8,
    },
    patches=16,
)  # fmt: skip


def again(only: tuple[str, ...], runs: int, tiny: bool) -> dict[str, Contest]:
    """Seconds until the first token: of a second question about a picture, and of the first one."""
    import omniform

    found: dict[str, Contest] = {}
    for name in only or SEERS:
        seer = TINY if tiny else SEERS[name]
        model = _model(omniform, seer)
        image = int(model.config.get("image_token_index"))
        before, after = [1, *range(3, 30)], [[*range(30, 50)], [*range(31, 46)]]
        edge = int(seer.vision.get("image_size", 224))
        first, second = [], []
        for run in range(runs + 1):
            torch.manual_seed(run)
            engine = omniform.Engine(model)
            picture = torch.rand(1, 3, edge, edge)
            for question, taken in zip(after, (first, second), strict=True):
                ids = torch.tensor([[*before, *[image] * seer.patches, *question]])
                start = time.perf_counter()
                engine.generate({"input_ids": ids, "pixel_values": picture}, max_new_tokens=1, min_new_tokens=1)
                if run:
                    taken.append(time.perf_counter() - start)
            hits = engine.stats().encoder_hits
        found[name] = Contest(
            {"second question": second, "first question": first}, {"first question": GOAL}, {"hits": hits}
        )
        print(name, found[name].medians, found[name].ratios, file=sys.stderr, flush=True)
    return found


def _model(omniform, seer: Seer):
    import transformers

    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**seer.text),
        vision_config=transformers.CLIPVisionConfig(**seer.vision),
        image_token_index=int(seer.text["vocab_size"]) - 1,
    )
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        made = omniform.AutoConfig.from_pretrained(Path(folder))
        return omniform.AutoModelForImageTextToText.from_config(made).eval()
