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


def test_pages_that_a_donut_reads(tmp_path: Path) -> None:
    """It is asked in its own tokens, and what it wrote between its marks is the answer."""
    marks = ["<s_docvqa>", "<s_question>", "</s_question>", "<s_answer>", "</s_answer>"]
    words = ["<s>", "<pad>", "</s>", "<unk>", *QUESTIONS[0].split(), *QUESTIONS[1].split(), *WORDS]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.add_tokens(marks)
    encoder = {"model_type": "donut-swin", "image_size": [16, 16], "patch_size": 2, "embed_dim": 8, "depths": [1, 1],
               "num_heads": [2, 2], "window_size": 2}  # fmt: skip
    decoder = {"model_type": "mbart", "vocab_size": len(tokenizer), "d_model": 16, "encoder_layers": 1,
               "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 20}  # fmt: skip
    config = transformers.VisionEncoderDecoderConfig(
        encoder=encoder, decoder=decoder, pad_token_id=1, decoder_start_token_id=0, eos_token_id=2
    )
    model = saved_reference(transformers.VisionEncoderDecoderModel, config, tmp_path, scale=0.4)
    images = transformers.DonutImageProcessor(size={"height": 16, "width": 16})
    transformers.DonutProcessor(images, tokenizer).save_pretrained(tmp_path)
    end = tokenizer.convert_tokens_to_ids("</s_answer>")
    model.generation_config.update(max_new_tokens=6, forced_eos_token_id=end, decoder_start_token_id=0, pad_token_id=1)
    model.generation_config.save_pretrained(tmp_path)
    task = "document-question-answering"
    ours, theirs = omniform.pipeline(task, model=tmp_path), transformers.pipeline(task, model=str(tmp_path), device=-1)
    for n, question in enumerate(QUESTIONS):
        page = Image.fromarray(np.random.default_rng(n).integers(0, 256, (50, 40, 3), dtype=np.uint8))
        found = ours(page, question)
        assert found == theirs(page, question) and found[0]["answer"]
        assert ours(page, question, max_new_tokens=3, forced_eos_token_id=2) == [{"answer": None}]
