"""Records on disk: how they are stored, listed, selected, grouped and split."""
