"""A chat model's answers: what is thought, what is said and which tools are called, as the text comes.

:func:`~omniform.inputs.replies.detect.format_of` finds out how a checkpoint writes these,
:class:`~omniform.inputs.replies.reader.Reader` splits an answer by it, and
:func:`~omniform.inputs.replies.grammar.reply_grammar` makes a model keep to it. Plain Python, no tensors.
"""
