"""The noise that a sampler adds: Brownian paths, stochasticity, reverse variances."""
