"""Samplers that choose their step sizes, for each example on its own."""
