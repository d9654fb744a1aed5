"""From interactions to example rows."""
