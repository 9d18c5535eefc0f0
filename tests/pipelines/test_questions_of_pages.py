"""document-question-answering beside the reference's pipeline, on a tiny LayoutLM v3."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from omniform.core.errors import InputError, UnknownArgumentError
from reference import omniform, saved_reference, transformers

WORDS = "invoice number us 001 total due 42 euros paid by anna in berlin on monday thanks for it".split()  # noqa: SIM905
BOXES = [[10 * n, 20 * n, 10 * n + 40, 20 * n + 15] for n in range(len(WORDS))]
PAGE = [*zip(WORDS, BOXES, strict=True)]
QUESTIONS = ["what is the total?", "who paid?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("layoutlmv3")
    letters = sorted(set("".join(WORDS) + "whatisthetotal?whopaid") | {"\u0120"})
    vocabulary = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True)
    (found / "vocab.json").write_text(json.dumps(vocabulary))
    (found / "merges.txt").write_text("#version: 0.2\n")
    transformers.LayoutLMv3TokenizerFast(
        vocab=vocabulary, merges=[], model_max_length=96, unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(found)
    config = transformers.LayoutLMv3Config(
        vocab_size=len(vocabulary), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=140, coordinate_size=4, shape_size=4, input_size=32, patch_size=16,
        max_2d_position_embeddings=1024,
    )  # fmt: skip
    saved_reference(transformers.LayoutLMv3ForQuestionAnswering, config, found, scale=0.3)
    transformers.LayoutLMv3ImageProcessor(apply_ocr=False, size={"height": 32, "width": 32}).save_pretrained(found)
    return found


@pytest.fixture(scope="module")
def pipes(folder: Path):
    task = "document-question-answering"
    return omniform.pipeline(task, model=folder), transformers.pipeline(task, model=str(folder), device="cpu")


def close(found: object, expected: object) -> None:
    assert isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, list):
            close(one, other)
        else:
            assert {k: v for k, v in one.items() if k != "score"} == {k: v for k, v in other.items() if k != "score"}
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{}, {"top_k": 3}, {"max_seq_len": 60, "doc_stride": 9, "top_k": 4}, {"max_answer_len": 3},
     {"handle_impossible_answer": True, "top_k": 2}],
)  # fmt: skip
def test_words_that_come_with_the_page(pipes, settings) -> None:
    """Words alone: the reference's pipeline hands a page's picture over under a name that this model has not."""
    ours, theirs = pipes
    for question in QUESTIONS:
        asked = {"question": question, "word_boxes": PAGE, "image": None}
        close(ours(**asked, **settings), theirs(asked, **settings))
    several = [{"question": question, "word_boxes": PAGE, "image": None} for question in QUESTIONS]
    close(ours(several, **settings), theirs(several, **settings))


def test_the_picture_is_looked_at(pipes, folder: Path) -> None:
    ours, _ = pipes
    page = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8))
    whole = {"word_boxes": PAGE, "top_k": 2, "max_seq_len": 130}
    found = ours(page, QUESTIONS[0], **whole)
    assert found != ours(None, QUESTIONS[0], **whole)
    model = transformers.LayoutLMv3ForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer([QUESTIONS[0]], [WORDS], boxes=[BOXES], return_tensors="pt")
    pixels = transformers.AutoImageProcessor.from_pretrained(folder)(page, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = model(**batch, pixel_values=pixels)
    which = torch.tensor([one == 1 for one in batch.sequence_ids(0)])
    which[0] = True
    logits = (output.start_logits, output.end_logits)
    shares = [x[0, : len(which)].masked_fill(~which, -1e9).softmax(-1) for x in logits]
    which[0] = False
    pairs = (shares[0][:, None] * shares[1][None]).triu().tril(14) * which[:, None] * which[None]
    first, last = divmod(int(pairs.argmax()), pairs.shape[1])
    places = batch.word_ids(0)
    assert (found[0]["start"], found[0]["end"]) == (places[first], places[last])
    assert found[0]["score"] == pytest.approx(float(pairs.max()), abs=1e-5)


def test_bad_calls(pipes) -> None:
    ours, _ = pipes
    for args, settings, error, said in (
        ((None, None), {}, InputError, "no question"),
        ((None, "what?"), {}, InputError, "neither a page nor its words"),
        ((None, "what?", PAGE), {"topk": 2}, UnknownArgumentError, "top_k"),
        ((None, "what?", PAGE), {"top_k": 0}, InputError, "top_k"),
    ):
        with pytest.raises(error, match=said):
            ours(*args, **settings)
