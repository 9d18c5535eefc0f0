"""Auto classes of tasks that no family of omniform's does yet: they load what users register with them.

``register`` and ``trust_remote_code`` work as with any other; everything else is refused, and the error names the
family's own tasks.
"""

from __future__ import annotations

from omniform.hub.auto import AutoModel


class AutoModelForDecision(AutoModel):
    """Models that choose what to do next."""

    tasks = ()


class AutoModelForImageMatting(AutoModel):
    """Models that cut out what is in front."""

    tasks = ()


class AutoModelForImageToImage(AutoModel):
    """Models that make pictures of pictures."""

    tasks = ()


class AutoModelForKeypointDetection(AutoModel):
    """Models that find points of interest."""

    tasks = ()


class AutoModelForKeypointMatching(AutoModel):
    """Models that find the same points in two pictures."""

    tasks = ()


class AutoModelForNormalEstimation(AutoModel):
    """Models that tell which way surfaces face."""

    tasks = ()


class AutoModelForPointmapEstimation(AutoModel):
    """Models that tell where pixels are in space."""

    tasks = ()


class AutoModelForPoseEstimation(AutoModel):
    """Models that find joints."""

    tasks = ()


class AutoModelForRNNT(AutoModel):
    """Models that write what is said with a transducer."""

    tasks = ()


class AutoModelForTDT(AutoModel):
    """Models that write what is said and how long it takes."""

    tasks = ()


class AutoModelForTableQuestionAnswering(AutoModel):
    """Models that answer questions about tables."""

    tasks = ()


class AutoModelForTableRecognition(AutoModel):
    """Models that read tables in pictures."""

    tasks = ()


class AutoModelForTextRecognition(AutoModel):
    """Models that read texts in pictures."""

    tasks = ()


class AutoModelForTimeSeriesPrediction(AutoModel):
    """Models that go on with series of numbers."""

    tasks = ()


__all__ = [
    "AutoModelForDecision",
    "AutoModelForImageMatting",
    "AutoModelForImageToImage",
    "AutoModelForKeypointDetection",
    "AutoModelForKeypointMatching",
    "AutoModelForNormalEstimation",
    "AutoModelForPointmapEstimation",
    "AutoModelForPoseEstimation",
    "AutoModelForRNNT",
    "AutoModelForTDT",
    "AutoModelForTableQuestionAnswering",
    "AutoModelForTableRecognition",
    "AutoModelForTextRecognition",
    "AutoModelForTimeSeriesPrediction",
]
