"""Samplers made of samplers: restarts, and steps solved in parallel."""
