"""Stage functions, one file per family of kinds. Need torch, save for the table of metrics."""
