"""Samplers measured against exact flows and distributions."""
