"""Pull requests: what is taken from one, the tree that it is built in, and how a runner answers it."""
