"""One training under `PruneDuringTraining`, from the first step to the last."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.criteria import Magnitude
from force_tf.granularity import BoundGranularity, Pattern, Plan, Weights, split
from force_tf.objective.objective import Objective
from force_tf.search.planning import make_plan
from force_tf.training.between_updates import BetweenUpdates
from force_tf.training.drop_and_grow import Cut, Exchange, update
from force_tf.training.gradient_noise import GradientNoise
from force_tf.training.growing_penalty import GrowingPenalty
from force_tf.training.health import Health
from force_tf.training.live_masks import LiveMasks
from force_tf.training.scoring import Scorer, update_batches
from force_tf.training.settings import Settings
from force_tf.training.sign_flips import SignFlipCounter
from force_tf.training.timetable import Span, Timetable, make_timetable
from force_tf.training.under_masks import RandomDraws, StraightThrough

_ADVICE = "a lower `sparsity`, a later `end`, `min_per_layer=`, or `scope='layer'` or 'erk'"


class Session:
    """One training.

    Args:
        settings: What it does to its masks.
        model: The model, wrapped by `apply_masks`.
        optimizer: What trains it.

    Attributes:
        history: One dict per update.
        model: The model.

    Raises:
        ValueError: If the model has no masks, or the data, the loss or the granularity do not fit it.
    """

    def __init__(self, settings: Settings, model: Any, optimizer: Any):
        self.history: list[dict[str, Any]] = []
        self._settings, self.model, self._optimizer = settings, model, optimizer
        self._live = LiveMasks(model, optimizer)
        self._batches = self._cut = self._growth = None
        self._make_scorers()
        self._granularity = self._bound_granularity()
        self._penalty: GrowingPenalty | None = None
        self._between = self._make_between()
        self._span: Span | None = None
        self._timetable: Timetable | None = None
        self._plan: Plan | None = None
        self._last = 0  # the step of the optimizer that was looked at last
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        self._accumulated = getattr(inner, "gradient_accumulation_steps", None) or 1
        self._batch, self._batches_to_go = -1, 1
        self._moved = {"weights_dropped": 0, "weights_grown": 0}
        self._health = Health(model, _ADVICE)

    @property
    def has_begun(self) -> bool:
        """Whether `begin` was called."""
        return self._timetable is not None

    def begin(self, *, steps: int | None, before: int = 0) -> None:
        """Makes the timetable, and moves the masks for the first time if that comes before the first step.

        Args:
            steps: The steps of the whole training in batches, those before it was resumed included; None if unknown.
            before: How many of them were made before it was resumed.

        Raises:
            ValueError: If the times do not fit the training, or the masks the method.
        """
        now = self._now()
        span = Span(now - before // self._accumulated, None if steps is None else steps // self._accumulated)
        settings, row = self._settings, self._settings.row
        timetable = make_timetable(
            span,
            begin=settings.begin,
            end=settings.end,
            every=settings.every,
            updates=None if row.updates is None else row.updates(settings.density),
            usual=row.every,
            last=settings.end if row.swap is None or row.swap.last is None else row.swap.last,
        )
        if row.score is not None:
            self._plan = self._make_plan(settings.densities(timetable.cuts - 1))
        self._check_density()
        begins = now == span.first == timetable.steps[0]
        self._span, self._timetable, self._last = span, timetable, now
        for each in self._between:
            each.begin(timetable, None if begins else timetable.due(-1, now))
        if row.at_begin and begins:
            self._update(0)

    def end(self) -> None:
        """Called when the training has ended: pruned weights are zero from then on, whatever they were."""
        for each in self._between:
            each.end()
        self._warn_if_nothing_pruned()

    def begin_epoch(self) -> None:
        """Called as an epoch begins, before its first step."""
        self._batch, self._batches_to_go = -1, 1

    def after_batch(self, batch: int) -> None:
        """Called after a batch of `fit`, or the last of several that were run at once; counts from 0 in every epoch."""
        # Asking the optimizer would wait for the device. No batch makes more than one step.
        self._batches_to_go -= batch - self._batch
        self._batch = batch
        if self._batches_to_go <= 0:
            self.look()
            until_next = self._timetable.until_next(self._last)
            self._batches_to_go = float("inf") if until_next is None else until_next

    def look(self) -> None:
        """Moves the masks if the optimizer has come to a step at which they move."""
        now = self._now()
        due = self._timetable.due(self._last, now)
        self._last = now
        if due is not None and (due or self._settings.row.at_begin):
            self._update(due)

    def end_epoch(self) -> dict[str, float]:
        """Returns what to log after an epoch, and warns of what has come to nothing in it."""
        kept = self._live.kept()
        moved, self._moved = self._moved, dict.fromkeys(self._moved, 0)
        if any(moved.values()):
            self.check_health()
        return {"density": int(np.count_nonzero(kept)) / kept.size, **moved}

    def _now(self) -> int:
        # The one that scales losses in mixed precision counts no steps in older versions of Keras.
        optimizer = getattr(self._optimizer, "inner_optimizer", self._optimizer)
        return int(tf.convert_to_tensor(optimizer.iterations))

    def _warn_if_nothing_pruned(self) -> None:
        if self._timetable is None or self._cut is None:
            return
        now = self._now()
        until_next = self._timetable.until_next(now)
        if until_next is not None and now > self._span.first and self._live.kept().all():
            warnings.warn(
                f"Nothing was pruned: the training ended at step {now} of the optimizer, and weights were to go at "
                f"step {now + until_next} for the first time. Train longer, or set `begin`, `end` and `every` to "
                "earlier steps, or to fractions, which are parts of the training.",
                stacklevel=2,
            )

    def _make_scorers(self) -> None:
        settings, row, live = self._settings, self._settings.row, self._live
        growth = None if row.swap is None else row.swap.criterion
        loss = None
        if any(score is not None and score.needs_data for score in (row.score, growth)):
            loss = Objective(live.model, settings.loss)
            if loss.caveat is not None:
                warnings.warn(loss.caveat, stacklevel=2)
            self._batches = update_batches(settings.data, settings.batch_size, settings.seed, live.model, loss)
        make = (live, self._batches, loss, row.batches)
        self._cut = None if row.score is None else Scorer(row.score, *make)
        self._growth = None if growth is None else Scorer(growth, *make)

    def _make_between(self) -> list[BetweenUpdates]:
        settings, row, live = self._settings, self._settings.row, self._live
        between: list[BetweenUpdates] = []
        if row.score is not None and SignFlipCounter.NAME in row.score.counted:
            between.append(SignFlipCounter(live))
        if row.noise:
            between.append(GradientNoise(live, row.noise, settings.seed))
        if row.pruned == "dense":
            between.append(StraightThrough(live))
        if row.pruned == "random":
            between.append(RandomDraws(live, row.draws, settings.seed))
        if row.penalty is not None:
            groups = not isinstance(settings.granularity, (Weights, Pattern))
            self._penalty = GrowingPenalty(live, row.penalty, self._to_prune, groups)
            between.append(self._penalty)
        return between

    def _bound_granularity(self) -> BoundGranularity:
        score = self._settings.row.score
        channel_scores = None if score is None else score.channel_scores
        return self._settings.granularity.bound(self.model, self._live.weights, channel_scores)

    def _make_plan(self, densities: list[float]) -> Plan:
        settings, row = self._settings, self._settings.row
        return make_plan(
            self._live.weights,
            self._granularity,
            densities,
            sparsity=settings.sparsity,
            schedule=row.schedule,
            scope=row.scope,
            min_per_layer=row.min_per_layer,
            revive=row.revive,
        )

    def _check_density(self) -> None:
        """Raises if the masks that the model comes with are not those that the method can do with."""
        kept, total = int(np.count_nonzero(self._live.kept())), sum(self._live.sizes)
        wanted = total * self._settings.density
        sparsity = 1 - kept / total
        tolerance = len(self._live.sizes) + 0.5  # as of counts that were rounded tensor by tensor
        if self._settings.row.score is None and abs(kept - wanted) > tolerance:
            raise ValueError(
                f"Expected masks of a sparsity of {self._settings.sparsity:g}, which {self._settings.method!r} keeps; "
                'make them before, by `PruneAtInit("random", sparsity=..., scope="erk").prune(model)`. '
                f"Received: masks of a sparsity of {sparsity:.4g}"
            )
        if not self._settings.row.revive and kept < wanted - tolerance:
            raise ValueError(
                f"Expected a sparsity of at least {sparsity:.4g}, that of the masks, since {self._settings.method!r} "
                f"lets no pruned weight return. Received: sparsity={self._settings.sparsity}"
            )

    def _update(self, index: int) -> None:
        """Moves the masks for the time of this index in the timetable."""
        began = time.perf_counter()
        settings, live = self._settings, self._live
        seed = (settings.seed, index)
        if self._batches is not None:
            self._batches.begin(index)
        for each in self._between:
            each.move(index)
        before = live.kept()
        scores = cut = None
        if self._cuts(index, before):
            scores = None if self._penalty is not None else self._cut.scores((*seed, 0), before)
            cut = self._cut_at(index, scores)
        swap = self._swap_at(index, before, scores, seed)
        moved = update(before, live.sizes, cut=cut, swap=swap)
        live.move(moved)
        count, stayed = int(np.count_nonzero(moved.kept)), int(np.count_nonzero(before & moved.kept))
        dropped, grown = int(np.count_nonzero(before)) - stayed, count - stayed
        self._moved["weights_dropped"] += dropped
        self._moved["weights_grown"] += grown
        self.history.append(
            {
                "step": self._last,
                "density": count / before.size,
                "dropped": dropped,
                "grown": grown,
                "seconds": time.perf_counter() - began,
            }
        )

    def _cuts(self, index: int, before: np.ndarray) -> bool:
        """Returns whether there is a cut at a time: none where the masks are sparse enough."""
        if self._cut is None or index >= self._timetable.cuts:
            return False
        revive = self._settings.row.revive
        return revive or np.count_nonzero(before) > round(before.size * self._plan.densities[index])

    def _cut_at(self, index: int, scores: np.ndarray | None) -> Cut:
        """Returns the cut of a time, given its scores; None of a method whose penalty has chosen before."""
        plan, revive = self._plan, self._settings.row.revive
        if self._penalty is not None:
            to_prune = self._penalty.to_prune()
            return lambda kept: self._granularity.used(plan, kept & ~to_prune)

        def cut(kept: np.ndarray) -> np.ndarray:
            marked = self._granularity.cut(plan, index + 1, scores, None if revive else kept)
            return self._granularity.used(plan, marked)

        return cut

    def _to_prune(self) -> np.ndarray:
        """Returns which weights the last update is to prune, flat booleans."""
        kept, steps = self._live.kept(), len(self._plan.counts)
        if np.count_nonzero(kept) <= self._plan.counts[-1]:
            return np.zeros_like(kept)
        scores = self._cut.scores((self._settings.seed, steps, 0), kept)
        return kept & ~self._granularity.cut(self._plan, steps, scores, kept)

    def _swap_at(
        self, index: int, before: np.ndarray, scores: np.ndarray | None, seed: tuple[int, int]
    ) -> Exchange | None:
        """Returns the swap of a time, or None, given the scores of its cut."""
        swap, span = self._settings.row.swap, self._span
        if swap is None:
            return None
        last = span.at("last", self._settings.end if swap.last is None else swap.last)
        fraction = swap.fraction_at(self._timetable.steps[index] - span.first, last - span.first)
        if not fraction or self._timetable.steps[index] > last:
            return None
        if scores is not None and type(self._settings.row.score) is Magnitude:
            magnitudes = scores  # which are the same, and checked
        else:
            magnitudes = self._live.magnitudes()
            if np.isnan(magnitudes.sum()):
                self._live.check_finite()
        return Exchange(magnitudes, self._growth.scores((*seed, 1), before), fraction, swap.round_up)

    def check_health(self) -> None:
        """Warns, once each, of weight tensors that keep nothing, and of a network that ignores its inputs."""
        parts = zip(self._live.weights, split(self._live.kept(), self._live.weights))
        masks = {weight.path: mask for weight, mask in parts}
        self._health.check(self.model, masks, f"step {self._last}")
