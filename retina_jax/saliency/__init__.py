"""Where a picture changed a model's score, beside controls that a map has to beat."""
