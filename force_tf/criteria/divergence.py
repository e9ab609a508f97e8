"""Names training inside the search as the cause, where it has diverged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from force_tf.criteria.network import Network
from force_tf.objective.gradients import NotFiniteError


@contextlib.contextmanager
def naming_divergence(network: Network, argument: str, rate: float) -> Iterator[None]:
    """Says what helps if a loss or gradient is not finite once the weights have moved, for criteria that train.

    Args:
        network: The network that trains.
        argument: The name of the criterion's learning rate.
        rate: Its value.

    Raises:
        ValueError: If that happens. Where the weights are still the initial ones, the error stays as it was.
    """
    try:
        yield
    except NotFiniteError as error:
        moved = (
            tf.reduce_any(tf.where(mask, weight != dense, False))
            for weight, dense, mask in zip(network.masked_weights(), network.dense, network.masks)
        )
        if not any(map(bool, moved)):
            raise
        raise ValueError(
            "Expected training inside the search that does not diverge: lower its learning rate, such as "
            f"{argument}={rate / 10:g}. Received: {argument}={rate:g}, and {error.received}"
        ) from error
