"""Twenty-four requests at once: texts, pictures, sounds, and a picture that comes again."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from turns import OURS, Contest, in_turns

GOAL = 3.0
NEW = 16
RATE = 16000
WORDS = ("what", "is", "the", "colour", "of", "this", "circle", "and", "where", "does", "it", "stand", "who", "speaks")
IMAGE, SOUND = "<image>", "<sound>"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: a text, and the media in it, by number: equal numbers are equal items."""

    words: int
    pictures: tuple[int, ...] = ()
    sounds: tuple[int, ...] = ()

    @property
    def kind(self) -> tuple[int, int]:
        """Requests of one kind share a batch of the reference's."""
        return len(self.pictures), len(self.sounds)

    def text(self, luck: np.random.Generator) -> str:
        """Its text, with the markers of its media in front."""
        return " ".join([IMAGE] * len(self.pictures) + [SOUND] * len(self.sounds) + [*luck.choice(WORDS, self.words)])


REQUESTS: Sequence[Request] = (
    *(Request(words) for words in (5, 60, 12, 30, 8, 90, 20, 15)),
    *(Request(words, (number,)) for number, words in enumerate((6, 9, 14, 7, 22))),
    *(Request(words, (0,)) for words in (11, 5, 8)),
    *(Request(words, (10 + 3 * number, 11 + 3 * number, 12 + 3 * number)) for number, words in enumerate((6, 10, 8))),
    *(Request(words, (), (2 * number, 2 * number + 1)) for number, words in enumerate((5, 9, 6, 12, 7))),
)
"""Eight texts, five pictures, three more questions about the first of them, three times three pictures, five times two
sounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Talker:
    """A model that reads all of it.

    Attributes:
        text, vision, audio: its parts' configs.
        edge: of its tiles, in pixels.
        seconds: of a sound.
    """

    text: Mapping[str, object]
    vision: Mapping[str, object]
    audio: Mapping[str, object] = field(default_factory=dict)
    edge: int
    seconds: float


TALKERS: Mapping[str, Talker] = {
    "Phi-4-multimodal, a small one": Talker(
        text={
            "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6,
            "num_key_value_heads": 2,
        },
        vision={
            "hidden_size": 192, "intermediate_size": 576, "num_hidden_layers": 4, "num_attention_heads": 3,
            "patch_size": 14,
        },
        audio={
            "hidden_size": 192, "intermediate_size": 384, "num_blocks": 3, "num_attention_heads": 3,
            "ext_pw_out_channel": 192, "depthwise_separable_out_channel": 192, "nemo_conv_channels": 128,
        },
        edge=448,
        seconds=3.0,
    ),
}  # fmt: skip
TINY = Talker(
    text={
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    vision={
        "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14,
    },
    audio={
        "hidden_size": 8, "intermediate_size": 12, "num_blocks": 2, "num_attention_heads": 2,
        "ext_pw_out_channel": 8, "depthwise_separable_out_channel": 8, "nemo_conv_channels": 4,
    },
    edge=448,
    seconds=0.5,
)  # fmt: skip


def mixed(only: tuple[str, ...], runs: int, tiny: bool) -> dict[str, Contest]:
    """All requests answered with 16 tokens each; ``apart`` is the part of tokens that differ."""
    import omniform

    found: dict[str, Contest] = {}
    for name in only or TALKERS:
        talker = TINY if tiny else TALKERS[name]
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs, reader = _loaded(omniform, talker, Path(folder))
        alone = [_read(reader, [request], talker) for request in REQUESTS]
        kinds = dict.fromkeys(request.kind for request in REQUESTS)
        groups = [[at for at, request in enumerate(REQUESTS) if request.kind == kind] for kind in kinds]
        batches = [_read(reader, [REQUESTS[at] for at in group], talker) for group in groups]
        # A placeholder that a model writes would be looked for a picture by the reference.
        placeholders = reader.tokenizer.convert_tokens_to_ids([IMAGE, SOUND])
        asked = {
            "max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "suppress_tokens": placeholders,
        }  # fmt: skip

        def answers(inputs, model=theirs, asked=asked):
            return [model.generate(**one, **asked)[:, one["input_ids"].shape[1] :] for one in inputs]

        def engine(model=ours, alone=alone, asked=asked):
            return omniform.Engine(model).generate_batch(alone, **asked)

        ways = {OURS: engine, "one after another": partial(answers, alone), "batches": partial(answers, batches)}
        with torch.inference_mode():
            told = torch.tensor([completion.tokens for completion in ways[OURS]()])
            expected = torch.cat(ways["one after another"]())
            facts = {"apart": float((told != expected).float().mean())}
            contest = Contest(in_turns(ways, runs), dict.fromkeys([*ways][1:], GOAL), facts)
        found[name] = contest
        print(name, contest.medians, contest.ratios, facts, file=sys.stderr, flush=True)
    return found


def _read(reader, requests: Sequence[Request], talker: Talker):
    """The inputs of some requests in one batch, in the reference's reading."""
    luck = [np.random.default_rng(request.words) for request in requests]
    media = {}
    if pictures := [_picture(number, talker.edge) for request in requests for number in request.pictures]:
        media["images"] = pictures
    if sounds := [_sound(number, talker.seconds) for request in requests for number in request.sounds]:
        media |= {"audio": sounds, "sampling_rate": RATE}
    texts = [request.text(own) for request, own in zip(requests, luck, strict=True)]
    batch = reader(text=texts, padding=True, padding_side="left", return_tensors="pt", **media)
    return dict(batch)


def _picture(number: int, edge: int):
    from PIL import Image

    luck = np.random.default_rng(100 + number)
    return Image.fromarray(luck.integers(0, 256, (edge, edge, 3), dtype=np.uint8))


def _sound(number: int, seconds: float) -> np.ndarray:
    return np.random.default_rng(200 + number).standard_normal(round(seconds * RATE)).astype(np.float32)


def _loaded(omniform, talker: Talker, folder: Path):
    """Both libraries' models with the same random weights, and the reference's processor."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(("<pad>", "<s>", "</s>", "<unk>", *WORDS))}
    backend = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens={"image_token": IMAGE, "audio_token": SOUND},
    )  # fmt: skip
    image, sound = tokenizer.convert_tokens_to_ids([IMAGE, SOUND])
    edge = {"image_size": talker.edge, "crop_size": talker.edge}
    config = transformers.Phi4MultimodalConfig(
        **talker.text, vocab_size=len(tokenizer), max_position_embeddings=4096, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, vision_config={**talker.vision, **edge, "image_token_id": image},
        audio_config={**talker.audio, "audio_token_id": sound},
    )  # fmt: skip
    config.save_pretrained(folder)
    torch.manual_seed(0)
    made = omniform.AutoModelForCausalLM.from_config(omniform.AutoConfig.from_pretrained(folder))
    made.save_pretrained(folder)
    theirs = transformers.Phi4MultimodalForCausalLM.from_pretrained(folder, dtype="float32").eval()
    ours = omniform.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    pictures = transformers.Phi4MultimodalImageProcessor(size={"height": talker.edge, "width": talker.edge})
    reader = transformers.Phi4MultimodalProcessor(pictures, transformers.Phi4MultimodalFeatureExtractor(), tokenizer)
    return ours, theirs, reader
