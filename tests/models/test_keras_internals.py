"""Private names of other packages: all in one place, each there on the installed versions, and missed by name."""

import ast
import importlib
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from force_tf.models import keras_internals
from force_tf.models.keras_internals import MissingInternalError
from force_tf.models.keras_internals import tf_keras as of_tf_keras
from force_tf.models.keras_internals.required import imported, required

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "force_tf"
INTERNALS = PACKAGE / "models" / "keras_internals"
# Attributes that begin with an underscore and are nobody's secret, by the file that uses them.
EXCEPTIONS = {
    ("objective/losses.py", "_linear"): "of another object of the same class",
    ("objective/losses.py", "_temperature"): "of another object of the same class",
    ("objective/objective.py", "_adds"): "of another object of the same class",
    ("objective/objective.py", "_data_loss"): "of another object of the same class",
    ("training/prune_during_training.py", "_session"): "of another object of the same class",
}
PRIVATE_MODULES = ("keras.src", "tf_keras.src", "tensorflow.python", "tensorflow.lite.python")


def is_super(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


def private_names(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not own and not is_super(node.value):
                yield node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PRIVATE_MODULES):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith(PRIVATE_MODULES))


def test_no_other_module_uses_private_names():
    found = [
        (str(path.relative_to(PACKAGE)), name)
        for path in PACKAGE.rglob("*.py")
        if INTERNALS not in path.parents
        for name in private_names(path)
    ]
    assert [each for each in found if each not in EXCEPTIONS] == []
    assert set(EXCEPTIONS) <= set(found), "an exception that nothing needs"


def test_what_is_missing_is_named_with_the_version():
    with pytest.raises(MissingInternalError, match=rf"'Dense._gone' of keras: .*Received: keras {keras.__version__}"):
        required(keras.layers.Dense(1), "_gone")
    with pytest.raises(MissingInternalError, match=r"'keras.src.nowhere.name' of keras"):
        imported("keras.src.nowhere", "name")


@pytest.mark.parametrize(
    ("module", "cls", "name"),
    [
        ("keras", "Variable", "_direct_assign"),
        ("keras", "Variable", "_restore_from_tensors"),
        ("keras", "Variable", "_serialize_to_tensors"),
        ("keras", "Variable", "_export_to_saved_model_graph"),
        ("keras", "Variable", "_write_object_proto"),
        ("keras.layers", "Layer", "save_own_variables"),
        ("keras.layers", "Layer", "load_own_variables"),
        ("keras.layers", "Layer", "_lookup_dependency"),
        ("keras.layers", "Layer", "_track_trackable"),
        ("tf_keras.layers", "Layer", "_lookup_dependency"),
        ("tf_keras.layers", "Layer", "save_own_variables"),
    ],
)
def test_what_the_package_overrides_or_inherits_is_there(module, cls, name):
    assert hasattr(getattr(importlib.import_module(module), cls), name)


def graph(module):
    inputs = module.Input((4,), name="x")
    dropped = module.layers.Dropout(0.5, seed=3, name="drop")(inputs)
    model = module.Model(inputs, module.layers.Dense(2, activation="softmax", name="out")(dropped))
    model.compile(module.optimizers.SGD(0.25, momentum=0.9), "mse")
    return model


def test_models_and_layers(either_keras):
    model = graph(either_keras)
    assert [layer.name for layer in keras_internals.inner_layers(model, include_self=False)] == ["x", "drop", "out"]
    assert keras_internals.is_compiled(model)
    assert keras_internals.compiled_arguments(model)["loss"] == "mse"
    assert keras_internals.graph_with_nodes(model) is model
    assert sum(map(len, keras_internals.nodes_by_depth(model).values())) == 3
    assert len(keras_internals.inbound_nodes(model.get_layer("out"))) == 1
    keras_internals.set_name(model.get_layer("out"), "renamed")
    assert model.layers[-1].name == "renamed"


def test_a_sequential_model_has_its_nodes_elsewhere(either_keras):
    model = either_keras.Sequential([either_keras.Input((4,)), either_keras.layers.Dense(2)])
    assert len(keras_internals.nodes_by_depth(keras_internals.graph_with_nodes(model))) == 2


def test_logits_are_what_softmax_was_given(either_keras):
    given = tf.constant([[1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(keras_internals.logits(either_keras.activations.softmax(given)), given)
    np.testing.assert_array_equal(keras_internals.logits(given), given)


def test_the_keras_that_loads_is_known(either_keras):
    seen = []

    class Seeing(either_keras.layers.Layer):
        @classmethod
        def from_config(cls, config):
            seen.append(keras_internals.loading_keras())
            return cls(**config)

    assert keras_internals.loading_keras() is None
    config = either_keras.saving.serialize_keras_object(Seeing())
    for safe_mode in (True, False):
        either_keras.saving.deserialize_keras_object(config, {"Seeing": Seeing}, safe_mode=safe_mode)
    assert seen == [either_keras, either_keras]


def test_optimizers_losses_and_metrics(either_keras):
    model = graph(either_keras)
    assert float(keras_internals.learning_rate(model.optimizer)) == 0.25
    decaying = either_keras.optimizers.AdamW(weight_decay=0.1)
    kernel, bias = model.get_layer("out").kernel, model.get_layer("out").bias
    decaying.exclude_from_weight_decay(var_list=[bias])
    decaying.build([kernel, bias])
    assert keras_internals.uses_weight_decay(decaying, kernel)
    assert not keras_internals.uses_weight_decay(decaying, bias)
    loss = either_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert keras_internals.loss_argument(loss, "from_logits", False) is True
    assert keras_internals.loss_argument(either_keras.losses.MeanSquaredError(), "from_logits", "none") == "none"
    function = keras_internals.metric_function(either_keras.metrics.CategoricalAccuracy())
    assert np.asarray(function(tf.eye(2), tf.constant([[0.9, 0.1], [0.8, 0.2]]))).tolist() == [1, 0]
    assert keras_internals.metric_function(either_keras.metrics.Mean()) is None


def test_masks_of_outputs_are_seen(either_keras):
    steps = np.array([[[1.0], [0.0]]], "float32")
    np.testing.assert_array_equal(keras_internals.keras_mask(either_keras.layers.Masking()(steps)), [[True, False]])
    assert keras_internals.keras_mask(tf.constant(steps)) is None


def test_values_of_replicas_have_a_type():
    part = tf.TensorSpec([None, 2])
    assert tf.nest.flatten(keras_internals.per_replica_spec(part, 2), expand_composites=True) == [part, part]


def test_legacy_optimizers_of_tf_keras():
    optimizer = tf_keras.optimizers.legacy.SGD(0.5)
    assert keras_internals.learning_rate(optimizer) == 0.5
    assert keras_internals.uses_weight_decay(optimizer, None)


def test_slots_are_momenta_averages_and_accumulated_gradients():
    model = graph(keras)
    options = {"momentum": 0.9, "use_ema": True, "gradient_accumulation_steps": 2}
    model.compile(keras.optimizers.SGD(0.1, **options), "mse")
    model.fit(np.ones((4, 4)), np.eye(4)[:, :2], batch_size=2, epochs=2, verbose=0)
    kernel = model.get_layer("out").kernel
    slots = keras_internals.optimizer_slots(model.optimizer, kernel)
    assert len(slots) == 3
    assert all(slot.shape == kernel.shape and slot is not kernel for slot in slots)
    assert any(slot is keras_internals.moving_average(model.optimizer, kernel) for slot in slots)


def test_the_optimizer_that_applies_a_constraint_is_known():
    seen = []

    class Looking(keras.constraints.Constraint):
        def __call__(self, weight):
            seen.append(keras_internals.applying_optimizer())
            return weight

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_constraint=Looking())])
    model.compile("sgd", "mse")
    model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0)
    assert seen
    assert all(optimizer is model.optimizer for optimizer in seen)
    assert keras_internals.applying_optimizer() is None


def test_attention(either_keras):
    layer = either_keras.layers.MultiHeadAttention(2, 3)
    layer(np.ones((1, 4, 6), "float32"), np.ones((1, 4, 6), "float32"))
    shapes = [tuple(part.kernel.shape) for part in keras_internals.attention_projections(layer)]
    assert shapes == [(6, 2, 3)] * 3 + [(2, 3, 6)]
    assert keras_internals.attention_axes(layer) == (1,)
    assert keras_internals.attention_gate(layer) is None


def test_names_of_variables_of_keras_3():
    layer = keras.layers.Dense(2, name="here")
    layer.build((None, 3))
    keras_internals.rename_variable(layer.kernel, "matrix")
    assert (layer.kernel.name, layer.kernel.path) == ("matrix", "here/matrix")


def test_random_layers_of_tf_keras():
    model = graph(tf_keras)
    (generator,) = keras_internals.random_generators(model.layers)
    assert generator.seed == 3
    generator.seed = 5
    assert keras_internals.random_generators(model.layers)[0].seed == 5
    assert keras_internals.random_generators(graph(keras).layers) == []


def test_what_tf_keras_layers_were_told():
    layer = tf_keras.layers.Dense(2, input_shape=(3,), kernel_regularizer="l2", name="told")
    layer.build((None, 3))
    assert keras_internals.batch_input_shape(layer) == (None, 3)
    assert keras_internals.batch_input_shape(tf_keras.layers.Dense(2)) is None
    assert len(keras_internals.function_losses(layer)) == 1
    assert keras_internals.autocasts(layer) is True
    assert keras_internals.call_spec(layer).arg_names[0] == "inputs"
    assert not of_tf_keras.writes_saved_model()


def test_mixed_precision_of_tf_keras():
    layer = tf_keras.layers.Dense(2, dtype="mixed_bfloat16")
    layer.build((None, 3))
    assert layer.kernel.dtype == tf.float32
    with keras_internals.computing_like(layer):
        assert tf.convert_to_tensor(layer.kernel).dtype == tf.bfloat16
    assert isinstance(keras_internals.without_autocast(layer.kernel), keras_internals.resource_variable_class())


def test_tracking_attributes_are_those_of_tensorflow_and_tf_keras():
    model = graph(tf_keras)
    model.save_spec()
    names = {name for layer in [model, *model.layers] for name in vars(layer) if name.startswith("_self_")}
    assert names
    assert names <= keras_internals.TRACKING_ATTRIBUTES
