"""A model as programs that torch runs without this library: ``torch.export`` packages, and AOTInductor's.

============================================  ======================================================================
:mod:`omniform.export.packages.programs`      a part of a model to a program of ``torch.export``
:mod:`omniform.export.packages.writing`       programs in a folder, compiled or not, and what runs them
:mod:`omniform.export.packages.sessions`      a program as a step of a model that writes
============================================  ======================================================================
"""
