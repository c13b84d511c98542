"""One file for each format that a data set can come in."""
