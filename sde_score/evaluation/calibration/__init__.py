"""Calibration: whether posteriors are as wide as they should be, by ranks of the truth."""
