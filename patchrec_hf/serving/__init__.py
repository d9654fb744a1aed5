"""Serving: the service that recommends over HTTP, with its queues, its histories and its user states."""
