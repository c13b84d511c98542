"""Networks for one kind of data each, built of blocks."""
