"""Objectives whose minimizer is the score of the data."""
