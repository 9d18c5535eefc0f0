"""The tokenizer of the scene model: byte-level, with one token for every word that the questions and answers use.

A word outside the vocabulary falls into its bytes, so any text can be read. Nothing is learnt: the same templates give
the same file on every machine.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from questions import texts
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

PAD, BOS, EOS, IMAGE, USER, ASSISTANT = SPECIAL = ("<pad>", "<s>", "</s>", "<image>", "<user>", "<assistant>")

# Common words of questions that no template has; they keep an unforeseen phrasing short.
SPARE = """
    i am was were been being it its they them he she we us me my your our this that these those here there when
    why who whose how if then else so but or nor not only also just very really much more most less least few
    many some any all both each every other another same different with without for from by into onto near next
    beside between behind front around inside outside first second third last one two three four five six zero
    whole part half total number amount can could would should will shall may might must do does did done have
    has had get got give given make made show shown see seen look looks like say said tell know think want need
    let take put set lie lies sit sits stand stands appear appears exist exists round point pointed side sides
    edge edges corner corners line lines area region space place spot position location dark light bright pale
    color colored coloured hue tone shade drawn painted drawing figure figures form forms type kind sort huge
    tiny medium bigger biggest larger largest smaller smallest size sized tall short wide sentence word words
    short brief detail details answer question caption summary briefly please thanks hello hi hey ok okay left
    right top bottom upper lower middle center centre above below under over up down higher lower
"""
# Pictures come first in a message, wherever the caller puts them.
TEMPLATE = """\
{{ bos_token }}{% for message in messages %}
{%- set said = message['content'] %}
{%- set parts = [{'type': 'text', 'text': said}] if said is string else said %}
{{- '<assistant>' if message['role'] == 'assistant' else '<user>' }}
{%- for part in parts if part['type'] == 'image' %}{{ '<image>' }}{% endfor %}
{%- for part in parts if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}
{%- if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<assistant>' }}{% endif %}
"""


def vocabulary() -> list[str]:
    """Special tokens, the 256 bytes, then the known words, each with the space before it."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=True)
    known: set[str] = set()
    for text in (*texts(), *SPARE.split(), *"?!.,:;'()-\""):
        plain = re.sub(r"\{\w+\}", " ", text).lower()
        known.update(token for token, _ in split.pre_tokenize_str(plain))
        # A mark that follows a word has no space before it.
        known.update(token for token, _ in split.pre_tokenize_str("x" + plain) if not token.isalnum())
    singles = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [*SPECIAL, *singles, *sorted(token for token in known if len(token) > 1 and token != "Ġx")]


def build() -> Tokenizer:
    """The tokenizer itself: lower case, single spaces, whole words or else bytes."""
    ids = {token: number for number, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], ignore_merges=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def save(folder: Path) -> Tokenizer:
    """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja into a folder."""
    tokenizer = build()
    named = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    settings = {
        **named,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 512,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "image_token": IMAGE,
        "extra_special_tokens": {"image_token": IMAGE},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    for name, content in (("tokenizer_config.json", settings), ("special_tokens_map.json", named)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return tokenizer


if __name__ == "__main__":
    save(Path(sys.argv[1]))
