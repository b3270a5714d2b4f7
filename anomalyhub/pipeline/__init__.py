"""Stages composed: a detector with a threshold applied to images, and from images to kinds of defect."""

from anomalyhub.pipeline.inspector import ANOMALOUS, Inspector, evaluate

__all__ = ["ANOMALOUS", "Inspector", "evaluate"]
