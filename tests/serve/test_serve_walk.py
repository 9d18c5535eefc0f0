"""Forms, sounds, pictures and addresses that nobody means: 2xx or 4xx in OpenAI's words, soon, and never a 500."""

from __future__ import annotations

import base64
import io
import json
import struct
import wave
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from serving import Served, serving

from checkpoints import TEXT, text_checkpoint, tokenizer
from omniform.hub.bundled import bundled_checkpoint
from omniform.serve.config import Limits, ModelSource
from omniform.serve.doors.embeddings import EmbeddingRequest
from omniform.serve.doors.pipelines import PipelineRequest
from omniform.serve.doors.ranking import ClassifyRequest, RerankRequest, ScoreRequest
from omniform.serve.doors.speech import SpeechRequest
from omniform.serve.doors.tokens import DetokenizeRequest, TokenizeRequest
from omniform.serve.response_wire import ResponseRequest
from omniform.serve.wire import Asked, ChatRequest, CompletionRequest
from reference import saved_reference, transformers

SECONDS = 20.0
"""In which any answer must have come."""

COMMAND = (Path(__file__).parents[2] / "examples" / "sounds" / "command.wav").read_bytes()


def bert(folder: Path, kind: str, **more: object) -> Path:
    named = {"bos_token_id", "eos_token_id", "num_hidden_layers"}
    given = {name: value for name, value in TEXT.items() if name not in named}
    config = transformers.BertConfig(**given, num_hidden_layers=1, **more)
    saved_reference(getattr(transformers, kind), config, folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("walk")
    places = {
        "writer": text_checkpoint(folder / "writer", chat=True),
        "plain": bert(folder / "plain", "BertModel"),
        "cross": bert(folder / "cross", "BertForSequenceClassification", num_labels=1),
        "moods": bert(folder / "moods", "BertForSequenceClassification", num_labels=3),
        "commands": bundled_checkpoint("audio"),
        "pictures": bundled_checkpoint("search"),
    }
    sources = tuple(ModelSource(name=name, source=str(place)) for name, place in places.items())
    limits = Limits(pixels=1 << 20)
    with serving(models=sources, preload=False, limits=limits) as server:
        yield server


@pytest.fixture(scope="module")
def raw(served: Served) -> Iterator[httpx.Client]:
    with served.raw() as client:
        yield client


def well(answer: httpx.Response, what: str) -> None:
    """An answer, or a refusal in OpenAI's words."""
    assert answer.elapsed.total_seconds() < SECONDS, what
    assert 200 <= answer.status_code < 500, (what, answer.status_code, answer.text[:400])
    assert "server_error" not in answer.text, (what, answer.text[:400])
    for secret in ("Traceback", "site-packages", "/work/", "/tmp/", 'File "'):
        assert secret not in answer.text, what
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"], what
        assert len(answer.content) < 4000, what


HELLO = [{"role": "user", "content": "hello"}]
DOORS: dict[str, tuple[str, type[Asked], dict[str, object]]] = {
    "chat": ("/v1/chat/completions", ChatRequest, {"model": "writer", "messages": HELLO, "max_tokens": 1}),
    "completions": ("/v1/completions", CompletionRequest, {"model": "writer", "prompt": "hello", "max_tokens": 1}),
    "responses": ("/v1/responses", ResponseRequest, {"model": "writer", "input": "hello", "max_output_tokens": 1}),
    "embeddings": ("/v1/embeddings", EmbeddingRequest, {"model": "plain", "input": "hello"}),
    "score": ("/score", ScoreRequest, {"model": "cross", "text_1": "a", "text_2": ["b", "c"]}),
    "rerank": ("/rerank", RerankRequest, {"model": "cross", "query": "a", "documents": ["b", {"text": "c"}]}),
    "classify": ("/v1/classify", ClassifyRequest, {"model": "moods", "input": "a"}),
    "tokenize": ("/tokenize", TokenizeRequest, {"model": "writer", "prompt": "hello"}),
    "tokenize a chat": ("/tokenize", TokenizeRequest, {"model": "writer", "messages": HELLO}),
    "detokenize": ("/detokenize", DetokenizeRequest, {"model": "writer", "tokens": [3, 4]}),
    "speech": ("/v1/audio/speech", SpeechRequest, {"model": "writer", "input": "hello"}),
    "writing": ("/pipelines/text-generation", PipelineRequest,
                {"model": "writer", "inputs": "hello", "parameters": {"max_new_tokens": 1}}),
    "moods": ("/pipelines/text-classification", PipelineRequest, {"model": "moods", "inputs": "hello"}),
    "vectors": ("/pipelines/feature-extraction", PipelineRequest, {"model": "plain", "inputs": "hello"}),
    "hearing": ("/pipelines/automatic-speech-recognition", PipelineRequest, {"model": "commands", "inputs": ""}),
    "seeing": ("/pipelines/zero-shot-image-classification", PipelineRequest,
               {"model": "pictures", "inputs": "", "parameters": {"candidate_labels": ["a"]}}),
}  # fmt: skip


LITERALS: dict[str, str] = {
    "null": "null", "true": "true", "zero": "0", "less": "-1", "minus zero": "-0", "minus zero point": "-0.0",
    "a fraction": "1.5", "very much": "1e308", "infinity": "1e999", "not a number": "NaN", "endless": "-Infinity",
    "long": "9" * 400, "2**63": str(2**63), "nothing": '""', "a letter": '"x"', "a NUL": '"a\\u0000b"',
    "half a pair": '"\\ud800"', "a long text": '"' + "a" * 200_000 + '"', "an order": '"{{ 7 * 7 }}${x}"',
    "no list": "[]", "an empty list": "[[]]", "a list of null": "[null]", "of texts": '["x", "y"]',
    "of bools": "[true]",
    "of numbers": "[1, 2]", "of huge numbers": f"[{10**30}]", "of both": '[1, "x"]', "an object": "{}",
    "objects": '{"a": {"b": []}}', "of objects": '[{"type": "x"}]', "deep": "[" * 60 + "]" * 60,
    "deep objects": '{"a":' * 60 + "1" + "}" * 60, "a data URL": '"data:image/png;base64,AAAA"',
    "no base64": '"data:;base64,%%%"', "a path": '"/etc/passwd"', "a sound": '"UklGRg=="',
}  # fmt: skip


@pytest.mark.parametrize("name", ["embeddings", "score", "rerank", "classify", "detokenize", "speech"])
def test_any_value_in_any_field(name: str, raw: httpx.Client) -> None:
    any_value(name, raw)


def any_value(name: str, raw: httpx.Client) -> None:
    """Every field of a door with every value."""
    path, kind, base = DOORS[name]
    for field in kind.model_fields:
        for what, literal in LITERALS.items():
            if field in ("max_tokens", "max_completion_tokens", "max_output_tokens") and literal in ("null", "0"):
                continue
            body = json.dumps({**base, field: "@@"}).replace('"@@"', literal)
            well(raw.post(path, content=body, headers={"Content-Type": "application/json"}), f"{field}: {what}")


def picture(kind: str = "PNG", size: tuple[int, int] = (8, 8), frames: int = 1) -> bytes:
    out = io.BytesIO()
    more = [Image.new("RGB", size, (place % 255, 9, 9)) for place in range(1, frames)]
    Image.new("RGB", size).save(out, kind, **({"save_all": True, "append_images": more} if more else {}))
    return out.getvalue()


def test_pictures_of_many_frames(raw: httpx.Client) -> None:
    labels = {"candidate_labels": ["a"]}
    for kind, frames in (("GIF", 3000), ("TIFF", 1000), ("PNG", 500), ("WEBP", 100)):
        data = "data:;base64," + base64.b64encode(picture(kind, (64, 64), frames)).decode()
        answer = raw.post(DOORS["seeing"][0], json={"model": "pictures", "inputs": data, "parameters": labels})
        well(answer, kind)
    for data in (picture()[:40], picture("JPEG")[:100], picture("GIF")[:30], picture("TIFF")[:50], picture("BMP")[:20]):
        text = "data:;base64," + base64.b64encode(data).decode()
        answer = raw.post(DOORS["seeing"][0], json={"model": "pictures", "inputs": text, "parameters": labels})
        well(answer, "truncated")
        assert answer.status_code == 400


# -- forms -------------------------------------------------------------------------------------------------------------

HEARS = ["/v1/audio/transcriptions", "/v1/audio/translations"]


def form(*parts: tuple[bytes, bytes], boundary: bytes = b"b") -> bytes:
    return b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, *part) for part in parts) + b"--%b--\r\n" % boundary


def named(name: bytes, file: bytes | None = None) -> bytes:
    more = b"" if file is None else b'; filename="%b"' % file
    return b'Content-Disposition: form-data; name="%b"%b' % (name, more)


FILE = (named(b"file", b"a.wav"), COMMAND)
MODEL = (named(b"model"), b"commands")
FORMS: dict[str, bytes] = {
    "no file": form(MODEL),
    "no name": form((b"Content-Disposition: form-data", b"x"), FILE, MODEL),
    "no disposition": form((b"X: y", b"x"), FILE, MODEL),
    "a text as the file": form((named(b"file"), COMMAND), MODEL),
    "two files": form(FILE, FILE, MODEL),
    "another file": form(FILE, (named(b"other", b"b.wav"), b"x"), MODEL),
    "an empty file": form((named(b"file", b"a.wav"), b""), MODEL),
    "a file as the model": form(FILE, (named(b"model", b"m.txt"), b"commands")),
    "two models": form(FILE, MODEL, MODEL),
    "a huge name": form(FILE, MODEL, (named(b"x" * 200_000), b"y")),
    "very many names": form(FILE, MODEL, *[(named(b"f%d" % place), b"y") for place in range(5000)]),
    "a huge text": form(FILE, MODEL, (named(b"prompt"), b"y" * 3_000_000)),
    "a huge head": form(FILE, MODEL, (named(b"prompt") + b"\r\nX: " + b"y" * 300_000, b"y")),
    "many heads": form(FILE, MODEL, (named(b"prompt") + b"\r\nX: y" * 20_000, b"y")),
    "half": form(FILE, MODEL)[:-500],
    "another boundary": form(FILE, MODEL, boundary=b"c"),
    "nothing": b"",
    "no form": b"hello",
    "a path": form((named(b"file", b"../../etc/passwd\x00"), b"x"), MODEL),
    "no UTF-8": form(FILE, (named(b"model"), b"\xff\xfe")),
    "a name of no UTF-8": form(FILE, MODEL, (named(b"\xff\xfe"), b"x")),
    "a charset": form(FILE, (named(b"_charset_"), b"nonsense"), MODEL),
}


@pytest.mark.parametrize("path", HEARS)
def test_any_form(path: str, raw: httpx.Client) -> None:
    for name, body in FORMS.items():
        answer = raw.post(path, content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
        well(answer, name)
    kinds = ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "x" * 5000,
             'multipart/form-data; boundary="b', "multipart/form-data; boundary=b; charset=nonsense", "text/plain",
             "application/json", "multipart/mixed; boundary=b", "multipart/form-data; boundary=\u00e9"]  # fmt: skip
    for kind in kinds:
        well(raw.post(path, content=FORMS["half"], headers={"Content-Type": kind.encode("latin-1")}), kind[:60])


@pytest.mark.parametrize("field", ["model", "language", "prompt", "response_format", "temperature", "stream",
                                   "timestamp_granularities[]", "chunking_strategy", "include[]"])  # fmt: skip
def test_any_value_in_a_form(field: str, raw: httpx.Client) -> None:
    values = [
        "",
        "x",
        "true",
        "1",
        "-1",
        "nan",
        "1e999",
        "a\x00b",
        "{{ 7 }}",
        "x" * 5000,
        "[]",
        "\u00e9\U0001f600",
        "null",
    ]
    for value in values:
        data = {"model": "commands", field: value}
        well(raw.post(HEARS[0], files={"file": ("a.wav", COMMAND)}, data=data), f"{field}: {value[:20]!r}")


def sound(rate: int, channels: int, seconds: float, claims: int | None = None) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(max(min(channels, 8), 1))
        file.setsampwidth(2)
        file.setframerate(16_000)  # what it says is written below
        file.writeframes(np.zeros(int(seconds * max(rate, 1)) * min(channels, 8), "<i2").tobytes())
    data = bytearray(out.getvalue())
    data[22:24] = struct.pack("<H", channels)
    data[24:28] = struct.pack("<I", rate)
    if claims is not None:
        data[40:44] = struct.pack("<I", claims)
    return bytes(data)


SOUNDS = {
    "no rate": sound(0, 1, 1000),
    "one a second": sound(1, 1, 1_000_000),
    "very many a second": sound(4_000_000_000, 1, 1e-5),
    "no channel": sound(16_000, 0, 0.1),
    "many channels": sound(16_000, 65_535, 0.1),
    "nothing": sound(16_000, 1, 0),
    "more than there is": sound(16_000, 1, 0.1, 2**32 - 1),
    "a head": sound(16_000, 1, 0.1)[:30],
    "MP3, nearly": b"\xff\xfb\x90\x00" + b"\x00" * 2000,
    "Ogg, nearly": b"OggS" + b"\x00" * 200,
    "FLAC, nearly": b"fLaC" + b"\xff" * 200,
    "a playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "a concatenation": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "a picture": picture(),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_sounds(name: str, raw: httpx.Client) -> None:
    answer = raw.post(HEARS[0], files={"file": ("a.wav", SOUNDS[name])}, data={"model": "commands"})
    well(answer, name)
    assert "root:" not in answer.text


# -- what is nowhere ---------------------------------------------------------------------------------------------------


def test_every_method_and_address(raw: httpx.Client) -> None:
    for path, _, _ in DOORS.values():
        for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "NONSENSE"):
            answer = raw.request(method, path)
            assert answer.status_code == 405 and "POST" in answer.headers["allow"], (method, path)
            if method != "HEAD":
                assert answer.json()["error"]["code"] == "method_not_allowed"
    for path in ("/v1", "/v1/", "/v1/chat/completions/", "//v1/models", "/v1/%00", "/v1/models/%ff", "/docs/x",
                 "/..;/x",
                 "/pipelines/nothing", "/v1/responses/" + "x" * 4000):  # fmt: skip
        for method in ("GET", "POST"):
            answer = raw.request(method, path, follow_redirects=False)
            assert answer.status_code in (400, 404, 405, 414), (method, path, answer.status_code)
            assert answer.json()["error"]["message"]
    assert raw.head("/v1/models").status_code in (200, 405)
