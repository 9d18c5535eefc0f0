"""The processor-driven collator: labels on answers alone, and batches that the reference's processors make too."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import omniform
from checkpoints import IMAGE, picture_checkpoint, text_checkpoint
from inputs.test_tokenizers_folders import clip, whisper
from omniform.core.errors import InputError
from omniform.train.collators import ChatAnswers, ImageClasses, ImageObjects, ImageTextPairs, Task, Transcripts
from reference import transformers

PICTURES = [
    Image.fromarray(np.random.default_rng(n).integers(0, 256, (20 + 4 * n, 24, 3), dtype=np.uint8)) for n in range(3)
]
BODY = (
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
)
HEAD = "<s>{% for m in messages %}[{{ m['role'] }}]{% if m['role'] == 'assistant' %}"
TAIL = "{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
PLAIN = f"{HEAD}{BODY}</s>{{% else %}}{BODY}|{TAIL}"
MARKED = f"{HEAD}{{% generation %}}{BODY}</s>{{% endgeneration %}}{{% else %}}{BODY}|{TAIL}"
# Asks for an answer in other words than it reports one in.
OTHER = f"{HEAD} {BODY}~{{% else %}}{BODY}|{TAIL.replace('[assistant]', '[assistant: now]')}"


def said(role: str, text: str, pictures: int = 0) -> dict:
    if not pictures:
        return {"role": role, "content": text}
    return {"role": role, "content": [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": text}]}


TALKS = [
    [said("user", "what?", 1), said("assistant", "a red cat"), said("user", "sure?"), said("assistant", "yes")],
    [said("system", "be brief"), said("user", "and these", 2), said("assistant", "two")],
    [said("user", "yes"), said("assistant", "yes")],
]
ANSWERS = ["a red cat</s>yes</s>", "two</s>", "yes</s>"]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_checkpoint(tmp_path_factory.mktemp("llava"))


def talks() -> list[dict]:
    pictures = iter(PICTURES)
    counts = (1, 2, 0)
    return [{"messages": talk, "images": [next(pictures) for _ in range(count)]}
            for talk, count in zip(TALKS, counts, strict=True)]  # fmt: skip


@pytest.mark.parametrize("template", [PLAIN, MARKED], ids=["plain", "marked"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_answers_alone_are_learned(llava: Path, template: str, side: str) -> None:
    processor = omniform.AutoProcessor.from_pretrained(llava)
    processor.chat_template, processor.tokenizer.padding_side = template, side
    batch = omniform.DataCollatorForMultimodal(processor, pad_to_multiple_of=8)(talks())
    ids, labels = batch["input_ids"], batch["labels"]
    assert ids.shape == labels.shape and ids.shape[1] % 8 == 0 and batch["pixel_values"].shape[0] == 3
    for row, answer in enumerate(ANSWERS):
        learned = labels[row] != -100
        assert torch.equal(labels[row][learned], ids[row][learned])
        assert processor.decode(ids[row][learned]) == answer
    assert not (labels == IMAGE).any() and not (labels == 0).any()
    # Unlike row by row only in its padding; and the reference finds the same tokens where the template marks them.
    theirs = transformers.AutoProcessor.from_pretrained(llava)
    theirs.chat_template, theirs.tokenizer.padding_side = MARKED, side
    filled = ChatAnswers()
    given = [filled._with_images(row, row["messages"]) for row in talks()]
    expected = theirs.apply_chat_template(
        given, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt", padding=True,
        pad_to_multiple_of=8,
    )  # fmt: skip
    assert torch.equal(ids, expected["input_ids"]) and torch.equal(batch["attention_mask"], expected["attention_mask"])
    torch.testing.assert_close(batch["pixel_values"], expected["pixel_values"])
    model = omniform.AutoModelForImageTextToText.from_pretrained(llava).train()
    model(**batch).loss.backward()


def test_answers_in_other_words(llava: Path, tmp_path: Path) -> None:
    processor = omniform.AutoProcessor.from_pretrained(llava)
    processor.chat_template = OTHER
    batch = omniform.DataCollatorForMultimodal(processor)(talks())
    found = [processor.decode(row[row != -100]) for row in batch["labels"]]
    assert found == ["a red cat~yes~", "two~", "yes~"]
    whole = omniform.DataCollatorForMultimodal(processor, task=ChatAnswers(all_text=True))(talks())
    seen = whole["labels"] != -100
    assert torch.equal(seen, whole["attention_mask"].bool() & (whole["input_ids"] != IMAGE))
    # Texts alone, by a tokenizer alone; what is cut is not learned.
    tokenizer = omniform.AutoTokenizer.from_pretrained(text_checkpoint(tmp_path, chat=True))
    tokenizer.chat_template = PLAIN
    texts = [{"messages": TALKS[2]}, {"messages": [said("user", "hm"), said("assistant", "a long answer")]}]
    arrays = omniform.DataCollatorForMultimodal(tokenizer, max_length=25, return_tensors="np")(texts)
    assert isinstance(arrays["labels"], np.ndarray) and arrays["labels"].shape[1] == 25
    assert tokenizer.decode([n for n in arrays["labels"][1].tolist() if n != -100]) == "a lo"
    assert arrays["input_ids"][0].tolist().count(1) == 1  # the template wrote the beginning, nobody wrote another


def test_conversations_that_teach_nothing(llava: Path) -> None:
    processor = omniform.AutoProcessor.from_pretrained(llava)
    processor.chat_template = PLAIN
    collate = omniform.DataCollatorForMultimodal(processor)
    with pytest.raises(InputError, match=r"nobody answers.*assistant"):
        collate([{"messages": [said("user", "hello")]}])
    with pytest.raises(InputError, match=r"no 'messages'.*remove_unused_columns"):
        collate([{"text": "hello"}])
    with pytest.raises(InputError, match="placeholder"):
        collate([{"messages": TALKS[0], "images": []}])
    with pytest.raises(InputError, match="no example"):
        collate([])
    with pytest.raises(InputError, match="padding"):
        omniform.DataCollatorForMultimodal(processor, padding=False)
    with pytest.raises(InputError, match="CLIPProcessor"):
        omniform.DataCollatorForMultimodal(processor, task=ImageTextPairs())([{"image": 1, "text": "a"}])
    with pytest.raises(InputError, match="task="):
        omniform.DataCollatorForMultimodal(3)
    assert pickle.loads(pickle.dumps(collate))(talks())["labels"].shape[0] == 3


def test_pairs(tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip(tmp_path / "tokenizer"))
    sizes = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    theirs = transformers.CLIPProcessor(transformers.CLIPImageProcessor(**sizes), tokenizer)
    theirs.save_pretrained(tmp_path / "saved")
    mine = omniform.AutoProcessor.from_pretrained(tmp_path / "saved")
    texts = ["hello world", "the dog", "fox"]
    rows = [{"image": image, "text": text} for image, text in zip(PICTURES, texts, strict=True)]
    batch = omniform.DataCollatorForMultimodal(mine)(rows)
    expected = theirs(images=PICTURES, text=texts, return_tensors="pt", padding=True)
    assert batch.pop("return_loss") is True and {*batch} == {*expected}
    for name, value in expected.items():
        torch.testing.assert_close(batch[name], value)
    named = [{"picture": row["image"], "captions": [row["text"], "another"]} for row in rows]
    again = omniform.DataCollatorForMultimodal(mine, task=ImageTextPairs("picture", "captions"))(named)
    assert torch.equal(again["input_ids"], batch["input_ids"])


def test_transcripts(tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(whisper(tmp_path / "tokenizer"))
    theirs = transformers.WhisperProcessor(transformers.WhisperFeatureExtractor(chunk_length=1), tokenizer)
    theirs.tokenizer.pad_token = theirs.tokenizer.eos_token
    theirs.save_pretrained(tmp_path / "saved")
    mine = omniform.AutoProcessor.from_pretrained(tmp_path / "saved")
    waves = [np.random.default_rng(n).standard_normal(n).astype(np.float32) for n in (9000, 16000, 20000)]
    texts = ["hello world", "the quick brown fox", "dog"]
    rows = [{"audio": {"array": wave.tolist(), "sampling_rate": 16000, "path": None}, "text": text}
            for wave, text in zip(waves, texts, strict=True)]  # fmt: skip
    batch = omniform.DataCollatorForMultimodal(mine)(rows)
    # What the ecosystem's recipe for Whisper does.
    features = theirs.feature_extractor(waves, sampling_rate=16000, return_tensors="pt")
    padded = theirs.tokenizer.pad(
        [{"input_ids": theirs.tokenizer(text).input_ids} for text in texts], return_tensors="pt"
    )
    labels = padded["input_ids"].masked_fill(padded.attention_mask.ne(1), -100)
    assert (labels[:, 0] == theirs.tokenizer.convert_tokens_to_ids("<|startoftranscript|>")).all()
    assert torch.equal(batch["labels"], labels[:, 1:])
    torch.testing.assert_close(batch["input_features"], features["input_features"], rtol=0, atol=1e-4)
    fixed = omniform.DataCollatorForMultimodal(mine, max_length=6, padding="max_length", return_tensors="np")(rows)
    assert fixed["labels"].shape == (3, 6) and isinstance(fixed["input_features"], np.ndarray)
    with pytest.raises(InputError, match=r"'text', example 1"):
        omniform.DataCollatorForMultimodal(mine)([rows[0], {**rows[1], "text": None}])
    assert Transcripts().audio == "audio"


def test_letters_of_speech_are_learned(tmp_path: Path) -> None:
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"abc"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    theirs = transformers.Wav2Vec2Processor(
        transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True),
        transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json")),
    )
    theirs.save_pretrained(tmp_path)
    mine = omniform.AutoProcessor.from_pretrained(tmp_path)
    texts = ["abba", "c a", "b", "cab"]
    tones = dict(zip("abc |", (300, 900, 2100, 0, 0), strict=True))
    times = np.arange(800) / 16000
    waves = [np.concatenate([np.sin(2 * np.pi * tones[letter] * times) for letter in text]) for text in texts]
    rows = [{"audio": (wave.astype(np.float32), 16000), "text": text} for wave, text in zip(waves, texts, strict=True)]
    collate = omniform.DataCollatorForMultimodal(mine)
    batch = collate(rows)
    # What the ecosystem's recipe for CTC does.
    expected = theirs.pad([{"input_values": theirs(wave, sampling_rate=16000).input_values[0]} for wave in waves],
                          padding=True, return_tensors="pt")  # fmt: skip
    padded = theirs.pad(labels=[{"input_ids": theirs.tokenizer(text).input_ids} for text in texts], return_tensors="pt")
    torch.testing.assert_close(batch["input_values"], expected["input_values"], rtol=0, atol=1e-5)
    assert torch.equal(batch["attention_mask"].long(), expected["attention_mask"].long())
    assert torch.equal(batch["labels"], padded["input_ids"].masked_fill(padded["attention_mask"].ne(1), -100))
    torch.manual_seed(0)
    config = omniform.AutoConfig.for_model(
        "wav2vec2", vocab_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=[16, 16, 16], conv_stride=[5, 4, 4], conv_kernel=[10, 8, 4], num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, feat_extract_norm="layer", pad_token_id=0, ctc_loss_reduction="mean",
        apply_spec_augment=False, layerdrop=0.0, hidden_dropout=0.0, final_dropout=0.0, feat_proj_dropout=0.0,
        attention_dropout=0.0, activation_dropout=0.0,
    )  # fmt: skip
    model = omniform.AutoModelForCTC.from_config(config)
    arguments = omniform.TrainingArguments(
        tmp_path / "out", max_steps=150, per_device_train_batch_size=4, learning_rate=3e-3, save_strategy="no",
        report_to="none", disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    trainer = omniform.Trainer(model, arguments, train_dataset=rows, data_collator=collate)
    trainer.train()
    with torch.no_grad():
        steps = model.eval()(**{name: value for name, value in batch.items() if name != "labels"}).logits.argmax(-1)
    assert (
        mine.batch_decode(
            steps.where(model._get_feature_vector_attention_mask(steps.shape[1], batch["attention_mask"]), 0)
        )
        == texts
    )


def test_classes_of_pictures() -> None:
    sizes = {"size": {"height": 16, "width": 16}}
    mine = vit(sizes)
    rows = [{"image": picture, "label": n} for n, picture in enumerate(PICTURES)]
    collate = omniform.DataCollatorForMultimodal(mine)
    batch = collate(rows)
    assert batch["labels"].tolist() == [0, 1, 2] and batch["pixel_values"].shape == (3, 3, 16, 16)
    named = [{**row, "label": name} for row, name in zip(rows, ("cat", "dog", "cat"), strict=True)]
    task = ImageClasses(label2id={"cat": 4, "dog": 7})
    assert omniform.DataCollatorForMultimodal(mine, task=task)(named)["labels"].tolist() == [4, 7, 4]
    with pytest.raises(InputError, match=r"'label', example 0.*'cat'"):
        collate(named)
    assert "labels" not in collate([{"image": picture} for picture in PICTURES])


def vit(sizes: dict) -> object:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        transformers.ViTImageProcessor(**sizes).save_pretrained(folder)
        return omniform.AutoImageProcessor.from_pretrained(folder)


def test_objects_in_pictures(tmp_path: Path) -> None:
    theirs = transformers.DetrImageProcessor(size={"shortest_edge": 32, "longest_edge": 48})
    theirs.save_pretrained(tmp_path)
    mine = omniform.AutoImageProcessor.from_pretrained(tmp_path)
    boxes = [[[1.0, 2.0, 8.0, 9.0]], [[0.0, 0.0, 5.0, 6.0], [3.0, 3.0, 4.0, 4.0]], []]
    rows = [{"image": picture, "image_id": 7 + n, "objects": {"bbox": box, "category": [2, 1][: len(box)]}}
            for n, (picture, box) in enumerate(zip(PICTURES, boxes, strict=True))]  # fmt: skip
    task = ImageObjects()
    batch = omniform.DataCollatorForMultimodal(mine, task=task)(rows)
    made = lambda box, kind: {"bbox": box, "category_id": kind, "area": box[2] * box[3], "iscrowd": 0}
    annotations = [
        {"image_id": 7 + n, "annotations": [made(*pair) for pair in zip(box, (2, 1), strict=False)]}
        for n, box in enumerate(boxes)
    ]
    expected = theirs(PICTURES, annotations=annotations, return_tensors="pt")
    coco = [{"image": row["image"], "objects": target} for row, target in zip(rows, annotations, strict=True)]
    for found in (batch, omniform.DataCollatorForMultimodal(mine, task=task)(coco)):
        torch.testing.assert_close(found["pixel_values"], expected["pixel_values"], rtol=0, atol=1e-4)
        assert torch.equal(found["pixel_mask"], expected["pixel_mask"])
        for one, other in zip(found["labels"], expected["labels"], strict=True):
            for name in ("boxes", "class_labels", "image_id", "area"):
                torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=r"'objects', example 0.*equal length"):
        omniform.DataCollatorForMultimodal(mine, task=task)([{**rows[0], "objects": {"bbox": [[1, 2, 3, 4]]}}])


def test_a_task_of_ones_own(llava: Path) -> None:
    class Lengths(Task):
        def batch(self, processor, examples, lengths, kind):
            return {"x": torch.tensor([len(processor.tokenizer(row["text"])["input_ids"]) for row in examples])}

    collate = omniform.DataCollatorForMultimodal(omniform.AutoProcessor.from_pretrained(llava), task=Lengths())
    assert collate([{"text": "abc"}, {"text": "ab"}])["x"].tolist() == [3, 2]
