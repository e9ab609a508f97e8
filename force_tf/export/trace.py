"""A model traced for TFLite, to be converted with one set of weights after another."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from force_tf.export import flatbuffer
from force_tf.export.graph_digest import graph_digest
from force_tf.export.quiet import quiet
from force_tf.export.samples import Signature, leaf_name, unique_names
from force_tf.export.states import initial_states
from force_tf.models.keras_models import array_variables, state_variables, tf_variable
from force_tf.models.model_state import preserved_variables
from force_tf.models.paths import layers_of

# How the converter's messages locate an operation: its name, and the path of the layer that made it.
_FAILED_OP = re.compile(r'fused\["(\w+):", callsite\("([^"@]+)@')

Configure = Callable[[tf.lite.TFLiteConverter], None]


class Trace:
    """What a model computes in inference mode, for inputs of a signature; traced when first asked for.

    Args:
        model: A built model that computes in float32.
        signature: The inputs of the file.
    """

    def __init__(self, model: keras.Model, signature: Signature):
        self.model, self.signature = model, signature
        self._variables, self._states = array_variables(model), state_variables(model)

    def convert(self, values: Sequence[np.ndarray], configure: Configure, how: str = "") -> bytes:
        """Returns the content of a TFLite file with the weights given, all of whose tensors are dense.

        Args:
            values: An array for each variable of the model.
            configure: Tells TensorFlow's converter of the types of the file's numbers.
            how: These types in words, for an error.

        Raises:
            ValueError: If TFLite's operations cannot express the model.
            OSError: If the converter has no space for its temporary files.
        """
        # A converted file holds what the variables hold at that moment.
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)
        written = ""
        try:
            serve, function = self._traced
            module = tf.Module()
            module.serve = serve
            module.weights = [tf_variable(variable) for variable in [*self._variables, *self._states]]
            with quiet() as messages:
                try:
                    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
                    configure(converter)
                    # The file keeps the states of recurrent layers; without them, every variable is a constant.
                    converter.experimental_enable_resource_variables = bool(self._states)
                    content = converter.convert()
                finally:
                    written = messages()
        except Exception as error:
            raise ValueError(_explain(self.model, error, written, how)) from error
        if not flatbuffer.has_signature(content):
            # The converter goes on without the names of inputs and outputs if it cannot write its copy of the model.
            raise OSError(
                "Expected a temporary folder with space enough for a copy of the model. "
                f"Received: {tempfile.gettempdir()!r}, where TensorFlow's converter could not write its copy"
            )
        return content

    def digest(self, values: Sequence[np.ndarray]) -> str | None:
        """Returns what tells this graph with these weights from all others; None where that cannot be told.

        Raises:
            ValueError: If the model cannot be traced.
        """
        try:
            _, function = self._traced
        except Exception as error:
            raise ValueError(_explain(self.model, error, "", "")) from error
        known = [(tf_variable(variable), value) for variable, value in zip(self._variables, values, strict=True)]
        known += [(tf_variable(state), np.zeros(0)) for state in self._states]
        by_handle = {id(variable.handle): np.asarray(value) for variable, value in known}
        graph = graph_digest(function, by_handle)
        return graph and hashlib.sha256(f"{graph} {self.signature.specs}".encode()).hexdigest()

    @functools.cached_property
    def _traced(self) -> tuple[Any, Any]:
        serve = _serving_function(self.model, self.signature)
        return serve, serve.get_concrete_function(**{spec.name: spec for spec in self.signature.specs})


@contextlib.contextmanager
def traced(model: keras.Model, signature: Signature) -> Iterator[Trace]:
    """Gives a trace to convert from; when the block ends, the model's variables are what they were."""
    with preserved_variables(model), initial_states(state_variables(model)):
        yield Trace(model, signature)


def _serving_function(model, signature: Signature):
    @tf.function(autograph=False)
    def serve(**inputs):
        outputs = infer(model, signature.pack(inputs[spec.name] for spec in signature.specs))
        return dict(zip(output_names(model, outputs), keras.tree.flatten(outputs)))

    return serve


def infer(model: keras.Model, inputs: Any) -> Any:
    """Returns the outputs of a built model in inference mode."""
    mode = {"training": False} if "training" in inspect.signature(model.call).parameters else {}
    return model(inputs, **mode)


def output_names(model: keras.Model, outputs: Any) -> list[str]:
    """Returns a name for every output tensor: its dict keys, or else the name of its layer."""
    leaves = keras.tree.flatten_with_path(outputs)
    layers = getattr(model, "output_names", None) or []
    defaults = layers if len(layers) == len(leaves) else [f"output_{i}" for i in range(len(leaves))]
    return unique_names([leaf_name(path, default) for (path, _), default in zip(leaves, defaults)])


def _explain(model: keras.Model, error: Exception, messages: str, how: str) -> str:
    found = _FAILED_OP.search(messages)
    if found is None:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return f"Expected a model that TFLite can express{how} ({reason}). Received: the model {model.name!r}"
    op, location = found.groups()
    # Tracing appends numbers to the names of layers. The innermost layer made the operation; models hold it.
    parts = [re.sub(r"_\d+$", "", part) for part in reversed(location.split("/"))]
    names = [name for pair in zip(reversed(location.split("/")), parts) for name in pair]
    layers = {layer.name: layer for layer in layers_of(model)}
    layer = next((layers[name] for name in names if name in layers), None)
    where = f"the layer {layer.name!r} ({type(layer).__name__})" if layer is not None else repr(location)
    return (
        "Expected a model of TFLite's built-in operations: replace a layer that needs another one, or pass "
        "allow_select_tf_ops=True if the runtime on the device has TensorFlow's operations too. "
        f"Received: {where} of the model {model.name!r}, which needs tf.{op}"
    )
