"""Sources: examples that are read when they are asked for, rows of a collection by number."""
