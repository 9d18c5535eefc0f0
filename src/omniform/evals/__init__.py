"""Evaluation with lm-eval (extra ``eval``): its tasks, its prompts and metrics, on an engine of ours.

``omniform eval MODEL --tasks a,b`` is :func:`omniform.evals.run.evaluate`; whoever calls lm-eval itself imports
:class:`omniform.evals.lm.OmniformLM`, which is then known there as ``"omniform"``.
"""
