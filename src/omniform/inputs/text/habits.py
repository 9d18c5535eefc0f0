"""What the ecosystem's scripts ask a tokenizer for besides texts and ids; what is not there is refused by name."""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers import decoders

from omniform.inputs.text.framing import Framing
from omniform.inputs.text.options import read_flag
from omniform.inputs.text.scripted import Joiner
from omniform.inputs.text.special import token_text

APART = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")

REFUSED: Mapping[str, str] = {
    "convert_to_native_format": "from_pretrained reads every kind of file by itself",
    "convert_added_tokens": "from_pretrained and save_pretrained do it by themselves",
    "set_truncation_and_padding": "truncation and padding are options of a call, and nothing is left set after it",
    "save_chat_templates": "save_pretrained writes them",
    "get_response_parser": "omniform.inputs.replies.reader.Reader splits answers as they come",
    "slow_tokenizer_class": "there is one implementation of each tokenizer",
    "pretrained_vocab_files_map": "the Hub knows where the files are",
    "deprecation_warnings": "nothing is counted here",
    "chat_control_tokens": "special tokens of a message are not marked here; split_special_tokens=True splits them",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": "it is a setting: init_kwargs has it",
    "model": "backend_tokenizer.model is it",
    "files_loaded": "save_vocabulary writes the files that were read",
    "vocab_file": "save_vocabulary writes the files that were read",
}
"""Names of the ecosystem's tokenizers that are not here, and why."""


class Habits(Framing):
    """Names that scripts and tests of the ecosystem expect of a tokenizer."""

    model_max_length: int
    _refused = REFUSED
    verbose = False
    init_inputs = ()

    @property
    def init_kwargs(self) -> dict[str, object]:
        """The settings that it was made with, and its special tokens."""
        return {**self.settings.values, **self.special_tokens_map, "name_or_path": self.settings.where}

    @property
    def vocab_files_names(self) -> dict[str, str]:
        """The files that the class reads, by their kind."""
        kinds = ("vocab_file", "merges_file")
        return {**dict(zip(kinds, self.recipe.files, strict=False)), "tokenizer_file": "tokenizer.json"}

    @property
    def add_prefix_space(self) -> bool:
        """Whether the settings ask for a space before each text."""
        return self.settings.flag("add_prefix_space", False)

    @property
    def decoder(self) -> decoders.Decoder | Joiner | None:
        """What joins tokens."""
        return self.backend.decoder

    @property
    def max_len_single_sentence(self) -> int:
        """How many tokens of one text fit beside the special ones."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=False)

    @property
    def max_len_sentences_pair(self) -> int:
        """How many tokens of two texts fit beside the special ones."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def clean_up_tokenization(self, text: str) -> str:
        """A text without the spaces before punctuation and shortened words."""
        text = token_text(text, "text")
        for apart in APART:
            text = text.replace(apart, apart.strip())
        return text


def read_inert(value: object, where: str) -> None:
    """Check a flag that changes nothing.

    Raises:
        InputError: it is no flag.
    """
    if value is not None:
        read_flag(value, where)
