"""Norm tuning: norms, or other modules, are trained whole and take the place of the model's (Zhao et al., 2023)."""

from __future__ import annotations

from builder.weights.method import Method

__all__ = ["LN_TUNING"]

LN_TUNING = Method(saved=frozenset({"ln_tuning_layers"}))
