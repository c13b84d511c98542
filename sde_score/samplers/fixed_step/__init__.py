"""Samplers on a given time grid: one-step, multistep and Runge-Kutta methods."""
