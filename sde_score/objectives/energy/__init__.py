"""Objectives that compare the energy of data with that of other examples."""
