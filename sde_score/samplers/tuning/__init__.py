"""Searching the time grid that suits a model."""
