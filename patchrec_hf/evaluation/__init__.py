"""From rankings to reports: metrics, protocols, intervals."""
