"""`PruneDuringTraining`: the callback under which masks move while a network trains."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from force_tf import criteria, schedules
from force_tf.training.growing_penalty import Penalty
from force_tf.training.methods import Swap
from force_tf.training.session import Session
from force_tf.training.settings import make_settings
from force_tf.training.under_masks import Draws

# The callback that has begun in the present `fit` of each model.
_BEGUN: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class PruneDuringTraining(keras.callbacks.Callback):
    """Moves the masks of a model while it trains, under `fit` of either Keras.

    At some steps of the optimizer an update first cuts: it keeps the best weights, as many as the density at that time
    allows. Then, in some methods, it swaps: each tensor drops some of its weights and grows as many others. Weights
    that an update prunes are zero from then on, and so is all that the optimizer remembers of them; those that it grows
    start from zero, in both.

    | method | what it does |
    |---|---|
    | "gmp" | prunes the smallest weights, layer by layer, more and more slowly (tfmot's `PolynomialDecay`) |
    | "granet" | prunes the smallest weights of all, and swaps by gradient as it goes |
    | "flipout" | prunes weights that are small and often change their sign, half of the rest at a time |
    | "greg" | pulls the smallest weights of each layer to zero by a growing penalty, and prunes them at the end |
    | "greg_2" | the same, of the weights that give way first to a penalty on all |
    | "annealing" | prunes the smallest weights of all at once, and lets chance bring them into less and less passes |
    | "dpf" | prunes the smallest weights of all, which go on training under the mask and may return |
    | "fggp" | of the half with the smallest gradients prunes the smallest weights |
    | "snip_it" | prunes by connection sensitivity in seven steps, half of all in the first |
    | "snap_it" | the same with whole channels, by gates on them: `shrink` what it leaves |
    | "rigl" | keeps the density of the masks, and swaps by gradient |
    | "set" | keeps the density of the masks, and swaps at random |

    Args:
        method: A name of the table, or a `force_tf.criteria.Criterion` for what a cut compares: the network as it
            trains is scored, the largest scores are kept.
        sparsity: The fraction of the masked weights to prune in the end, 0 <= sparsity < 1. For "rigl" and "set" it is
            that of the masks that the model comes with.
        begin: When the density begins to fall: a step of the optimizer as a whole number, or a part of the whole `fit`
            as a fraction. None for the method's own, and so for all that follow.
        end: When it has fallen, likewise: the last cut is the last that lies `every` apart and not after it.
        every: The time between two updates, likewise. By default the method's own number of steps, or a tenth of the
            time from `begin` to `end` where that is shorter.
        initial_sparsity: The sparsity from which the density falls. As long as the masks are sparser than it has come
            to be, nothing is cut.
        schedule: How the density falls: "cubic", "linear", "exponential", "halving", "snip_it", "one_by_one" for
            one channel per cut, a list of densities, one per cut, or a `callable(step, steps, density) -> density`.
        scope: "global" to compare all weights in a cut; "layer" to keep the same fraction of each tensor; "erk" for
            densities by Erdős–Rényi kernel.
        revive: Whether a cut may bring pruned weights back.
        swap: What is exchanged after the cut, a `Swap`; None for the method's own.
        min_per_layer: A cut leaves each weight tensor at least so many weights, or all that it has left, so that there
            is something to swap. None for the method's own: 1 for "granet", "greg" and "greg_2", else 0.
        granularity: What a cut keeps or prunes as one, as in `PruneAtInit`: single weights, but whole channels in
            "snap_it"; swaps exchange single weights.
        pruned: What becomes of pruned weights while the model trains: "zero"; "dense" for values that train on under
            the mask by the gradients of θ⊙m, so that they return as what they have become; or "random" for values that
            are drawn into some of the forward passes, and train in those. Whatever reads the model finds θ⊙m, and at
            the end they are zero. Neither goes with a swap.
        draws: With what probability they are drawn, a `Draws`; None for the method's own.
        noise: λ of noise that every step adds to the gradient g of a tensor of N masked weights: λ·‖g‖₂/√N times
            numbers of a standard normal distribution, at kept weights. None for the method's own: 1 for "flipout", else
            0.
        penalty: How penalties grow on the weights that are to be pruned, a `Penalty`; None for the method's own, which
            in most is none.
        data: What `fit` takes, for gradients: each update takes the next `batches` batches of it, which are not those
            that the model trains on. Needed where a score or a swap needs it.
        loss: The loss to take gradients of, as in `PruneAtInit.find_masks`; None for what the model trains on.
        batches: How many batches an update averages gradients over.
        batch_size: The batch size for data given as arrays.
        seed: Shuffles data given as arrays, and draws random scores.

    Attributes:
        history: One dict per update: "step" of the optimizer, "density" afterwards, "dropped" and "grown" (weights
            that were kept before and are not now, and the other way round), "seconds".

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range, a name is unknown, or data are missing; and from `fit`, before
            it trains, if the model has no masks or denser or sparser ones than the method can do with, times do not fit
            the training, data or loss do not fit the model, or two such callbacks are there.

    Example:

    ```python
    pruned = force_tf.apply_masks(model)  # all is kept yet
    pruned.fit(x, y, epochs=20, callbacks=[force_tf.callbacks.PruneDuringTraining("gmp", sparsity=0.9)])
    ```

    References:
        - [To prune, or not to prune](https://arxiv.org/abs/1710.01878) (GMP), [DPF](https://arxiv.org/abs/2006.07253),
          [GraNet](https://arxiv.org/abs/2106.10404),
          [RigL](https://arxiv.org/abs/1911.11134), [SET](https://arxiv.org/abs/1707.04780),
          [FGGP](https://arxiv.org/abs/2411.05500), [SNIP-it and SNAP-it](https://arxiv.org/abs/2006.00896),
          [FlipOut](https://arxiv.org/abs/2009.02594), [GReg](https://arxiv.org/abs/2012.09243),
          [Stochastic Subnetwork Annealing](https://arxiv.org/abs/2401.08830)
    """

    def __init__(
        self,
        method: str | criteria.Criterion = "gmp",
        sparsity: float = 0.9,
        *,
        begin: int | float | None = None,
        end: int | float | None = None,
        every: int | float | None = None,
        initial_sparsity: float = 0.0,
        schedule: str | Sequence[float] | schedules.Schedule | None = None,
        scope: str | None = None,
        revive: bool | None = None,
        swap: Swap | None = None,
        min_per_layer: int | None = None,
        granularity: str | Sequence[int] | None = None,
        pruned: str | None = None,
        draws: Draws | None = None,
        noise: float | None = None,
        penalty: Penalty | None = None,
        data: Any = None,
        loss: Any = None,
        batches: int | None = None,
        batch_size: int = 128,
        seed: int = 0,
    ):
        super().__init__()
        self._settings = make_settings(
            method,
            sparsity,
            begin=begin,
            end=end,
            every=every,
            initial_sparsity=initial_sparsity,
            schedule=schedule,
            scope=scope,
            revive=revive,
            swap=swap,
            min_per_layer=min_per_layer,
            granularity=granularity,
            pruned=pruned,
            draws=draws,
            noise=noise,
            penalty=penalty,
            data=data,
            loss=loss,
            batches=batches,
            batch_size=batch_size,
            seed=seed,
        )
        self.method, self.sparsity = self._settings.method, self._settings.sparsity
        self.history: list[dict[str, Any]] = []
        self._session: Session | None = None

    def __repr__(self) -> str:
        return f"PruneDuringTraining(method={self.method!r}, sparsity={self.sparsity})"

    # Under `fit`.

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self._trace_steps_anew(model)  # before `fit` makes its step, as it then does
        # In one `fit` all are told the model before any begins. One that has begun is left of a `fit` that failed.
        _BEGUN.pop(model, None)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        first = _BEGUN.pop(self.model, lambda: None)()
        # A `fit` that was interrupted, of a `CallbackList` that is given again, has come to its first epoch at least.
        if first is not None and first._session is not None and not first._session.has_begun:
            raise ValueError(
                "Expected one PruneDuringTraining in a training. Received: "
                f"{' and '.join(sorted(map(repr, [first, self])))}"
            )
        _BEGUN[self.model] = weakref.ref(self)
        self._session = Session(self._settings, self.model, self.model.optimizer)
        self.history = self._session.history

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if not self._session.has_begun:
            # Not before: BackupAndRestore brings masks and step counts back as training begins.
            params = self.params or {}  # which a `CallbackList` of the user's own may lack
            steps, epochs = params.get("steps"), params.get("epochs")
            self._session.begin(
                steps=None if steps is None else epochs * steps, before=0 if steps is None else epoch * steps
            )
        self._session.begin_epoch()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._session.after_batch(batch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        found = self._session.end_epoch()
        if logs is not None:
            logs.update(found)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        self._session.end()
        self._session = None
        self._trace_steps_anew(self.model)

    # By hand.

    def start(self, model: Any, optimizer: Any = None, *, steps: int | None = None) -> None:
        """Begins a training that is not `fit`'s: loops of `train_on_batch`, or of your own.

        Args:
            model: The model, wrapped by `apply_masks`.
            optimizer: What trains it; None for the one that it is compiled with.
            steps: The number of the optimizer's steps of the whole training, of which fractions are parts.

        Raises:
            ValueError: As `fit` does.

        Example:

        ```python
        pruning = force_tf.callbacks.PruneDuringTraining("gmp", sparsity=0.9)
        pruning.start(pruned, steps=50)
        for _ in range(50):
            pruned.train_on_batch(x, y)
            pruning.after_step()
        pruning.stop()
        ```
        """
        optimizer = model.optimizer if optimizer is None else optimizer
        if optimizer is None:
            raise ValueError("Expected an `optimizer`, or a model that is compiled with one. Received: optimizer=None")
        self._session = Session(self._settings, model, optimizer)
        self.history = self._session.history
        self._session.begin(steps=steps)
        self._trace_steps_anew(model)

    def after_step(self) -> None:
        """Moves the masks if it is time. Call it after every step of the optimizer.

        Raises:
            RuntimeError: If `start` was not called.
        """
        self._check_started()
        self._session.look()

    def stop(self) -> None:
        """Ends a training that `start` began."""
        self._check_started()
        self._session.end()
        self._trace_steps_anew(self._session.model)
        self._session = None

    def _trace_steps_anew(self, model: Any) -> None:
        if self._settings.row.changes_steps:
            model.train_function = None  # one that was traced before lacks what is part of the step, or has it still

    def _check_started(self) -> None:
        if self._session is None:
            raise RuntimeError("Expected `start(model)` before the first step. Received: no training that has begun")

    # tf_keras asks these of every callback, and they are not in Keras 3's base class.

    def _implements_train_batch_hooks(self) -> bool:
        return True

    def _implements_test_batch_hooks(self) -> bool:
        return False

    def _implements_predict_batch_hooks(self) -> bool:
        return False
