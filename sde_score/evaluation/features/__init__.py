"""Feature extractors of distances."""
