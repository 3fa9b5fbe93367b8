"""From manifest to artifact; import from the named modules, and the version from ``registry``."""
