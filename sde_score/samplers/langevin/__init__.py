"""Samplers with Langevin steps: predictor-corrector, annealed Langevin, Markov chains."""
