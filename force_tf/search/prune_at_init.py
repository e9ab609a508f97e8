"""`PruneAtInit`: the one loop that all methods share."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from force_tf import criteria, layers, schedules
from force_tf.granularity import BoundGranularity, Plan, check_scope, resolve, split
from force_tf.masks import Masks
from force_tf.models.keras_models import check_model
from force_tf.models.layer_selection import LayerSelection
from force_tf.models.model_state import preserved_variables
from force_tf.models.prunable import prunable_weights
from force_tf.models.weights import PrunableWeight
from force_tf.search import presets
from force_tf.search.checkpoint import Checkpoint, Progress
from force_tf.search.collapse_check import check_collapse
from force_tf.search.cutting import check_place, make_cut
from force_tf.search.data import check_loss_argument, search_data
from force_tf.search.findings import budget_facts, facts_of, live_weights, warnings_of
from force_tf.search.limits import BoundLimits, Limits, check_budget
from force_tf.search.metadata import search_description, settings_of
from force_tf.search.network import build_network, check_searchable, prepared
from force_tf.search.planning import make_plan
from force_tf.search.repair import Repair, make_repair
from force_tf.search.workers import Workers
from force_tf.search.zero_scores import ZeroScores
from force_tf.support import arguments


class PruneAtInit:
    """Finds, before any training, the weights of a Keras model worth keeping.

    From all weights kept, step t of T scores the network pruned so far and keeps exactly k_t = round(N · density_t)
    of its N prunable weights: those with the largest scores, the lower index among equal ones.

    Args:
        method: "snip", "iter_snip", "snip_it", "force", "grasp", "iter_grasp", "synflow", "synflow_l2", "ntk_sap",
            "px", "prospr", "early_ticket", "magnitude", "random", or a `force_tf.criteria.Criterion`. A criterion of
            this package brings the defaults of the method named after it; another one is applied once.
        sparsity: The fraction of the prunable weights to remove, 0 <= sparsity < 1. None: 0.99, or what `budget` asks.
        budget: A `force_tf.Budget` in place of a sparsity: what the network may cost that `shrink` leaves. The search
            ends with the first step whose cut fits it, and then cuts so that the densest network within it comes out.
        steps: T, the number of steps; None for the method's own: 60 for "iter_snip", "force", "iter_grasp" and
            "early_ticket", 100 for "synflow", "synflow_l2" and "px", 20 for "ntk_sap", 7 for "snip_it", 1 for the
            others.
        schedule: "exponential", "linear", or a `callable(step, steps, density) -> density`; None for the method's own.
        batches: How many batches each step's score is averaged over; None for the method's own: 5 for "snip_it" and
            "ntk_sap", 2 for "px", 1 for the others.
        revive: Whether pruned weights may come back; None for the method's own: only in "force" and "early_ticket".
        invert: Whether to keep the weights with the lowest scores instead, as a sanity check of a method: if networks
            train as well with them, its scores say nothing.
        repair: Whether the last cut exchanges kept weights that lie on no path from an input to an output for the best
            live ones, as many. For granularity "weight". A layer that has too few of them gets less than its share.
        scope: "global" to compare all weights with each other; "layer" to keep the same fraction of each tensor; "erk"
            (Erdős–Rényi kernel) to keep of each tensor a number in proportion to the sum of its shape, or all it has.
        min_per_layer: Each weight tensor keeps at least so many weights, or all that it has (of a pattern, all that it
            allows). Taken from the k_t.
        granularity: What is kept or pruned as one: "weight"; the shape of a block along the last axes of every weight,
            such as (1, 4), so that blocks take the place of weights in the counts above; a pattern "N:M", such as
            "2:4": of every M consecutive weights along the input axis at most N are kept; or "channel", for whole
            output channels, tied ones together, of which `shrink` leaves as many weights as the counts above say, or
            fewer by less than a channel.
        layers: Which layers to prune: None for all that are pruned by default; names, paths or regular expressions
            (matched in full); or a `callable(layer) -> bool`.
        seed: Shuffles data given as arrays, and draws the scores of "random". None for another order every time.
        cut: Where the weights to keep are chosen: "host", "device", or "auto" for the device if the weights live on a
            GPU or TPU and are kept or pruned one by one, and the host if not. The masks are the same.

    Attributes:
        history: One dict per step of the last search: "step", "density" and "kept" (of the weights, after the cut),
            "saliency_kept" (the part of the sum of all absolute scores that the kept weights have), "revived" (weights
            that came back in this step), "seconds".

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range, or a name is unknown.

    Example:

    ```python
    pruner = force_tf.PruneAtInit("force", sparsity=0.99)
    pruned = pruner.prune(model, (x_train, y_train))
    pruned.fit(x_train, y_train)
    ```

    References:
        - [Progressive Skeletonization](https://arxiv.org/abs/2006.09081) (FORCE, Iterative SNIP, GraSP-It)
        - [SNIP](https://arxiv.org/abs/1810.02340), [GraSP](https://arxiv.org/abs/2002.07376),
          [SynFlow](https://arxiv.org/abs/2006.05467), [ProsPr](https://arxiv.org/abs/2202.08132)
    """

    invert, repair, budget, cut = False, False, None, "auto"  # of objects that were pickled before there was a choice

    def __init__(
        self,
        method: str | criteria.Criterion = "force",
        sparsity: float | None = None,
        *,
        budget: Limits | None = None,
        steps: int | None = None,
        schedule: str | schedules.Schedule | None = None,
        batches: int | None = None,
        revive: bool | None = None,
        invert: bool = False,
        repair: bool = False,
        scope: str = "global",
        min_per_layer: int = 0,
        granularity: str | Sequence[int] = "weight",
        layers: LayerSelection = None,
        seed: int | None = None,
        cut: str = "auto",
    ):
        self.method, self.criterion, preset = presets.resolve(method)
        self.budget = check_budget(budget, sparsity, repair)
        self.sparsity = None if budget else arguments.fraction("sparsity", 0.99 if sparsity is None else sparsity)
        self.steps = arguments.integer("steps", preset.steps if steps is None else steps, minimum=1)
        self.schedule = preset.schedule if schedule is None else schedule
        self._schedule = schedules.get(self.schedule)
        self.batches = arguments.integer("batches", preset.batches if batches is None else batches, minimum=1)
        self.revive = bool(arguments.one_of("revive", preset.revive if revive is None else revive, (True, False)))
        self.invert = bool(arguments.one_of("invert", invert, (True, False)))
        self.repair = bool(arguments.one_of("repair", repair, (True, False)))
        self.min_per_layer = arguments.integer("min_per_layer", min_per_layer, minimum=0)
        self._granularity = resolve(granularity)
        self.granularity = self._granularity.value
        self.scope = check_scope(scope, self._granularity)
        self.cut = arguments.one_of("cut", cut, ("auto", "host", "device"))
        check_place(self.cut, self._granularity, self.repair, self.budget)
        self.layers = layers
        self.seed = None if seed is None else arguments.integer("seed", seed, minimum=0)
        self.history: list[dict[str, Any]] = []
        # With a budget it is the scores that tell where the schedule leads.
        self._densities = (
            [1.0] * self.steps if budget else schedules.densities(self._schedule, self.steps, 1.0 - self.sparsity)
        )

    def __repr__(self) -> str:
        aim = f"budget={self.budget!r}" if self.budget else f"sparsity={self.sparsity}"
        return f"PruneAtInit(method={self.method!r}, {aim}, steps={self.steps})"

    def find_masks(
        self,
        model: keras.Model,
        data: Any = None,
        loss: Any = None,
        *,
        batch_size: int = 128,
        micro_batch_size: int | None = None,
        verbose: str | int = "auto",
        checkpoint: str | os.PathLike | None = None,
    ) -> Masks:
        """Searches the masks. The model comes back bit for bit as it was, also when the search fails or is interrupted.

        Args:
            model: A built model of Keras 3 or `tf_keras`.
            data: What `fit` takes: a batched `tf.data.Dataset`, arrays `(x, y)` or `(x, y, sample_weight)`, a
                `PyDataset`, or any iterable of batches. Each step takes the next `batches` batches, and the data starts
                over when it runs out. Arrays may be sparse (`tf.SparseTensor`, scipy's), ragged, or pandas's.
                Where no loss needs targets, as in "px", inputs alone will do. "synflow", "synflow_l2", "ntk_sap",
                "magnitude" and "random" need no data.
            loss: A loss of the model's Keras, its name, or any `callable(y_true, y_pred)` (or a list or dict of them
                for several outputs); None for what the model trains on: its own `compute_loss`, or else its compiled
                loss and what its layers add by `add_loss`. Regularizers are not scored.
            batch_size: The batch size for arrays. Other data keeps its own.
            micro_batch_size: How many rows of a batch are computed at once, so that a large batch needs the memory of a
                small one; None for all. Gradients and Hessian products of the parts add up to those of the batch, so
                that the masks are the same but for rounding; but with BatchNormalization each part has the statistics
                of its own rows. Refused for methods that score no loss, losses that reduce their rows themselves or
                divide by masks or sample weights, what models or layers add to the loss, models that fix their batch
                size, and distributed datasets.
            verbose: 0 for silence, 1 or "auto" for a progress bar, 2 for a line at the end.
            checkpoint: A folder in which the search keeps its state, after every step or so often that it costs no more
                than a twentieth of the time. If it was killed, the same call goes on where it was, and ends with the
                same masks, if the data comes in the same order; if it was finished, it returns them at once.

        Returns:
            The `Masks`, with the settings of the search in their metadata.

        Raises:
            TypeError: If `model` is not a Keras model, or `data` or `loss` of no such form or of the other Keras.
            ValueError: If the model is not built or pruned already, if data, targets or loss do not fit, if nothing
                would be left, if its paths cannot be followed for a repair, if a loss, gradient or score is not
                finite, or if the checkpoint is damaged or of another search.
            OSError: If the checkpoint cannot be written.

        Warns:
            LayerCollapseWarning: If the output of the pruned network no longer depends on its input.
            ZeroScoresWarning: If scores that are exactly zero decide what is pruned.
            ConstantOutputWarning: If an output does not depend on the input even before pruning; where scores are zero
                for that reason, the ZeroScoresWarning says it.
            UserWarning: If "early_ticket" trains at a rate at which gradients cease to reach a weight, before any cut.
        """
        return self._find_masks(model, data, loss, batch_size, micro_batch_size, verbose, checkpoint)

    def prune(
        self,
        model: keras.Model,
        data: Any = None,
        loss: Any = None,
        *,
        batch_size: int = 128,
        micro_batch_size: int | None = None,
        verbose: str | int = "auto",
        checkpoint: str | os.PathLike | None = None,
    ) -> keras.Model:
        """Returns the pruned model, ready for `fit`: `apply_masks(model, self.find_masks(model, ...))`.

        The arguments are those of `find_masks`.

        Raises:
            ImportError: If `model` is of `tf_keras`, and tensorflow-model-optimization is not installed.
        """
        check_model(model)
        layers.wrapper_class(model)  # a search of hours should not end with a package that is missing
        return layers.apply_masks(
            model, self._find_masks(model, data, loss, batch_size, micro_batch_size, verbose, checkpoint)
        )

    def _find_masks(self, model, data, loss, batch_size, micro_batch_size, verbose, checkpoint) -> Masks:
        verbose = arguments.one_of("verbose", verbose, ("auto", 0, 1, 2))
        check_loss_argument(loss)
        check_searchable(model)
        weights, left_out = prunable_weights(model, self.layers)
        granularity = self._granularity.bound(model, weights, self.criterion.channel_scores)
        plan = self._plan(weights, granularity, self._densities)
        batch_size = arguments.integer("batch_size", batch_size, minimum=1)
        if self.budget and checkpoint is not None:
            raise ValueError(
                "Expected `sparsity` for a search with a checkpoint, since one to a budget cannot go on where it was. "
                f"Received: checkpoint={checkpoint!r}, budget={self.budget!r}"
            )
        limits = self.budget.bound(model, weights) if self.budget else None
        workers = Workers(model)
        kept = None if checkpoint is None else Checkpoint(checkpoint, workers)
        seed = workers.common_seed(kept.seed if kept and self.seed is None else self.seed)
        sizes = {"batch_size": batch_size, "micro_batch_size": micro_batch_size}
        given = search_data(self.criterion, model, data, loss, method=self.method, seed=seed, **sizes)
        workers.check_data(given.batches)
        if given.caveat is not None:
            warnings.warn(given.caveat, stacklevel=3)  # at the caller of the public method
        random = np.random.default_rng(seed)
        network = build_network(self.criterion, model, weights, given, random=random, batches_per_step=self.batches)
        zeros = ZeroScores(weights, by_weight=granularity.by_weight)
        repair = make_repair(model, weights, given.batches) if self.repair else None
        if kept:
            kept.begin(network, search_description(self, model, loss, **sizes))
        with preserved_variables(network.model):
            shown = verbose if workers.is_chief else 0
            keep, costs = self._search(network, plan, granularity, zeros, shown, kept, repair, limits)
        workers.check_same("masks", lambda: np.packbits(keep).tobytes(), "seed, settings and data")
        masks = dict(zip((weight.path for weight in weights), split(keep, weights)))
        trial = check_collapse(model, weights, list(masks.values()), given.batches, random)
        for text, category in warnings_of(trial, zeros, masks):
            warnings.warn(text, category, stacklevel=3)  # at the caller of the public method
        live = live_weights(model, weights, list(masks.values()), given.batches)
        facts = facts_of(trial, live, keep.size) | budget_facts(limits, costs, keep)
        return Masks(masks, left_out=left_out, metadata=settings_of(self, model) | facts)

    def _search(
        self,
        network: criteria.Network,
        plan: Plan,
        granularity: BoundGranularity,
        zeros: ZeroScores,
        verbose: str | int,
        checkpoint: Checkpoint | None,
        repair: Repair | None,
        limits: BoundLimits | None,
    ) -> tuple[np.ndarray, Mapping[str, int] | None]:
        self.history = []
        network = prepared(self.criterion, network)
        progress = keras.utils.Progbar(
            self.steps, verbose=1 if verbose == "auto" else verbose, stateful_metrics=["density", "saliency kept"]
        )
        cut = make_cut(
            self.cut,
            plan,
            zeros,
            invert=self.invert,
            granularity=granularity,
            network=network,
            keep_memory=not self.criterion.trains,
            repair=repair,
            limits=limits,
            plan_to=functools.partial(self._plan_to, network.weights, granularity),
            show=lambda density: progress.update(len(self.history), [("density", density)]),
        )
        weight_count = sum(weight.size for weight in network.weights)
        done = 0
        if checkpoint and (saved := checkpoint.resume(network)):
            done, self.history = saved.step, saved.history
            zeros.restore(saved.zeros)
            cut.restore(saved.keep)
            self.criterion.assign_masks(network, cut.masks())
        for step in range(done + 1, self.steps + 1):
            begin = time.perf_counter()
            facts = cut(step, self.criterion.scores(network))
            if not cut.is_last(step):
                self.criterion.assign_masks(network, cut.masks())
            row = {"step": step, "density": facts.kept / weight_count, **dataclasses.asdict(facts)}
            self.history.append({**row, "seconds": time.perf_counter() - begin})
            if checkpoint and checkpoint.is_due(step):
                checkpoint.save(network, Progress(step, cut.marks(), self.history, zeros.state()))
            shown = [("density", row["density"]), ("saliency kept", row["saliency_kept"])]
            progress.update(step, shown, finalize=cut.is_last(step))
            if cut.is_last(step):
                break
        network.memory.clear()  # copies of the weights, for some criteria
        return cut.used(), cut.costs

    def _plan(
        self, weights: Sequence[PrunableWeight], granularity: BoundGranularity, densities: Sequence[float]
    ) -> Plan:
        return make_plan(
            weights,
            granularity,
            densities,
            sparsity=1.0 - densities[-1] if self.sparsity is None else self.sparsity,
            schedule=self.schedule,
            scope=self.scope,
            min_per_layer=self.min_per_layer,
            revive=self.revive,
        )

    def _plan_to(self, weights: Sequence[PrunableWeight], granularity: BoundGranularity, density: float) -> Plan:
        """Returns the plan of all steps that lead to a density."""
        return self._plan(weights, granularity, schedules.densities(self._schedule, self.steps, density))
