"""Text: tokenizers and chat templates.

:func:`~omniform.inputs.text.load.tokenizer_from_files` builds a
:class:`~omniform.inputs.text.tokenizer.Tokenizer` from a folder's files; its ``apply_chat_template`` makes prompts.
"""
