"""What people make of a discovery: they correct it on a board, and save it as a labelled data set and as a model."""

from __future__ import annotations

from anomalyhub.review.board import Board, Column
from anomalyhub.review.export import ClassCount, class_counts, save_labelled, save_model
from anomalyhub.review.steps import Mark

__all__ = ["Board", "ClassCount", "Column", "Mark", "class_counts", "save_labelled", "save_model"]
