"""A model as files that onnxruntime runs, with a certificate that it is the same model: ``omniform export``.

============================================  ======================================================================
:mod:`omniform.export.onnx.writing`           the graphs of a model in a folder; the door is one for all formats
:mod:`omniform.export.onnx.layout`            what stands in a folder, and what it is called; needs no torch
:mod:`omniform.export.onnx.tasks`             which tasks there are, and which a model has
:mod:`omniform.export.onnx.inputs`            what a graph reads: names, axes, examples
:mod:`omniform.export.onnx.parts`             the graphs that a model is taken apart into
:mod:`omniform.export.onnx.states`            a model's state as inputs and outputs
:mod:`omniform.export.onnx.attention`         attention written in operations that every runtime knows
:mod:`omniform.export.onnx.graphs`            a module to a graph of ONNX, through ``torch.export``
:mod:`omniform.export.onnx.decomposing`       what was traced in operations that ONNX knows, node by node
:mod:`omniform.export.onnx.merging`           two steps of a decoder as one file
:mod:`omniform.export.onnx.smaller`           halves and eight bits
:mod:`omniform.export.onnx.certificates`      the comparison with torch, what is written of it, and doing it again
============================================  ======================================================================
"""
