"""First and second derivatives of scalar functions of a model's weights, each traced once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from force_tf.models.keras_models import tf_variable, whole_variable
from force_tf.objective.batches import Batch
from force_tf.objective.distribution import distribution_of, first_part
from force_tf.objective.moments import twice_differentiable_moments
from force_tf.objective.parts import Part, computing, micro_batches

_SHARE = tf.TensorSpec([], tf.float64)


class NotFiniteError(ValueError):
    """A loss, gradient or Hessian product that is not finite.

    Args:
        expected: What was expected.
        received: What came instead.
    """

    def __init__(self, expected: str, received: str):
        super().__init__(f"{expected} Received: {received}")
        self.received = received


class GradientFunction:
    """The gradient of a scalar function of a model's variables, and its Hessian times a vector.

    Where the variables are copied to several replicas of a `tf.distribute` strategy, each computes a part of the rows
    of the arguments, and the function of the whole is the average of the parts, by their numbers of rows.

    Args:
        function: Takes the arguments that `__call__` gets and returns a scalar tensor.
        variables: Variables of either Keras to differentiate by.
        names: Their paths, for error messages.
        signature: Type specs of the arguments, so that batches of every size run through one trace.
        micro_batch_size: How many rows are computed at once, so that larger batches fit into memory: their parts are
            averaged too. None for all.
    """

    def __init__(
        self,
        function: Callable[..., tf.Tensor],
        variables: Sequence[Any],
        names: Sequence[str],
        signature: Sequence[Any],
        micro_batch_size: int | None = None,
    ):
        self._function = function
        self._distribution = distribution_of(variables[0])
        of = tf_variable if self._distribution is None else whole_variable
        self._variables = [of(variable) for variable in variables]
        self._names = list(names)
        self._signature = tuple(signature)
        self._micro_batch_size = micro_batch_size
        self._traces: dict[str, tf.types.experimental.PolymorphicFunction] = {}

    def trace(self) -> None:
        """Traces the gradient now, so that what does not fit fails before any work."""
        self._traced("gradient", self._gradient)

    def __call__(self, *arguments: Any) -> list[tf.Tensor]:
        """Returns the gradient at the variables' present values, one tensor per variable.

        Raises:
            NotFiniteError: If the function's value or the gradient is not finite; it names the variable.
        """
        return self._checked(self._traced("gradient", self._gradient), arguments, "gradient")

    def hessian_product(self, vectors: Sequence[tf.Tensor], *arguments: Any) -> list[tf.Tensor]:
        """Returns H·v, with H the function's Hessian and v one tensor per variable.

        H·v = ∇(stop_gradient(v)·∇f), reverse mode over reverse mode.

        Raises:
            NotFiniteError: If the function's value or the product is not finite; it names the variable.
        """
        specs = [tf.TensorSpec(variable.shape, variable.dtype) for variable in self._variables]
        traced = self._traced("hessian", self._hessian_product, specs)
        return self._checked(traced, arguments, "Hessian-gradient product", list(vectors))

    def _checked(self, traced: Callable, arguments: Sequence[Any], what: str, *constants: Any) -> list[tf.Tensor]:
        total = None
        for share, part in micro_batches(arguments, self._micro_batch_size):
            parts = (part,) if self._distribution is None else self._distribution.parts(part)
            lost = contextlib.nullcontext() if self._distribution is None else self._distribution.naming_lost_workers()
            with _naming(part), lost:
                value, sums, tensors = traced(tf.constant(share, tf.float64), *parts, *constants)
            self._check_finite(value, sums, tensors, what)
            total = _added(total, tensors)
            del tensors  # before the next part is computed
        return total

    def _traced(self, key: str, function: Callable, *constants: Any) -> tf.types.experimental.PolymorphicFunction:
        if key not in self._traces:
            signature, evaluate = (self._signature,), self._by_itself(function)
            if self._distribution is not None:
                signature = self._distribution.part_specs(self._signature)
                evaluate = self._distribution.averaged(function, is_whole=self._micro_batch_size is None)

            def with_sums(*arguments):
                value, *tensors = evaluate(*arguments)
                return value, tf.stack([tf.reduce_sum(tensor) for tensor in tensors]), tensors

            # Keras layers are written for tracing without AutoGraph, and errors stay readable without it. Batches that
            # the signature does not fit (sequences of another length, say) get one more general trace.
            traced = tf.function(with_sums, autograph=False, reduce_retracing=True)
            with _naming(self._signature):
                traced.get_concrete_function(_SHARE, *signature, *constants)
            self._traces[key] = traced
        return self._traces[key]

    def _by_itself(self, function: Callable) -> Callable:
        """Returns a function of what one replica computes."""

        def evaluate(share, arguments, *constants):
            is_whole = self._micro_batch_size is None
            with computing(None if is_whole else Part(share, None)):
                return function(None if is_whole else share, arguments, *constants)

        return evaluate

    def _gradient(self, share, arguments):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._variables)
            value = self._value(share, arguments)
        return value, *self._derived(tape, value)

    def _hessian_product(self, share, arguments, vectors):
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(self._variables)
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(self._variables)
                with twice_differentiable_moments():
                    value = self._value(share, arguments)
            gradients = inner.gradient(value, self._variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            product = tf.add_n([tf.reduce_sum(g * tf.stop_gradient(v)) for g, v in zip(gradients, vectors)])
        return value, *self._derived(outer, product)

    def _value(self, share, arguments):
        value = self._function(*arguments)
        return value if share is None else value * tf.cast(share, value.dtype)

    def _derived(self, tape, value):
        gradients = tape.gradient(value, self._variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return map(tf.convert_to_tensor, gradients)  # embeddings give IndexedSlices

    def _check_finite(self, value, sums, tensors, what: str) -> None:
        if not tf.math.is_finite(value):
            raise NotFiniteError(
                "Expected a finite loss: check the inputs, the targets and the initial weights.",
                f"a loss of {float(value)}",
            )
        # A sum is not finite if a summand is not; the sums are there to make the usual case cheap.
        if tf.reduce_all(tf.math.is_finite(sums)):
            return
        for name, tensor in zip(self._names, tensors):
            if not tf.reduce_all(tf.math.is_finite(tensor)):
                bad = int(tf.math.count_nonzero(~tf.math.is_finite(tensor)))
                raise NotFiniteError(
                    f"Expected a finite {what}: check the inputs and the scale of the initial weights.",
                    f"{bad} of {int(tf.size(tensor))} entries of the {what} of {name!r} are NaN or infinite",
                )


@contextlib.contextmanager
def _naming(arguments: Sequence[Any]) -> Iterator[None]:
    """Names the arguments if they do not fit: TensorFlow names the nodes of its graph."""
    try:
        yield
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
        parts = [
            "None" if leaf is None else f"{leaf.dtype.name} of shape {tuple(leaf.shape)}"
            for leaf in tf.nest.flatten(list(map(first_part, arguments)))
        ]
        raise ValueError(
            "Expected inputs, targets and sample weights that fit the model, the loss and each other. "
            f"Received: {', '.join(parts)}"
        ) from error


def mean_gradient(function: GradientFunction, batches: Iterable[Batch]) -> list[tf.Tensor]:
    """Returns the mean over batches of the gradient, one tensor per variable."""
    return _mean(function(*batch) for batch in batches)


def mean_hessian_product(
    function: GradientFunction, vectors: Sequence[tf.Tensor], batches: Sequence[Batch]
) -> list[tf.Tensor]:
    """Returns the mean over batches of the Hessian times a vector, one tensor per variable."""
    return _mean(function.hessian_product(vectors, *batch) for batch in batches)


def _mean(each: Iterable[list[tf.Tensor]]) -> list[tf.Tensor]:
    total, count = None, 0
    for tensors in each:
        total, count = _added(total, tensors), count + 1
        del tensors  # before the next ones are computed
    if count > 1:
        for place, tensor in enumerate(total):
            total[place] = tensor / count
    return total


def _added(total: list[tf.Tensor] | None, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Adds tensors to a total, one by one, so that there are never three of all of them."""
    if total is None:
        return list(tensors)
    for place, tensor in enumerate(tensors):
        total[place] = total[place] + tensor
    return total
