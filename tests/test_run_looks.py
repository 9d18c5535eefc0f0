"""``omniform run --image FILE --text QUESTION --save DRAWING``: where the bundled model looked for each word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omniform.cli import main
from omniform.core.errors import InputError
from omniform.engine.ask import Answer, ask
from omniform.engine.looking import looks
from reference import omniform

SCENE = "examples/pictures/scene.png"


def test_words_are_drawn_with_what_was_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "looks.png"
    asked = ["run", "-i", SCENE, "-t", "Describe the picture.", "--max-new-tokens", "6", "--save", str(place)]
    assert main.main(asked) == 0
    assert "orange" in capsys.readouterr().out
    with Image.open(place) as drawing:
        assert drawing.width > 400 and drawing.height > 200
    for wrong, told in (
        ([*asked[:3], "-i", SCENE, *asked[3:]], "one picture"),
        ([*asked[:-1], str(tmp_path / "looks.txt")], ".png"),
    ):
        assert main.main(wrong) == 2
        assert told in capsys.readouterr().err


def test_the_weights_are_those_of_the_forward() -> None:
    """Each word's map: the rows of the attention, averaged; and a red star is looked at where it stands."""
    folder = omniform.bundled_checkpoint()
    model = omniform.AutoModelForImageTextToText.from_pretrained(folder)
    reader = omniform.AutoProcessor.from_pretrained(folder)
    answer = Answer()
    text = "".join(
        ask(model, reader, answer, text="Describe the picture.", images=[SCENE], settings={"max_new_tokens": 40})
    )
    found = looks(model, reader, answer.inputs, answer.token_ids, shape=(1, 1))
    assert [look.word for look in found] == text.split()
    ids = answer.inputs["input_ids"]
    whole = torch.cat((ids, torch.tensor([answer.token_ids])), 1)
    with torch.no_grad():
        weights = model(
            input_ids=whole, pixel_values=answer.inputs["pixel_values"], output_attentions=True
        ).attentions  # fmt: skip
    mean = torch.stack([layer[0].mean(0) for layer in weights]).mean(0)
    places = (ids[0] == model.config.get("image_token_index")).nonzero().flatten()
    first = mean[ids.shape[1] - 1, places].numpy()
    assert np.allclose(found[0].weights.reshape(-1), first, atol=1e-6)
    star = next(look for look in found if look.word == "star")
    side = star.weights.shape[0]
    row, column = np.unravel_index(star.weights.argmax(), star.weights.shape)
    assert 0.25 * side < row < 0.75 * side and 0.15 * side < column < 0.6 * side


def test_models_that_do_not_show_it_say_so() -> None:
    folder = omniform.bundled_checkpoint()
    model = omniform.AutoModelForImageTextToText.from_pretrained(folder)
    reader = omniform.AutoProcessor.from_pretrained(folder)
    batch = reader(text="hello", return_tensors="pt")
    with pytest.raises(InputError, match="one picture"):
        looks(model, reader, dict(batch), [5], shape=(1, 1))
