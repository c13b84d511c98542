"""Distances between sets of examples, with confidence intervals and noise floors."""
