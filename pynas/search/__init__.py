"""Exact search over score tables under cost limits."""
