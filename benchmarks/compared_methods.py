"""The methods that the benchmarks compare, each as what a training begins with: a model with masks, and callbacks."""

from __future__ import annotations

import bisect
import math
import shutil
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import image_data
import numpy as np
from training import cross_entropy

import force_tf

AT_INIT = ("random", "random_erk", "snip", "grasp", "synflow", "iter_snip", "force", "early_ticket")
MORE_AT_INIT = (
    *("snip_mb", "grasp_mb", "grasp_it", "synflow_l2"),
    *("early_ticket_fast", "early_ticket_slow_rate", "early_ticket_one_cut"),
)
DURING = ("gmp", "rigl", "set", "granet", "granet_st", "dpf", "fggp", "flipout", "snip_it")
TICKET = "ticket"  # by `find_ticket`, which trains many times
SMALL_DENSE = "small_dense"  # narrower layers and no masks
NAMES = ("dense", SMALL_DENSE, *AT_INIT, *MORE_AT_INIT, *DURING, TICKET)
_GROW_AND_DROP = ("rigl", "set")  # which keep the density that they begin with
_FORCE_BATCHES = 60  # as many as FORCE looks at, one a step
_SETTINGS = {
    "random_erk": {"method": "random", "scope": "erk"},
    "snip_mb": {"method": "snip", "batches": _FORCE_BATCHES},
    "grasp_mb": {"method": "grasp", "batches": _FORCE_BATCHES},
    "grasp_it": {"method": "iter_grasp"},
    "early_ticket_fast": {"method": force_tf.criteria.EarlyTicket(inner_steps=4)},
    # At a fifth of the rate that the search takes for networks that are not compiled.
    "early_ticket_slow_rate": {"method": force_tf.criteria.EarlyTicket(learning_rate=0.02)},
    # As many SGD steps as "early_ticket" makes, and all pruning after them.
    "early_ticket_one_cut": {"method": force_tf.criteria.EarlyTicket(inner_steps=60 * 16), "steps": 1},
}


class Start(NamedTuple):
    """What a training begins with.

    Attributes:
        model: The network, with masks unless the method is one of a dense network.
        callbacks: What `fit` needs.
        facts: What is worth knowing of the search; all that JSON can hold.
    """

    model: Any
    callbacks: list[Any]
    facts: dict[str, Any]


def start(
    method: str,
    network: Any,
    data: image_data.ImageData,
    *,
    sparsity: float,
    batch: int,
    seed: int,
    fit: Callable[[Any], Any] | None = None,
    folder: str | None = None,
    layers: Any = None,
    scaled: Callable[[float], Any] | None = None,
) -> Start:
    """Returns what a training by a method of `NAMES` begins with.

    Args:
        method: Which method.
        network: The dense network, which stays as it is.
        data: What it will train on.
        sparsity: The fraction of the prunable weights to remove.
        batch: Images in a batch of the search, and of the gradients of an update.
        seed: Seed of the masks and of these batches.
        fit: For a ticket: trains a network as all are trained here, and returns a result (the last, if several).
        folder: For a ticket: where its rounds are kept until it is found.
        layers: Which layers to prune, as `PruneAtInit` takes them; not for a ticket.
        scaled: For a small dense network: returns the network with so many times the channels in its hidden layers.
    """
    if method == "dense":
        return Start(network, [], {})
    if method == SMALL_DENSE:
        total = prunable_count(network)
        small = small_dense(scaled, round(total * (1 - sparsity)))
        return Start(small, [], {"kept": prunable_count(small), "total": total})
    if method in (*AT_INIT, *MORE_AT_INIT):
        begin = time.process_time()
        masks = find_masks(method, network, data, sparsity, batch, seed, layers)
        facts = {"kept": masks.kept, "total": masks.total, "search_seconds": time.process_time() - begin}
        facts["effective_sparsity"] = masks.metadata.get("effective_sparsity")
        return Start(force_tf.apply_masks(network, masks), [], facts)
    if method == TICKET:
        ticket = force_tf.find_ticket(
            network, lambda each: {"result": fit(each)}, sparsity=sparsity, checkpoint=folder, verbose=0
        )
        rounds = [(row["trained_density"], row["metrics"]["result"]) for row in ticket.history]
        facts = {"kept": ticket.masks.kept, "total": ticket.masks.total, "rounds": rounds}
        shutil.rmtree(folder)
        return Start(ticket.apply(network), [], facts)
    pruning = force_tf.callbacks.PruneDuringTraining(
        method.removesuffix("_st"),
        sparsity=sparsity,
        initial_sparsity=0.5 if method == "granet_st" else 0.0,
        # Other batches than those of the training, as callbacks do not see these.
        data=data.train_batches(batch, seed + 1000),
        loss=cross_entropy(network),
        seed=seed,
    )
    if method in (*_GROW_AND_DROP, "granet_st"):
        before = 0.5 if method == "granet_st" else sparsity
        masks = find_masks("random_erk", network, data, before, batch, seed, layers)
        return Start(force_tf.apply_masks(network, masks), [pruning], {})
    all_kept = None if layers is None else find_masks("random", network, data, 0.0, batch, seed, layers)
    return Start(force_tf.apply_masks(network, all_kept), [pruning], {})


def small_dense(scaled: Callable[[float], Any], most: int) -> Any:
    """Returns the widest network of at most so many prunable weights, to a thousandth of the width.

    Where one unit in each layer has more weights already, that network.

    Args:
        scaled: Returns the network with so many times the channels in its hidden layers.
        most: How many weights.
    """
    thousandths = bisect.bisect_right(range(1, 1001), most, key=lambda each: prunable_count(scaled(each / 1000)))
    return scaled(thousandths / 1000)


def prunable_count(network: Any) -> int:
    """Returns how many weights of a network masks could prune: those of kernels, not biases and normalizations."""
    return sum(math.prod(weight.shape) for weight in network.trainable_weights if len(weight.shape) > 1)


def unless_diverged(fit: Callable[[], Any]) -> Any:
    """Returns what a training returns, or None if its weights became NaN: an update of the masks then ends it."""
    try:
        return fit()
    except ValueError as error:
        if "NaN" not in str(error):
            raise
        return None


def end(model: Any, callbacks: list[Any], data: image_data.ImageData) -> dict[str, Any]:
    """Returns what is worth knowing after the training."""
    outputs = model.predict(data.normalize(data.test_images[:256]), batch_size=256, verbose=0)
    facts: dict[str, Any] = {"collapsed": bool(np.ptp(outputs, axis=0).max() < 1e-6)}  # up to how rows round
    facts["diverged"] = not bool(np.isfinite(outputs).all())
    if callbacks:
        masks = force_tf.get_masks(model)
        updates = callbacks[0].history
        facts |= {"kept": masks.kept, "total": masks.total, "updates": len(updates)}
        facts["update_seconds"] = sum(row["seconds"] for row in updates)
    return facts


def find_masks(
    method: str, network: Any, data: Any, sparsity: float, batch: int, seed: int, layers: Any = None
) -> force_tf.Masks:
    """Returns the masks of a method that prunes at initialization; the other arguments are those of `start`."""
    pruner = force_tf.PruneAtInit(
        sparsity=sparsity, layers=layers, seed=seed, **_SETTINGS.get(method, {"method": method})
    )
    return pruner.find_masks(network, data.train_batches(batch, seed), cross_entropy(network), verbose=0)
