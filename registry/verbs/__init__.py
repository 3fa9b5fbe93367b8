"""The registry's verbs that publish and fetch, one file each: parse, call, print; rules are elsewhere."""
