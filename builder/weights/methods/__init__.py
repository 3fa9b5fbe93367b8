"""How each type of PEFT adapter changes a weight: one file for a family of formulas."""
