"""Baselines: what any recommender has to beat."""

from .popularity import Popularity


__all__ = ["Popularity"]
