"""Arithmetic on weights: streams of row blocks, adapters, shards. Needs torch."""
