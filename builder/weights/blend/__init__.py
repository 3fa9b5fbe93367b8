"""One tensor blended from the same tensor of several models: read by tiles, in float64, rounded once."""
