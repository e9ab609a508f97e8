"""Names training inside the search as the cause, where it has diverged or come to a standstill."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence

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
            f"{argument}={rate / 10:g}. If that does not help, check the inputs and targets of all batches. Received: "
            f"{argument}={rate:g}, and {error.received}"
        ) from error


class Standstill:
    """Watches for weights that no gradient reaches any more, as when a large step leaves all units of a layer at zero.

    Args:
        network: The network that trains, before anything of it is pruned: later a cut may be the cause.
    """

    _CALLER = 6  # of the search, from `warn`: the criterion, the loop of the search, and its public method lie between

    def __init__(self, network: Network):
        self._names = [weight.path for weight in network.weights]
        self._reached: list[list[bool]] = []

    def see(self, gradients: Sequence[tf.Tensor]) -> None:
        """Takes the gradients of a step, the prunable weights first."""
        self._reached.append([bool(tf.reduce_any(gradient != 0)) for gradient in gradients[: len(self._names)]])

    def warn(self, argument: str, rate: float) -> None:
        """Warns of weights that gradients have reached, and miss in most of the last quarter of the steps.

        Args:
            argument: The name of the criterion's learning rate.
            rate: Its value.
        """
        steps = len(self._reached)
        last = max(2, steps // 4)  # a single step may miss a layer by chance, where paths are dropped as a whole
        still = [
            name
            for name, reached in zip(self._names, zip(*self._reached))
            if any(reached) and reached[-last:].count(False) > last / 2
        ]
        if still:
            warnings.warn(
                f"Training inside the search has come to a standstill: in most of the last {last} of {steps} steps no "
                f"gradient reaches {', '.join(still)}, so that the masks say little. Lower its learning rate, such as "
                f"{argument}={rate / 10:g}. Received: {argument}={rate:g}",
                stacklevel=self._CALLER,
            )
