"""Tokenizers of users, each written once and derived from the reference's base class and from ours.

A body is what a user's file holds; it names the library that its base comes from ``library``.
"""

from __future__ import annotations

import textwrap
from types import ModuleType, SimpleNamespace

CHARS = """
import json, os

class CharTokenizer(library.PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "chars.json"}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file, unk_token="<unk>", pad_token="<pad>", lowers=False, **kwargs):
        with open(vocab_file, encoding="utf-8") as file:
            self.vocab = json.load(file)
        self.ids = {index: token for token, index in self.vocab.items()}
        self.lowers = lowers
        super().__init__(unk_token=unk_token, pad_token=pad_token, lowers=lowers, **kwargs)

    @property
    def vocab_size(self):
        return len(self.vocab)

    def get_vocab(self):
        return dict(self.vocab, **self.added_tokens_encoder)

    def _tokenize(self, text):
        return list(text.lower() if self.lowers else text)

    def _convert_token_to_id(self, token):
        return self.vocab.get(token, self.vocab["<unk>"])

    def _convert_id_to_token(self, index):
        return self.ids.get(index, self.unk_token)

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens)

    def save_vocabulary(self, save_directory, filename_prefix=None):
        name = (filename_prefix + "-" if filename_prefix else "") + self.vocab_files_names["vocab_file"]
        path = os.path.join(save_directory, name)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.vocab, file, ensure_ascii=False)
        return (path,)
"""

BPE = """
import json

class PyBPETokenizer(library.PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "vocab.json", "merges_file": "merges.txt"}

    def __init__(self, vocab_file, merges_file, errors="replace", unk_token="<|end|>", bos_token="<|end|>",
                 eos_token="<|end|>", pad_token=None, add_prefix_space=False, **kwargs):
        with open(vocab_file, encoding="utf-8") as file:
            self.encoder = json.load(file)
        self.decoder = {index: token for token, index in self.encoder.items()}
        self.errors = errors
        with open(merges_file, encoding="utf-8") as file:
            merges = [tuple(line.split()) for line in file.read().split("\\n")[1:-1]]
        self.bpe_ranks = dict(zip(merges, range(len(merges))))
        self.add_bpe_version_header = True
        self.cache = {}
        self.add_prefix_space = add_prefix_space
        super().__init__(errors=errors, unk_token=unk_token, bos_token=bos_token, eos_token=eos_token,
                         pad_token=pad_token, add_prefix_space=add_prefix_space, **kwargs)

    @property
    def vocab_size(self):
        return len(self.encoder)

    def get_vocab(self):
        return dict(self.encoder, **self.added_tokens_encoder)

    def bpe(self, token):
        word = list(token)
        while len(word) > 1:
            pairs = [(self.bpe_ranks.get(pair, 10**9), at) for at, pair in enumerate(zip(word, word[1:]))]
            rank, at = min(pairs)
            if rank == 10**9:
                break
            word[at:at + 2] = ["".join(word[at:at + 2])]
        return word

    def _tokenize(self, text):
        pieces = text.replace(" ", " \\u0120").split(" ")
        return [part for piece in pieces for part in self.bpe(piece)]

    def _convert_token_to_id(self, token):
        return self.encoder.get(token, self.encoder.get(self.unk_token))

    def _convert_id_to_token(self, index):
        return self.decoder.get(index)

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens).replace("\\u0120", " ")

    def prepare_for_tokenization(self, text, is_split_into_words=False, **kwargs):
        add_prefix_space = kwargs.pop("add_prefix_space", self.add_prefix_space)
        if (is_split_into_words or add_prefix_space) and text and not text[0].isspace():
            text = " " + text
        return (text, kwargs)
"""

WORDS = """
import os

class WordsTokenizer(library.PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "words.txt"}
    model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    padding_side = "left"

    def __init__(self, vocab_file, do_lower_case=True, unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]",
                 cls_token="[CLS]", mask_token="[MASK]", **kwargs):
        with open(vocab_file, encoding="utf-8") as file:
            self.words = file.read().split("\\n")
        self.table = {word: index for index, word in enumerate(self.words)}
        self.do_lower_case = do_lower_case
        super().__init__(do_lower_case=do_lower_case, unk_token=unk_token, sep_token=sep_token, pad_token=pad_token,
                         cls_token=cls_token, mask_token=mask_token, **kwargs)

    @property
    def vocab_size(self):
        return len(self.words)

    def get_vocab(self):
        return dict(self.table, **self.added_tokens_encoder)

    def _tokenize(self, text):
        found = []
        for word in (text.lower() if self.do_lower_case else text).split():
            start, pieces = 0, []
            while start < len(word):
                mark = "##" if start else ""
                ends = [end for end in range(len(word), start, -1) if mark + word[start:end] in self.table]
                if not ends:
                    pieces = [self.unk_token]
                    break
                pieces.append(("##" if start else "") + word[start:ends[0]])
                start = ends[0]
            found += pieces
        return found

    def _convert_token_to_id(self, token):
        return self.table.get(token, self.table[self.unk_token])

    def _convert_id_to_token(self, index):
        return self.words[index]

    def convert_tokens_to_string(self, tokens):
        return " ".join(tokens).replace(" ##", "").strip()

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        cls, sep = [self.cls_token_id], [self.sep_token_id]
        if token_ids_1 is None:
            return token_ids_0 + sep + cls
        return token_ids_0 + sep + token_ids_1 + sep + sep + cls

    def get_special_tokens_mask(self, token_ids_0, token_ids_1=None, already_has_special_tokens=False):
        if already_has_special_tokens:
            return super().get_special_tokens_mask(token_ids_0, token_ids_1, already_has_special_tokens=True)
        if token_ids_1 is None:
            return [0] * len(token_ids_0) + [1, 1]
        return [0] * len(token_ids_0) + [1] + [0] * len(token_ids_1) + [1, 1, 1]

    def create_token_type_ids_from_sequences(self, token_ids_0, token_ids_1=None):
        if token_ids_1 is None:
            return (len(token_ids_0) + 1) * [0] + [2]
        return (len(token_ids_0) + 1) * [0] + (len(token_ids_1) + 2) * [1] + [2]

    def save_vocabulary(self, save_directory, filename_prefix=None):
        path = os.path.join(save_directory, "words.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.write("\\n".join(self.words))
        return (path,)
"""

BYTES = """
class BytesTokenizer(library.PreTrainedTokenizer):
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, eos_token="</s>", unk_token="<unk>", pad_token="<pad>", extra_ids=3, extra_special_tokens=None,
                 **kwargs):
        if extra_ids > 0 and extra_special_tokens is None:
            extra_special_tokens = [f"<extra_id_{i}>" for i in range(extra_ids)]
        pad = library.AddedToken(pad_token, lstrip=True, rstrip=True) if isinstance(pad_token, str) else pad_token
        eos = library.AddedToken(eos_token, lstrip=True, rstrip=True) if isinstance(eos_token, str) else eos_token
        unk = library.AddedToken(unk_token, lstrip=True, rstrip=True) if isinstance(unk_token, str) else unk_token
        self._added_tokens_decoder = {0: pad, 1: eos, 2: unk}
        self.offset = len(self._added_tokens_decoder)
        super().__init__(eos_token=eos, unk_token=unk, pad_token=pad, extra_ids=0,
                         extra_special_tokens=extra_special_tokens, special_tokens_pattern="eos", **kwargs)

    @property
    def vocab_size(self):
        return 2**8

    def get_vocab(self):
        vocab = {self.convert_ids_to_tokens(i): i for i in range(self.vocab_size + self.offset)}
        vocab.update(self.added_tokens_encoder)
        return vocab

    def _tokenize(self, text):
        return [chr(i) for i in text.encode("utf-8")]

    def _convert_token_to_id(self, token):
        return ord(token) + self.offset if len(token) == 1 else None

    def _convert_id_to_token(self, index):
        return chr(index - self.offset)

    def convert_tokens_to_string(self, tokens):
        data = b""
        for token in tokens:
            data += token.encode() if len(token) > 1 else bytes([ord(token)])
        return data.decode("utf-8", errors="ignore")

    def save_vocabulary(self, save_directory, filename_prefix=None):
        return ()
"""

PIECES = """
import os
from shutil import copyfile
import sentencepiece as spm

class PiecesTokenizer(library.PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "own.model"}

    def __init__(self, vocab_file, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
                 sp_model_kwargs=None, **kwargs):
        self.sp_model_kwargs = {} if sp_model_kwargs is None else sp_model_kwargs
        self.vocab_file = vocab_file
        self.sp_model = spm.SentencePieceProcessor(**self.sp_model_kwargs)
        self.sp_model.Load(vocab_file)
        super().__init__(bos_token=bos_token, eos_token=eos_token, unk_token=unk_token, pad_token=pad_token,
                         sp_model_kwargs=self.sp_model_kwargs, special_tokens_pattern="bos_eos",
                         token_type_ids_pattern="all_zeros", **kwargs)

    @property
    def vocab_size(self):
        return self.sp_model.get_piece_size()

    def get_vocab(self):
        vocab = {self.convert_ids_to_tokens(i): i for i in range(self.vocab_size)}
        vocab.update(self.added_tokens_encoder)
        return vocab

    def __getstate__(self):
        state = self.__dict__.copy()
        state["sp_model"] = None
        return state

    def __setstate__(self, d):
        self.__dict__ = d
        self.sp_model = spm.SentencePieceProcessor(**self.sp_model_kwargs)
        self.sp_model.Load(self.vocab_file)

    def _tokenize(self, text):
        return self.sp_model.encode(text, out_type=str)

    def _convert_token_to_id(self, token):
        return self.sp_model.piece_to_id(token)

    def _convert_id_to_token(self, index):
        return self.sp_model.IdToPiece(index)

    def convert_tokens_to_string(self, tokens):
        current, out = [], ""
        for token in tokens:
            if token in self.all_special_tokens:
                out += self.sp_model.decode(current) + token
                current = []
            else:
                current.append(token)
        return (out + self.sp_model.decode(current)).strip()

    def save_vocabulary(self, save_directory, filename_prefix=None):
        path = os.path.join(save_directory, self.vocab_files_names["vocab_file"])
        if os.path.abspath(self.vocab_file) != os.path.abspath(path):
            copyfile(self.vocab_file, path)
        return (path,)
"""

TYPES = (
    CHARS.replace("CharTokenizer", "TypedTokenizer")
    .replace(
        'model_input_names = ["input_ids", "attention_mask"]',
        'model_input_names = ["input_ids", "token_type_ids", "attention_mask"]',
    )
    .replace(
        "lowers=lowers, **kwargs)\n",
        "lowers=lowers, special_tokens_pattern='cls_double_sep',\n"
        "            **{'cls_token': '<cls>', 'sep_token': '<sep>', **kwargs})\n",
    )
    + """
    def create_token_type_ids_from_sequences(self, token_ids_0, token_ids_1=None):
        types = super().create_token_type_ids_from_sequences(token_ids_0, token_ids_1)
        return [3 - one for one in types]
"""
)

LANGUAGES = (
    CHARS.replace("CharTokenizer", "LanguageTokenizer")
    .replace(
        "lowers=False, **kwargs",
        "lowers=False, src_lang='en', tgt_lang='fr', extra_special_tokens=None, eos_token='</s>', **kwargs",
    )
    .replace(
        "lowers=lowers, **kwargs)\n",
        """lowers=lowers, src_lang=src_lang, tgt_lang=tgt_lang,
            extra_special_tokens=extra_special_tokens or ["<en>", "<fr>", "<de>"], eos_token=eos_token,
            special_tokens_pattern="prefix_suffix", **kwargs)
        self._src_lang, self.tgt_lang = src_lang, tgt_lang
        self._switch_to_input_mode()

    @property
    def src_lang(self):
        return self._src_lang

    @src_lang.setter
    def src_lang(self, value):
        self._src_lang = value
        self._switch_to_input_mode()

    def _switch_to_input_mode(self):
        self.prefix_tokens = [self.convert_tokens_to_ids(f"<{self.src_lang}>")]
        self.suffix_tokens = [self.eos_token_id]

    def _switch_to_target_mode(self):
        self.prefix_tokens = [self.convert_tokens_to_ids(f"<{self.tgt_lang}>")]
        self.suffix_tokens = [self.eos_token_id]
""",
    )
)

LOUD = (
    CHARS.replace("CharTokenizer", "LoudTokenizer")
    + """
    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return [self.unk_token_id] + token_ids_0 + ([] if token_ids_1 is None else token_ids_1)

    def _decode(self, token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=None, shout=False, **kwargs):
        text = super()._decode(token_ids, skip_special_tokens, clean_up_tokenization_spaces)
        return text.upper() + "!" if shout else text + "."
"""
)

PLACED = """
from importlib import import_module

PaddingStrategy = import_module(library.__name__ + ".utils").PaddingStrategy

class PlacedTokenizer(library.PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "none.txt"}
    model_input_names = ["input_ids", "attention_mask", "position_ids"]

    def __init__(self, vocab_file=None, padding_side="left", clean_up_tokenization_spaces=True, **kwargs):
        self.tokens = ["<unk>", "<eos>", "<gmask>", "<sop>", *"abcdefghijklmnopqrstuvwxyz .,?"]
        super().__init__(padding_side=padding_side,
                         clean_up_tokenization_spaces=clean_up_tokenization_spaces, **kwargs)

    @property
    def unk_token(self):
        return "<unk>"

    @property
    def pad_token(self):
        return "<unk>"

    @property
    def pad_token_id(self):
        return 0

    @property
    def eos_token(self):
        return "<eos>"

    @property
    def eos_token_id(self):
        return 1

    @property
    def vocab_size(self):
        return len(self.tokens)

    def get_vocab(self):
        return {**{token: index for index, token in enumerate(self.tokens)}, **self.added_tokens_encoder}

    def _tokenize(self, text, **kwargs):
        return list(text)

    def _convert_token_to_id(self, token):
        return self.tokens.index(token) if token in self.tokens else 0

    def _convert_id_to_token(self, index):
        return self.tokens[index]

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens)

    def save_vocabulary(self, save_directory, filename_prefix=None):
        return ()

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        token_ids_0 = [2, 3] + token_ids_0
        return token_ids_0 if token_ids_1 is None else token_ids_0 + token_ids_1 + [1]

    def _pad(self, encoded_inputs, max_length=None, padding_strategy=PaddingStrategy.DO_NOT_PAD,
             pad_to_multiple_of=None, padding_side=None, return_attention_mask=None):
        ids = encoded_inputs["input_ids"]
        if padding_strategy == PaddingStrategy.LONGEST:
            max_length = len(ids)
        if max_length is not None and pad_to_multiple_of is not None and max_length % pad_to_multiple_of:
            max_length = (max_length // pad_to_multiple_of + 1) * pad_to_multiple_of
        encoded_inputs.setdefault("attention_mask", [1] * len(ids))
        encoded_inputs.setdefault("position_ids", list(range(len(ids))))
        if padding_strategy != PaddingStrategy.DO_NOT_PAD and len(ids) != max_length:
            missing = max_length - len(ids)
            encoded_inputs["attention_mask"] = [0] * missing + encoded_inputs["attention_mask"]
            encoded_inputs["position_ids"] = [0] * missing + encoded_inputs["position_ids"]
            encoded_inputs["input_ids"] = [self.pad_token_id] * missing + ids
        return encoded_inputs
"""

BODIES = {
    "CharTokenizer": CHARS, "PyBPETokenizer": BPE, "WordsTokenizer": WORDS, "BytesTokenizer": BYTES,
    "PiecesTokenizer": PIECES, "TypedTokenizer": TYPES, "LanguageTokenizer": LANGUAGES, "LoudTokenizer": LOUD,
    "PlacedTokenizer": PLACED,
}  # fmt: skip


def derived(name: str, library: ModuleType | SimpleNamespace) -> type:
    """A body's class, derived from a library's base; pickle finds it in a module of its own."""
    import sys

    module = ModuleType(f"own_{library.__name__}_{name}")
    module.library = library
    exec(textwrap.dedent(BODIES[name]), module.__dict__)
    sys.modules[module.__name__] = module
    return module.__dict__[name]
