"""Which channels of a model are tied, which stay and which go, and what a custom layer says of its own."""

from force_tf.channels.rules.base import PINNED, ChannelRule, Cut, labels

__all__ = ["PINNED", "ChannelRule", "Cut", "labels"]
