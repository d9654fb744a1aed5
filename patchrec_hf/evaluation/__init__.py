"""Evaluation: from rankings to reports, with metrics, protocols and intervals."""
