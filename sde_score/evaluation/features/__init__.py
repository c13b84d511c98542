"""Feature extractors that distances look through."""
