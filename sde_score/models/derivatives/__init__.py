"""Derivatives of score fields: Jacobian products, divergences, and whether a model has them."""
