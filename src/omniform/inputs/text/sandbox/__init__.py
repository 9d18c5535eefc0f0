"""Where chat templates run: jinja's language, compiled by jinja, computed by us.

A template is a program from a stranger, run on messages from another. Its jinja source is parsed by jinja; ``program``
lets through only the statements on its list, and generates code in which every operation is a method of one
:class:`~omniform.inputs.text.sandbox.machine.Machine`. That machine knows the kinds of value there can be, and for each
kind the methods, fields, filters and tests that exist; whatever is not on these lists is refused by its name. Each has
an implementation that says what it will cost *before* it does so, and one budget pays for all of a rendering. So a
template cannot take more time or memory than its budget, by whatever means, because there are no other means.
"""
