"""Energy objectives: energies of data against those of other examples."""
