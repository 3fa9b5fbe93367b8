"""Stage functions, one file per family of kinds. Need torch."""
