"""Trainable tokens: new rows of an embedding for chosen tokens; PEFT's own method, without a paper."""

from __future__ import annotations

from builder.weights.method import Method

__all__ = ["TRAINABLE_TOKENS"]

TRAINABLE_TOKENS = Method(read=frozenset({"token_indices"}), silent=frozenset({"init_weights"}))
