"""Calibration drawn: histograms of ranks, coverage, posterior-predictive checks."""
