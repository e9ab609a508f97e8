"""Which channels of a model are tied, which stay and which go."""
