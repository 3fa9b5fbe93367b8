"""Files of mergekit, the tool that most merged models were made with: read, and said again as manifests."""
