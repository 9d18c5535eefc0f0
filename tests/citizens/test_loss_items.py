"""What a loss is the mean over: it is the same however a step's batch is cut, and so are its gradients."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from citizens import (
    BART,
    CITIZENS,
    DETR,
    GROUPED,
    SEGFORMER,
    SPEECHT5,
    T5,
    TEXT,
    VISION,
    WHISPER,
    Citizen,
    Ended,
    Inputs,
    Pictures,
    ids,
    noise,
    registered,
)  # fmt: skip
from omniform.architectures.labels import IGNORED, Classes
from omniform.architectures.semantic import PixelTargets
from omniform.core.errors import InputError
from reference import close, omniform, randomise, transformers

LENGTH = 7
SPLITS = ((1, 2, 3), (4, 2))
ROWS = 6
CLASSES = {"num_labels": 3}
G = torch.Generator().manual_seed(5)


def some_left_out(classes: int) -> Tensor:
    """Classes of pixels; of the first picture there are fewest. Shape: [ROWS, 16, 16]."""
    labels = torch.randint(0, classes, (ROWS, 16, 16), generator=G)
    labels[0, 2:] = 255
    return labels


def masked(rows: int = ROWS) -> Tensor:
    """1 for real tokens, fewer and fewer of them."""
    return (torch.arange(LENGTH)[None] < LENGTH - torch.arange(rows)[:, None]).long()


def words(rows: int = ROWS) -> Tensor:
    """Labels of tokens, unevenly many left out."""
    labels = ids(rows, LENGTH)
    return labels.masked_fill(torch.rand(rows, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.4, IGNORED)


def text(**labels: object) -> Inputs:
    return {"input_ids": ids(ROWS, LENGTH), "attention_mask": masked(), **labels}


ROW_LABELS = torch.tensor([0, 1, IGNORED, 2, 1, IGNORED])
TOKEN_CLASSES = torch.where(words() == IGNORED, IGNORED, words() % 3)
SENTENCES = torch.tensor([0, 1, 1, IGNORED, 1, 0])
PLACES = {
    "start_positions": torch.tensor([0, 3, LENGTH, 2, 1, LENGTH]),
    "end_positions": torch.tensor([2, LENGTH, LENGTH, 5, 1, 3]),
}
BOXES = [
    {"class_labels": torch.arange(n) % 3, "boxes": torch.rand(n, 4, generator=G) * 0.4 + 0.3}
    for n in (1, 0, 3, 2, 1, 5)
]
PIXELS = {"pixel_values": noise(ROWS, 3, 8, 8)}
ENDED = Ended().inputs(ROWS, LENGTH)
PAIRS = torch.stack((ids(ROWS, LENGTH), ids(ROWS, LENGTH).flip(1)), 1)
SOUNDS = {"input_features": noise(ROWS, 6, 20)}
MANY = torch.rand(ROWS, 3, generator=G).round()

SAID = torch.arange(4) < torch.tensor([4, 2, 2, 4, 2, 4])[:, None]
SPOKEN = noise(ROWS, 4, 6).masked_fill(~SAID[..., None], -100)
NO_LUCK = {
    "hidden_dropout": 0.0, "positional_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
    "speech_decoder_postnet_dropout": 0.0,
}  # fmt: skip

HEADS: Mapping[str, tuple[Citizen, Inputs]] = {
    "next tokens": (CITIZENS["llama"], text(labels=words())),
    "of experts": (
        Citizen("mixtral", "MixtralForCausalLM", {**GROUPED, "num_local_experts": 4}), text(labels=words())),
    "of a recurrence": (CITIZENS["mamba"], {"input_ids": ids(ROWS, LENGTH), "labels": words()}),
    "the decoder of two": (CITIZENS["bart, decoder"], text(labels=words())),
    "masked tokens": (CITIZENS["bert"], text(labels=words())),
    "masked tokens, padding left out": (CITIZENS["modernbert"], text(labels=words())),
    "masked tokens of proteins": (CITIZENS["esm"], text(labels=words())),
    "an answer": (CITIZENS["t5"], {**ENDED, "labels": words()}),
    "an answer, BART": (CITIZENS["bart"], {"input_ids": ids(ROWS, LENGTH), "labels": words()}),
    "an answer to sounds": (CITIZENS["whisper"], {**SOUNDS, "labels": words()}),
    "speech, its ends and its order": (
        Citizen("speecht5", "SpeechT5ForTextToSpeech", {**SPEECHT5, **NO_LUCK}),
        {"input_ids": ids(ROWS, LENGTH), "attention_mask": masked(), "labels": SPOKEN}),
    "masks and the next sentence": (
        Citizen("bert", "BertForPreTraining", TEXT), text(labels=words(), next_sentence_label=SENTENCES)),
    "masks and the order": (
        Citizen("albert", "AlbertForPreTraining", {**TEXT, "embedding_size": 8}),
        text(labels=words(), sentence_order_label=SENTENCES)),
    "the next sentence": (Citizen("bert", "BertForNextSentencePrediction", TEXT), text(labels=SENTENCES)),
    "rows": (Citizen("bert", "BertForSequenceClassification", {**TEXT, **CLASSES}), text(labels=ROW_LABELS)),
    "rows, told last": (
        Citizen("llama", "LlamaForSequenceClassification", {**GROUPED, **CLASSES}), text(labels=ROW_LABELS)),
    "one number": (
        Citizen("bert", "BertForSequenceClassification", {**TEXT, "num_labels": 1}), text(labels=noise(ROWS))),
    "numbers": (
        Citizen("bert", "BertForSequenceClassification", {**TEXT, **CLASSES, "problem_type": "regression"}),
        text(labels=noise(ROWS, 3))),
    "many classes": (Citizen("bert", "BertForSequenceClassification", {**TEXT, **CLASSES}), text(labels=MANY)),
    "rows, some unknown": (
        Citizen("deberta-v2", "DebertaV2ForSequenceClassification", {**TEXT, **CLASSES}), text(labels=ROW_LABELS)),
    "shares": (
        Citizen("deberta-v2", "DebertaV2ForSequenceClassification", {**TEXT, **CLASSES}), text(labels=MANY)),
    "rows of two": (
        Citizen("bart", "BartForSequenceClassification", {**BART, "eos_token_id": 1, **CLASSES}),
        {**ENDED, "labels": ROW_LABELS}),
    "tokens": (Citizen("bert", "BertForTokenClassification", {**TEXT, **CLASSES}), text(labels=TOKEN_CLASSES)),
    "tokens, padding unseen": (
        Citizen("xlm-roberta-xl", "XLMRobertaXLForTokenClassification", {**TEXT, **CLASSES}),
        text(labels=TOKEN_CLASSES)),
    "tokens, padding left out": (
        Citizen("modernbert", "ModernBertForTokenClassification", {**TEXT, **CLASSES}), text(labels=TOKEN_CLASSES)),
    "places": (Citizen("bert", "BertForQuestionAnswering", TEXT), text(**PLACES)),
    "places, padding left out": (Citizen("modernbert", "ModernBertForQuestionAnswering", TEXT), text(**PLACES)),
    "places of two": (Citizen("t5", "T5ForQuestionAnswering", T5), {**ENDED, **PLACES}),
    "choices": (
        CITIZENS["bert, choices"], {"input_ids": PAIRS, "labels": torch.tensor([0, 1, IGNORED, 1, 1, 0])}),
    "replaced tokens": (
        Citizen("electra", "ElectraForPreTraining", {**TEXT, "embedding_size": 12}),
        text(labels=(words() == IGNORED).long())),
    "two heads": (CITIZENS["gpt2, two heads"], text(labels=words())),
    "pictures": (Citizen("vit", "ViTForImageClassification", {**VISION, **CLASSES}), {**PIXELS, "labels": ROW_LABELS}),
    "hidden patches": (
        Citizen("vit", "ViTForMaskedImageModeling", {**VISION, "encoder_stride": 4}),
        {**PIXELS, "bool_masked_pos": torch.rand(ROWS, 4, generator=G) < 0.5}),
    "pixels": (Citizen("segformer", "SegformerForSemanticSegmentation", {**SEGFORMER, **CLASSES}),
        {"pixel_values": noise(ROWS, 3, 16, 16), "labels": some_left_out(3)}),
    "pixels of one class": (Citizen("segformer", "SegformerForSemanticSegmentation", {**SEGFORMER, "num_labels": 1}),
        {"pixel_values": noise(ROWS, 3, 16, 16), "labels": some_left_out(2)}),
    "sounds": (Citizen("whisper", "WhisperForAudioClassification", {**WHISPER, **CLASSES}),
        {**SOUNDS, "labels": ROW_LABELS}),
    "boxes": (Citizen("detr", "DetrForObjectDetection", {**DETR, "num_labels": 3, "num_queries": 5}),
        {"pixel_values": noise(ROWS, 3, 16, 16), "labels": BOXES}),
    "boxes, every layer": (
        Citizen("detr", "DetrForObjectDetection", {
            **DETR, "num_labels": 3, "num_queries": 4, "auxiliary_loss": True, "decoder_layers": 2}, Pictures()),
        {"pixel_values": noise(ROWS, 3, 16, 16), "labels": BOXES}),
}  # fmt: skip


def built(citizen: Citizen) -> nn.Module:
    """In training mode, without dropout."""
    model = randomise(citizen.build(), scale=0.2).train()
    for module in model.modules():
        vars(module).update(dict.fromkeys(vars(module).keys() & {"dropout", "p", "layerdrop"}, 0.0))
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


def cut(inputs: Inputs, first: int, stop: int) -> Inputs:
    return {name: value[first:stop] for name, value in inputs.items()}


def learned(model: nn.Module) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("name", HEADS)
def test_losses_of_pieces_add_up(name):
    citizen, inputs = HEADS[name]
    model = built(citizen)
    assert "num_items_in_batch" in model.accepts()
    whole = model.loss_items(inputs)
    loss = model(**inputs, num_items_in_batch=whole).loss
    loss.backward()
    expected = learned(model)
    assert expected
    alone = model(**inputs).loss.detach()
    if not name.startswith("places"):  # where an answer's ends are left out unevenly, there are two means
        close(loss.detach(), alone, "the mean as it is without a count", 1e-6)
    for sizes in SPLITS:
        first, total, counts = 0, torch.zeros(()), []
        for size in sizes:
            piece = cut(inputs, first, first + size)
            counts.append(model.loss_items(piece))
            part = model(**piece, num_items_in_batch=whole).loss
            part.backward()
            total, first = total + part.detach(), first + size
        assert torch.allclose(sum(torch.as_tensor(c).float() for c in counts), torch.as_tensor(whole).float())
        close(total, loss.detach(), f"{sizes}", 1e-6)
        found = learned(model)
        assert found.keys() == expected.keys()
        for path in expected:
            close(found[path], expected[path], f"{sizes}: {path}", 2e-6)


def test_a_piece_in_which_nothing_is_scored_adds_nothing():
    model, nothing = built(CITIZENS["llama"]), torch.full((2, LENGTH), IGNORED)
    loss = model(input_ids=ids(2, LENGTH), labels=nothing, num_items_in_batch=9).loss
    assert float(loss.detach()) == 0
    loss = model(input_ids=ids(2, LENGTH), labels=nothing, num_items_in_batch=torch.tensor(0)).loss
    loss.backward()
    assert float(loss.detach()) == 0 and all(not p.grad.isnan().any() for p in model.parameters() if p.grad is not None)


def test_one_count_where_two_are_asked_for_weighs_both_alike():
    citizen, inputs = HEADS["masks and the next sentence"]
    model = built(citizen)
    tokens, rows = model.loss_items(inputs).tolist()
    assert (tokens, rows) == (int((words() != IGNORED).sum()), 5)
    close(model(**inputs, num_items_in_batch=2 * tokens).loss, model(**inputs).loss / 2, "half", 1e-6)


def test_losses_that_do_not_divide_have_no_count():
    clip = CITIZENS["clip"]
    assert clip.build().loss_items({**clip.asks.taught(clip.asks.inputs())}) is None
    assert CITIZENS["llama"].build().loss_items({"input_ids": ids(1, 3)}) is None
    assert CITIZENS["clip, text"].build().loss_items({"labels": ids(1, 3)}) is None


def test_every_family_with_a_loss_counts_it():
    for name, citizen in registered().items():
        model = citizen.build()
        taught = citizen.asks.taught(citizen.asks.inputs())
        if "labels" in taught and "labels" in model.accepts():
            assert model.loss_items(taught) is not None, name
            assert "num_items_in_batch" in model.accepts(), name


def test_a_model_of_the_users_own_is_counted_by_its_name():
    class OwnForTokenClassification(omniform.PreTrainedModel):
        config_class = omniform.BertConfig

        def __init__(self, config):
            super().__init__(config)
            self.table = nn.Embedding(10, 4)

    class OwnForCausalLM(OwnForTokenClassification):
        pass

    labels = torch.tensor([[1, IGNORED, 3], [4, 5, 6]])
    config = omniform.BertConfig(vocab_size=10)
    assert int(OwnForTokenClassification(config).loss_items({"labels": labels})) == 5
    assert int(OwnForCausalLM(config).loss_items({"labels": labels})) == 3


def test_the_references_own_count_gives_its_loss():
    torch.manual_seed(0)
    theirs = randomise(transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED)), scale=0.3).eval()
    ours = CITIZENS["llama"].build()
    ours.load_state_dict(theirs.state_dict())
    inputs = text(labels=words())
    for count in (7, torch.tensor(31)):
        close(ours(**inputs, num_items_in_batch=count).loss, theirs(**inputs, num_items_in_batch=count).loss, "loss")


def wrong(value: int, labels: Tensor) -> tuple[Tensor, str]:
    """Labels with one that cannot be, in the middle, and where that is."""
    labels = labels.clone()
    place = (2, 3)[: labels.dim()]
    labels[place] = value
    return labels, ", ".join(f"{axis} {i}" for axis, i in zip(("row", "position"), place, strict=False))


CLASSED = {
    name: [label for label, value in inputs.items() if "label" in label and isinstance(value, Tensor)]
    for name, (_, inputs) in HEADS.items()
}
CLASSED = {
    name: labels
    for name, labels in CLASSED.items()
    # Negative numbers leave a pixel out of one class.
    if labels
    and name not in ("replaced tokens", "shares", "pixels of one class")
    and not HEADS[name][1][labels[0]].is_floating_point()
}


@pytest.mark.parametrize("name", CLASSED)
def test_labels_that_are_no_classes_are_named_before_anything_is_computed(name):
    citizen, inputs = HEADS[name]
    model = citizen.build()
    model.forward = None  # nothing comes as far as that
    for label in CLASSED[name]:
        rule = model.targets()[label]
        graded = name == "rows, some unknown"  # negative ones leave rows out there
        count = 3 if graded or name in ("rows", "rows, told last", "rows of two", "pictures") else rule_count(rule)
        for value in (count, 10**6, *(() if graded else (-1, -101))):
            labels, place = wrong(value, inputs[label])
            with pytest.raises(InputError) as error:
                model(**{**inputs, label: labels})
            said = str(error.value)
            assert f"{label}, {place}" in said and str(value) in said and f"{count - 1}" in said, said
        for dtype in () if "rows" in name or name == "pictures" else (torch.float32, torch.bool):
            with pytest.raises(InputError, match=label):
                model(**{**inputs, label: inputs[label].to(dtype)})


def rule_count(rule: object) -> int:
    rule = rule.loss.targets() if isinstance(rule, PixelTargets) else rule
    return rule.count if isinstance(rule, Classes) else 2  # choices, of which there are two


def test_places_and_boxes_that_cannot_be_are_refused():
    citizen, inputs = HEADS["places"]
    with pytest.raises(InputError, match="start_positions, row 2"):
        citizen.build()(**{**inputs, "start_positions": wrong(-1, inputs["start_positions"])[0]})
    citizen, inputs = HEADS["boxes"]
    labels = [dict(target) for target in inputs["labels"]]
    labels[3]["class_labels"] = torch.tensor([0, 3])
    with pytest.raises(InputError, match=r"labels\[3\]"):
        citizen.build()(**{**inputs, "labels": labels})
