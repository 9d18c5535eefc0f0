"""Adapters for pictures and for sounds: each row of a batch is computed with the one for what it holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "parity"))
from test_phi4_multimodal import AUDIO, IMAGE, Media, config

from omniform.engine.engine import Engine
from reference import omniform, padded, saved_reference, transformers

# isort: split
import peft  # after the reference, whose torchvision is made importable there

pytestmark = pytest.mark.filterwarnings("ignore")
TARGETS = r".*model\.layers\..*(qkv_proj|o_proj|gate_up_proj|down_proj)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint as it is published: the model, and its adapters in folders beside it."""
    home = tmp_path_factory.mktemp("phi4")
    saved_reference(transformers.Phi4MultimodalForCausalLM, config(), home, scale=0.3)
    for number, name in enumerate(("vision", "speech")):
        base = transformers.AutoModelForCausalLM.from_pretrained(home)
        made = peft.get_peft_model(base, peft.LoraConfig(r=2 + number, lora_alpha=8, target_modules=TARGETS))
        torch.manual_seed(number)
        for key, parameter in made.named_parameters():
            if "lora_" in key:
                parameter.data.normal_(0, 0.6)
        made.save_pretrained(home / f"{name}-lora")
    return home


def rows():
    """A picture, a sound, text, and a sound beside a picture: ids, what they hold, and whose they are."""
    media = Media()
    picture, other = media.picture(1, 2, 4, 0), media.picture(1, 1, 4, 1)
    sounds, counts = media.sounds(26)
    lone = {name: x for name, x in sounds.items() if name != "audio_attention_mask"}
    return [
        ([1, 7, *[IMAGE] * picture[3], 9, 11], media.pictures(picture), "vision"),
        ([1, 5, *[AUDIO] * counts[0], 6], lone, "speech"),
        ([1, 31, 32, 33], {}, None),
        ([1, *[IMAGE] * other[3], 8, *[AUDIO] * counts[0], 6], {**media.pictures(other), **lone}, "vision"),
    ]


def expected(folder, ids, given, name):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    theirs.set_attn_implementation("eager")
    if name is not None:
        theirs = peft.PeftModel.from_pretrained(theirs, folder / f"{name}-lora").eval()
    prompt = torch.tensor([ids])
    written = theirs.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), **given, max_new_tokens=6, do_sample=False
    )
    return written[0, len(ids) :].tolist()


def loaded(folder):
    model = omniform.AutoModelForCausalLM.from_pretrained(folder)
    model.load_adapter(folder, adapter_name="speech", adapter_kwargs={"subfolder": "speech-lora"})
    model.load_adapter(folder, adapter_name="vision", adapter_kwargs={"subfolder": "vision-lora"})
    return model


def together():
    asked = rows()
    ids, mask = padded([torch.tensor(row) for row, _, _ in asked], side="left")
    names = {name for _, given, _ in asked for name in given}
    media = {name: torch.cat([given[name] for _, given, _ in asked if name in given]) for name in names}
    return {"input_ids": ids, "attention_mask": mask, **media}


def test_rows_of_all_kinds_in_one_batch(folder):
    wanted = [expected(folder, *row) for row in rows()]
    model = loaded(folder)
    written = model.generate(**together(), max_new_tokens=6)[:, -6:].tolist()
    for row, (mine, other) in enumerate(zip(written, wanted, strict=True)):
        assert mine[: len(other)] == other and not any(mine[len(other) :]), row
    engine = Engine(model, memory="8MB")
    for (ids, given, _), other in zip(rows(), wanted, strict=True):
        answer = engine.generate({"input_ids": torch.tensor([ids]), **given}, max_new_tokens=6)
        assert list(answer.tokens)[: len(other)] == other


def test_what_the_user_chose_counts_for_all(folder):
    model = loaded(folder)
    model.set_adapter("speech")
    ids, given, _ = rows()[2]
    written = model.generate(torch.tensor([ids]), **given, max_new_tokens=6)[0, len(ids) :].tolist()
    assert written == expected(folder, ids, given, "speech")
