"""Layers that the spaces and methods share."""
