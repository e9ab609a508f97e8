"""`find_ticket`: iterative magnitude pruning with rewinding."""

from __future__ import annotations

import math
import numbers
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from force_tf.granularity import Weights, check_scope, split
from force_tf.layers import wrapper_class
from force_tf.masks import Masks
from force_tf.models.keras_models import keras_of
from force_tf.models.layer_selection import LayerSelection
from force_tf.models.paths import mask_wrappers
from force_tf.models.prunable import prunable_weights
from force_tf.models.rebuild import rebuild
from force_tf.search.network import check_searchable
from force_tf.search.planning import make_plan
from force_tf.search.workers import Workers
from force_tf.support import arguments
from force_tf.support.state_file import StateFile, digest_of
from force_tf.tickets.progress import Progress, read, write
from force_tf.tickets.ticket import Ticket, masked_network, plain_weights
from force_tf.tickets.watched_fit import WatchedFit, steps_of
from force_tf.training.health import Health

_ADVICE = "a lower `sparsity` or `fraction`, `min_per_layer=`, or `scope='layer'`"


def find_ticket(
    model: keras.Model,
    fit: Callable[[keras.Model], Any],
    *,
    sparsity: float,
    fraction: float = 0.2,
    rewind_step: int = 0,
    rewind: str = "weights",
    scope: str = "global",
    min_per_layer: int = 0,
    layers: LayerSelection = None,
    checkpoint: str | os.PathLike | None = None,
    verbose: str | int = "auto",
) -> Ticket:
    """Finds a lottery ticket: a sparse network that trains about as well as the dense one, from the same weights.

    A round trains the network θ⊙m by `fit`, prunes of its k kept weights the ceil(fraction · k) with the smallest |θ|,
    and rewinds the others to θ_j, what they were after j = `rewind_step` steps of the first, dense training. Rounds go
    on until `sparsity` is reached, which the last one meets exactly. So a sparsity of 90% takes 11 trainings at a
    fraction of 0.2, and one more for the ticket itself: `fit(ticket.apply(model))`.

    All weights rewind, biases and batch statistics too. The optimizer is new in every round; its count of steps begins
    at j, so that a learning rate that depends on it goes on from there, and a `fit` ends where the first one ended.

    Args:
        model: A built Functional or Sequential model of Keras 3 or `tf_keras`, without masks. It stays as it is: every
            round trains a copy.
        fit: Trains the model that it is given from start to end, as your training does, by `model.fit` or otherwise. It
            may compile it. What it returns, a `History`, a mapping of numbers or tensors of one, or one number, goes
            into the history.
        sparsity: The fraction of the prunable weights to remove, 0 < sparsity < 1.
        fraction: The part of the kept weights that a round prunes, 0 < fraction < 1.
        rewind_step: j, a step of the optimizer. 0 goes back to the initial weights; in deep networks some hundreds or
            thousands of steps work better. `fit` has to train by `model.fit` or `model.train_on_batch` then; of steps
            that `steps_per_execution` runs at once, the last one counts. Where `fit` compiles the model anew between
            two trainings, it has to lie in the first.
        rewind: "weights", or "learning_rate" to rewind nothing but the count of steps, by which the learning rate goes.
        scope: "global" to compare all weights in a cut; "layer" to prune the same part of each tensor; "erk" for
            densities by Erdős–Rényi kernel.
        min_per_layer: Each weight tensor keeps at least so many weights, or all that it has.
        layers: Which layers to prune, as in `PruneAtInit`.
        checkpoint: A folder in which the search keeps its state: after every round, and when θ_j is there. If it was
            killed, the same call goes on with the round in which it was.
        verbose: 0 for silence, 1 or "auto" for a progress bar over the rounds, 2 for a line at the end.

    Returns:
        The `Ticket`: masks, rewound weights, and a history of the rounds.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range, the model is not built, cannot be copied or has masks, the
            checkpoint is damaged or of another search; and after a round, if `fit` trained nothing, did not come to
            `rewind_step`, or left weights that are not finite.
        ImportError: If `model` is of tf_keras, and tensorflow-model-optimization is not installed.
        OSError: If the checkpoint cannot be written.

    Warns:
        LayerCollapseWarning: In the round in which a weight tensor loses all its weights, or the output of the network
            comes not to depend on its input.

    Example:

    ```python
    def fit(network):
        return network.fit(x, y, epochs=5, verbose=0)

    ticket = force_tf.find_ticket(model, fit, sparsity=0.5)  # four rounds; 0.9 takes eleven
    fit(ticket.apply(model))
    ```

    References:
        - [The Lottery Ticket Hypothesis](https://arxiv.org/abs/1803.03635) (rewinding to the start)
        - [Linear Mode Connectivity and the Lottery Ticket Hypothesis](https://arxiv.org/abs/1912.05671) (to a step)
        - [Comparing Rewinding and Fine-tuning](https://arxiv.org/abs/2003.02389) (of the learning rate)
    """
    settings = {
        "sparsity": _open_fraction("sparsity", sparsity),
        "fraction": _open_fraction("fraction", fraction),
        "rewind_step": arguments.integer("rewind_step", rewind_step, minimum=0),
        "rewind": arguments.one_of("rewind", rewind, ("weights", "learning_rate")),
        "scope": check_scope(scope, Weights()),
        "min_per_layer": arguments.integer("min_per_layer", min_per_layer, minimum=0),
    }
    arguments.one_of("verbose", verbose, ("auto", 0, 1, 2))
    if not callable(fit):
        raise TypeError(f"Expected `fit` to be a function that trains the model it is given. Received: fit={fit!r}")
    check_searchable(model)
    wrapper_class(model)  # a search of hours should not end with a package that is missing
    rebuild(model)  # raises if every round could not train a copy
    search = _Search(model, fit, settings, layers, checkpoint)
    return search.run(1 if verbose == "auto" else verbose)


def kept_counts(total: int, sparsity: float, fraction: float) -> list[int]:
    """Returns how many of so many weights each round leaves: in the end round(total · (1 − sparsity))."""
    counts, kept, last = [], total, round(total * (1.0 - sparsity))
    while kept > last:
        # A product such as 0.3 * 10 may lie an ulp above the whole number that is meant.
        kept = max(last, kept - math.ceil(round(fraction * kept, 9)))
        counts.append(kept)
    return counts


class _Search:
    """The rounds of one search."""

    def __init__(
        self,
        model: Any,
        fit: Callable[[Any], Any],
        settings: dict[str, Any],
        layers: LayerSelection,
        checkpoint: str | os.PathLike | None,
    ):
        self._model, self._fit, self._settings, self._workers = model, fit, settings, Workers(model)
        self._file: StateFile | None = None
        self._weights, self._left_out = prunable_weights(model, layers)
        total = sum(weight.size for weight in self._weights)
        counts = kept_counts(total, settings["sparsity"], settings["fraction"])
        self._granularity = Weights()
        self._plan = make_plan(
            self._weights,
            self._granularity,
            [count / total for count in counts],
            sparsity=settings["sparsity"],
            schedule=[count / total for count in counts],
            scope=settings["scope"],
            min_per_layer=settings["min_per_layer"],
            revive=False,
        )
        self._health = Health(model, _ADVICE)
        self._progress = Progress(kept=np.ones(total, bool), first_step=settings["rewind_step"])
        if checkpoint is not None:
            reads = {"read": self._workers.content_of, "makes_folder": self._workers.is_chief}
            self._file = StateFile(checkpoint, "ticket", **reads)
            # Other processes have other batch statistics.
            self._file.begin(self._workers.agree(self._description(counts)))
            self._progress = read(self._file, total) or self._progress

    def run(self, verbose: int) -> Ticket:
        """Makes the rounds that are left, and returns the ticket."""
        rounds, verbose = len(self._plan.counts), verbose if self._workers.is_chief else 0
        bar = keras.utils.Progbar(rounds, verbose=verbose, unit_name="round", stateful_metrics=["density"])
        while (done := len(self._progress.history)) < rounds:
            row = self._round(done + 1)
            bar.stateful_metrics |= row["metrics"].keys()  # shown as they are, not averaged over the rounds
            bar.update(done + 1, [("density", row["density"]), *row["metrics"].items()])
        progress = self._progress
        masks = self._masks()
        self._health.check(self._network(), masks, f"round {rounds}")
        weights = self._model.get_weights() if progress.weights is None else progress.weights
        return Ticket(masks, list(weights), progress.history, progress.first_step)

    def _round(self, number: int) -> dict[str, Any]:
        """Trains, prunes and rewinds."""
        began = time.perf_counter()
        progress, masks = self._progress, self._masks()
        network = self._network()
        if number > 1:
            self._health.check(network, masks, f"round {number - 1}")
        before = network.get_weights()
        outcome, steps = self._train(network, number)
        metrics = _metrics(outcome)
        if all(np.array_equal(old, new) for old, new in zip(before, network.get_weights())):
            raise ValueError(
                "Expected a `fit` that trains the model that it is given. Received: one that left all weights as they "
                f"were in round {number}"
            )
        progress.last_step = progress.last_step or steps
        progress.kept = self._cut(network, number)
        if self._settings["rewind"] == "learning_rate":
            progress.weights = plain_weights(network)
        kept = int(np.count_nonzero(progress.kept))
        row = {
            "round": number,
            "trained_density": masks.density(),
            "steps": steps - (progress.first_step if number > 1 else 0),
            "metrics": metrics,
            "kept": kept,
            "density": kept / progress.kept.size,
            "seconds": time.perf_counter() - began,
        }
        progress.history.append(row)
        self._save()
        return row

    def _train(self, network: Any, number: int) -> tuple[Any, int]:
        """Returns what the user's function returns, and the step at which it ends; keeps θ_j on the way."""
        step, progress = self._settings["rewind_step"], self._progress
        if not step:
            return self._fit(network), steps_of(network)
        wants_weights = number == 1 and self._settings["rewind"] == "weights"

        def keep(now: int) -> None:
            progress.weights, progress.first_step = plain_weights(network), now
            self._save()

        watched = WatchedFit(
            network,
            first_step=progress.first_step if number > 1 else 0,
            at=step if wants_weights else None,
            then=keep,
            last_step=progress.last_step if number > 1 else None,
        )
        try:
            outcome = self._fit(network)
        finally:
            watched.release()
        if watched.steps_of_first <= progress.first_step or (wants_weights and progress.weights is None):
            raise ValueError(
                f"Expected a `fit` that makes more than rewind_step={step} steps, by `model.fit` or "
                "`model.train_on_batch`, before it compiles the model anew, if it does. "
                f"Received: {watched.steps_of_first} steps of the model's optimizer"
            )
        return outcome, watched.steps

    def _network(self) -> Any:
        """Returns the network of the present masks, rewound."""
        begin = self._progress.first_step if self._progress.history else 0
        return masked_network(self._model, self._masks(), self._start(), begin)

    def _start(self) -> list[np.ndarray] | None:
        """Returns the weights that a round begins with; None for those of the model."""
        return self._progress.weights if self._progress.history else None

    def _cut(self, network: Any, number: int) -> np.ndarray:
        wrappers = mask_wrappers(network)  # with the weights of layers that the user's function has frozen too
        found = {f"{path}/{each.path}": each.variable for path, wrapper in wrappers for each in wrapper.masked_weights}
        values = [np.asarray(tf.cast(tf.convert_to_tensor(found[w.path]), tf.float64)) for w in self._weights]
        bad = [w.path for w, value in zip(self._weights, values) if not np.isfinite(value).all()]
        if bad:
            raise ValueError(
                "Expected finite weights after a training; lower its learning rate. "
                f"Received: weights that are not finite in {', '.join(bad)}, after round {number}"
            )
        scores = np.concatenate([np.abs(value).ravel() for value in values])
        kept = self._granularity.cut(self._plan, number, scores, self._progress.kept)
        self._workers.check_same("masks", lambda: np.packbits(kept).tobytes(), "settings and a `fit` that trains alike")
        return kept

    def _masks(self) -> Masks:
        masks = dict(zip((weight.path for weight in self._weights), split(self._progress.kept, self._weights)))
        metadata = {"method": "lottery_ticket", **self._settings, "round": len(self._progress.history)}
        return Masks(masks, left_out=self._left_out, metadata=metadata)

    def _description(self, counts: list[int]) -> dict[str, Any]:
        return {
            "keras": keras_of(self._model).__name__,
            **self._settings,
            "kept weights": counts,
            "prunable weights": [[weight.path, list(weight.shape)] for weight in self._weights],
            "values of the model": digest_of(self._model.get_weights()),
        }

    def _save(self) -> None:
        if self._file is not None and self._workers.is_chief:
            write(self._file, self._progress)


def _open_fraction(name: str, value: Any) -> float:
    value = arguments.fraction(name, value)
    if not value:
        raise ValueError(f"Expected `{name}` to be above 0 and below 1. Received: {name}={value!r}")
    return value


def _metrics(outcome: Any) -> dict[str, float]:
    """Returns the numbers in what the user's function returned: of lists of numbers the last one."""
    outcome = getattr(outcome, "history", outcome)
    if not isinstance(outcome, Mapping):
        number = _number(outcome)
        return {} if number is None else {"result": number}
    last = {
        str(name): _number(value[-1] if isinstance(value, (list, tuple)) and value else value)
        for name, value in outcome.items()
    }
    return {name: number for name, number in last.items() if number is not None}


def _number(value: Any) -> float | None:
    """Returns a number, or a tensor, variable or array of one, as a float; None if it is none."""
    if getattr(value, "shape", None) == () and str(value.dtype) != "object":
        tensor = tf.convert_to_tensor(value)
        return float(tensor) if tensor.dtype.is_floating or tensor.dtype.is_integer else None
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else None
