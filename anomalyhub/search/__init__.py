"""Coreset selection and nearest neighbours over patch features."""

from anomalyhub.search.coreset import CoresetPlan, StreamingCoreset
from anomalyhub.search.k_center import covering_radius, k_center_greedy
from anomalyhub.search.neighbours import NearestNeighbours

__all__ = ["CoresetPlan", "NearestNeighbours", "StreamingCoreset", "covering_radius", "k_center_greedy"]
