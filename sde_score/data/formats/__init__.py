"""Formats of data files, one module each."""
