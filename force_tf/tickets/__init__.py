"""Lottery tickets: rounds of training, pruning and rewinding around the user's own `fit`."""
