"""The builder's verbs, one file each: parse, call, print; rules are elsewhere. Each loads what it needs when called."""
