"""Conversations as a tokenizer's prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack, cast

import torch

from omniform.core.errors import InputError
from omniform.core.kinds import switch
from omniform.inputs.media_access import MediaAccess
from omniform.inputs.replies.declared import parse_declared
from omniform.inputs.replies.detect import format_of
from omniform.inputs.replies.events import message_of
from omniform.inputs.replies.reader import read_reply
from omniform.inputs.text import chat
from omniform.inputs.text.encoding import BatchEncoding, Ids, input_ids
from omniform.inputs.text.habits import Habits
from omniform.inputs.text.ids import shown
from omniform.inputs.text.options import EncodeOptions
from omniform.inputs.text.settings import ChatTemplates


class Conversing(Habits):
    """A tokenizer's chat templates, and the prompts that they make of conversations.

    Attributes:
        chat_template: one template, or several by name.
    """

    chat_template: ChatTemplates

    def __call__(self, text: object = None, /, **options: Unpack[EncodeOptions]) -> BatchEncoding:
        """Encode texts; a tokenizer proper does."""
        raise NotImplementedError

    def get_chat_template(self, chat_template: str | None = None, tools: Sequence[chat.Tool] | None = None) -> str:
        """The chat template's source: the one named, else that for tools where there are some, else the default.

        Raises:
            InputError: there is none.
        """
        return chat.choose_template(self.chat_template, chat_template, tools is not None)

    def apply_chat_template(
        self,
        conversation: Sequence[object],
        tools: Sequence[chat.Tool] | None = None,
        documents: Sequence[Mapping[str, object]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: EncodeOptions | None = None,
        media_access: MediaAccess | None = None,
        **variables: object,
    ) -> BatchEncoding | Ids | str | list[str]:
        """Make a conversation into a prompt, and encode it.

        The template writes the special tokens; none is added to them, so that a prompt begins with one ``bos_token``.

        Args:
            conversation: messages, mappings with ``role`` and ``content``; or a list of such lists.
            tools: functions with type hints and docstrings, or JSON schemas.
            documents: mappings with ``title`` and ``text``.
            chat_template: the name of one of the tokenizer's templates, or the source of another.
            add_generation_prompt: end with what comes before the assistant's answer.
            continue_final_message: end within the last message, for the model to go on; or the name of the field of it
                that is to be continued.
            tokenize: ``False`` gives the prompt's text.
            padding: as for a call of the tokenizer; so are ``truncation``, ``max_length`` and ``return_tensors``.
            return_dict: ``False`` gives the ids alone.
            return_assistant_tokens_mask: add ``assistant_masks``, 1 for each token that the assistant wrote, as the
                template's ``generation`` blocks tell.
            tokenizer_kwargs: further options of the call.
            media_access: as for a processor; a tokenizer reads no pictures and no sounds, so here it is inert.
            variables: further variables of the template.

        Raises:
            ConfigError: the template is malformed, or does what templates may not.
            InputError: it refuses the messages, or one of them or a tool is malformed.
        """
        tokenize, return_dict = switch("tokenize", tokenize), switch("return_dict", return_dict)
        if return_assistant_tokens_mask and (continue_final_message or not (tokenize and return_dict)):
            raise InputError(
                "the assistant's tokens are found in whole, encoded conversations",
                where="return_assistant_tokens_mask",
                expected="tokenize=True, return_dict=True and no continue_final_message",
            )
        template = self.get_chat_template(chat_template, tools)
        chats, many = chat.read_conversations(conversation)
        asked = chat.ChatOptions(
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables={**self.special_tokens_map, **variables},
            track=return_assistant_tokens_mask,
        )
        prompts = chat.render_chats(template, chats, asked)
        texts = [prompt.text for prompt in prompts]
        if not tokenize:
            return texts if many else texts[0]
        options: EncodeOptions = {"padding": padding, "truncation": truncation, "max_length": max_length}
        given: EncodeOptions = {"add_special_tokens": False, **options, **chat.read_more(tokenizer_kwargs)}
        encoded = self(texts if many else texts[0], **given)
        if return_assistant_tokens_mask:
            if not encoded.encodings:
                raise InputError(
                    "a tokenizer written in Python does not know where its tokens stand",
                    where=f"{type(self).__name__}: return_assistant_tokens_mask",
                    expected="False",
                )
            masks = [chat.token_mask(found, prompt) for found, prompt in zip(encoded.encodings, prompts, strict=True)]
            encoded["assistant_masks"] = masks if many else masks[0]
        if return_tensors is not None and not many:
            encoded.update({name: [value] for name, value in encoded.items()})
        encoded = encoded.as_tensors(return_tensors)
        return encoded if return_dict else input_ids(encoded)

    def decode(self, token_ids: Sequence[int] | Sequence[Sequence[int]] | torch.Tensor) -> str | list[str]:
        """Decode ids; a tokenizer proper does."""
        raise NotImplementedError

    @property
    def response_template(self) -> Mapping[str, object] | None:
        """How the model's answers are to be read, where the folder says it."""
        said = self.settings.values.get("response_template")
        return said if isinstance(said, Mapping) else None

    def parse_response(
        self,
        response: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | torch.Tensor,
        schema: Mapping[str, object] | None = None,
        *,
        prefix: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | torch.Tensor | None = None,
        tools: Sequence[chat.Tool] | None = None,
    ) -> dict[str, object] | list[dict[str, object]]:
        """Messages out of answers: what is said, thought and called.

        Args:
            response: an answer, or several: texts, or their ids.
            schema: how it is to be read; by default as ``response_template`` says, or else as the chat template writes.
            prefix: the prompt, or one for each answer, since it may have begun the message. ``""`` for none.
            tools: as for :meth:`apply_chat_template`; their schemas say of what types arguments are.

        Raises:
            ConfigError: the schema is malformed.
            InputError: an answer cannot be read by it, or there are not as many prompts as answers.
        """
        if prefix is None:
            raise InputError("an answer is read beside its prompt", where="prefix", expected='the prompt, or ""')
        texts, many = self._texts(response)
        empty = isinstance(prefix, (str, list, tuple)) and not prefix
        before, several = self._texts("" if empty else prefix)
        before = before if several else before * len(texts)
        if len(before) != len(texts):
            raise InputError("there is no prompt for each answer", where="prefix", expected=f"{len(texts)} of them",
                             found=len(before))  # fmt: skip
        read = chat.read_tools(tools) or []
        known = [tool for tool in read if isinstance(tool, Mapping)]
        declared = self.response_template if schema is None else schema
        if declared is None:
            found = [self._by_template(*pair, known) for pair in zip(texts, before, strict=True)]
        else:
            found = [parse_declared(text, declared, end, known) for text, end in zip(texts, before, strict=True)]
        return found if many else found[0]

    def _by_template(self, text: str, prompt: str, tools: Sequence[Mapping[str, object]]) -> dict[str, object]:
        """A message out of an answer, as the chat template writes them."""
        format = format_of(self.get_chat_template(tools=tools or None), self.get_vocab())
        for token in self.all_special_tokens:
            text = text if token in format.markers else text.replace(token, "")
        return message_of(read_reply(format, text, prompt, tools))

    def _texts(self, given: object) -> tuple[list[str], bool]:
        """Texts, or what ids read, and whether there are several."""
        if isinstance(given, (list, tuple)) and all(isinstance(one, str) for one in given):
            return list(given), True
        found = given if isinstance(given, str) else self.decode(given)  # type: ignore[arg-type] # it checks
        return (list(found), True) if isinstance(found, list) else ([found], False)

    def encode_message_with_chat_template(
        self,
        message: Mapping[str, object],
        conversation_history: Sequence[Mapping[str, object]] | None = None,
        **kwargs: object,
    ) -> list[int]:
        """The ids that a message adds to those of the conversation before it.

        Args:
            message: with ``role`` and ``content``.
            conversation_history: the messages before it.
            kwargs: as for :meth:`apply_chat_template`, but for ``add_generation_prompt``.

        Raises:
            InputError: as there; or a beginning of the answer is asked for.
        """
        if "add_generation_prompt" in kwargs:
            raise InputError("a message is encoded without what comes after it", where="add_generation_prompt")
        before = [] if conversation_history is None else conversation_history
        if not isinstance(before, (list, tuple)):
            raise InputError("these are no messages", where="conversation_history", found=shown(before))
        asked = {**kwargs, "return_dict": False}
        ids = self._chat_ids([*before, message], asked)
        known = self._chat_ids(list(before), asked) if before else []
        same = next((i for i, pair in enumerate(zip(known, ids, strict=False)) if pair[0] != pair[1]), None)
        return ids[min(len(known), len(ids)) if same is None else same :]

    def _chat_ids(self, messages: list[Mapping[str, object]], asked: Mapping[str, object]) -> list[int]:
        return cast("list[int]", self.apply_chat_template(messages, **asked))  # type: ignore[arg-type]
