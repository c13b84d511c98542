"""Tables of mixed columns: kinds, encodings, data frames, and the way back."""
