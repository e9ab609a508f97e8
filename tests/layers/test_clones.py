"""Models made of a pruned model's configuration: other weights under the same masks, as masks are architecture."""

import json

import keras
import numpy as np
import pytest

import force_tf
from force_tf.layers import apply_masks, get_masks, wrapper_class
from force_tf.layers.wrapper_config import mask_of_text, text_of_mask
from helpers.model_forms import attention, inputs_for, nested, sequences, sequential, shared
from helpers.subclassed_models import X, Y, assert_zeros, built, masks_for, with_a_constructor_of_its_own

pytestmark = pytest.mark.filterwarnings("ignore:Layer .* looks like it has unbuilt state")


def raw_value(module, variable):
    """Returns what a variable holds in memory, past its wrapper."""
    return np.asarray(variable._value if module is keras else variable)


def assert_same_masks_other_weights(module, clone, pruned):
    masks = get_masks(pruned)
    assert get_masks(clone) == masks
    assert not {id(variable) for variable in clone.variables} & {id(variable) for variable in pruned.variables}
    wrappers = [layer for layer in clone._flatten_layers() if isinstance(layer, wrapper_class(clone))]
    pruned_weights = [
        raw_value(module, weight.variable)[~weight.mask.numpy().astype(bool)]
        for wrapper in wrappers
        for weight in wrapper.masked_weights
    ]
    assert pruned_weights
    assert not np.concatenate(pruned_weights).any()
    assert any(np.asarray(v).any() for v in clone.trainable_variables)


@pytest.mark.parametrize("make", [sequential, nested, shared, sequences, attention])
def test_a_clone_has_the_same_masks(make, either_keras):
    model = make(either_keras)
    pruned = apply_masks(model, masks_for(model))
    clone = either_keras.models.clone_model(pruned)
    assert_same_masks_other_weights(either_keras, clone, pruned)
    clone.set_weights(pruned.get_weights())
    x = inputs_for(model)
    np.testing.assert_allclose(clone(x), pruned(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [sequential, nested, shared])
def test_so_has_a_model_made_of_its_configuration(make, either_keras):
    model = make(either_keras)
    pruned = apply_masks(model, masks_for(model))
    config = json.loads(json.dumps(pruned.get_config()))  # as in another process
    assert_same_masks_other_weights(either_keras, type(pruned).from_config(config), pruned)
    again = either_keras.models.model_from_json(pruned.to_json())
    assert_same_masks_other_weights(either_keras, again, pruned)


def test_a_clone_trains_with_its_masks(either_keras):
    model = either_keras.Sequential([either_keras.Input((4,)), either_keras.layers.Dense(4, name="d")])
    pruned = apply_masks(model, masks_for(model))
    clone = either_keras.models.clone_model(either_keras.models.clone_model(pruned))  # one of one
    clone.compile("sgd", "mse")
    clone.fit(X, Y, epochs=2, verbose=0)
    assert_same_masks_other_weights(either_keras, clone, pruned)


def test_a_model_that_is_not_built_yet_hands_its_masks_on(either_keras):
    model = either_keras.Sequential([either_keras.layers.Dense(3, name="a"), either_keras.layers.Dense(4, name="b")])
    model.build((None, 4))
    pruned = apply_masks(model, masks_for(model))
    layer = pruned.layers[0]
    twice = type(layer).from_config(type(layer).from_config(layer.get_config()).get_config())
    twice.build((None, 4))
    np.testing.assert_array_equal(twice.get_masks()["kernel"], layer.get_masks()["kernel"])


def test_layers_that_are_built_while_something_is_traced_train_with_their_masks(either_keras):
    layer = either_keras.layers.Dense(4, name="d")
    wrapper = wrapper_class(layer)(layer)
    wrapper.build((None, 4))
    mask = np.random.default_rng(0).random((4, 4)) < 0.5
    wrapper.set_masks({"kernel": mask})

    class Late(either_keras.Model):
        def __init__(self):
            super().__init__()
            self.late = type(wrapper).from_config(wrapper.get_config())

        def call(self, inputs):
            return self.late(inputs)

    model = Late()
    model.compile("sgd", "mse")
    model.fit(X, Y, epochs=2, verbose=0)
    assert_zeros(model, {"d/kernel": mask})
    assert not raw_value(either_keras, model.late.layer.kernel)[~mask].any()


def test_models_wrapped_in_place_hand_their_masks_on(either_keras):
    @either_keras.saving.register_keras_serializable("force_tf_tests", f"Made_{either_keras.__name__}")
    class Made(either_keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = either_keras.layers.Dense(4, name="dense")

        def build(self, input_shape):
            self.dense.build((None, 4))
            self.built = True

        def call(self, inputs):
            return self.dense(inputs)

    model = built(Made)
    pruned = apply_masks(model, masks_for(model))
    assert_same_masks_other_weights(either_keras, type(pruned).from_config(pruned.get_config()), pruned)


@pytest.mark.filterwarnings("ignore:.* is wrapped in place")
def test_clones_of_graphs_that_were_wrapped_in_place(either_keras):
    model = with_a_constructor_of_its_own(either_keras)
    pruned = apply_masks(model, masks_for(model))
    layer = pruned.get_layer("logits")
    clone = type(layer).from_config(layer.get_config())
    clone(X)
    np.testing.assert_array_equal(clone.get_masks()["kernel"], layer.get_masks()["kernel"])


def test_the_masks_of_a_file_replace_those_of_the_configuration(either_keras, tmp_path):
    model = sequential(either_keras)
    apply_masks(model, masks_for(model, seed=1)).save_weights(str(tmp_path / "other.weights.h5"))
    clone = either_keras.models.clone_model(apply_masks(model, masks_for(model, seed=2)))
    clone.load_weights(str(tmp_path / "other.weights.h5"))
    assert get_masks(clone) == masks_for(model, seed=1)


def test_scikit_learn_classifiers_train_with_the_masks():
    pytest.importorskip("sklearn.utils.multiclass")  # which older versions of Keras expect to be imported
    wrappers = pytest.importorskip("keras.wrappers")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(3, "softmax")])
    model.compile("adam", "categorical_crossentropy")
    if not keras.models.clone_model(model).compiled:
        pytest.skip(f"clones are not compiled by Keras {keras.__version__}, so that its wrapper takes no model")
    pruned = force_tf.apply_masks(model, masks_for(model))
    classes = np.random.default_rng(0).integers(0, 3, len(X))
    classifier = wrappers.SKLearnClassifier(pruned, fit_kwargs={"epochs": 1, "verbose": 0}).fit(X, classes)
    assert_same_masks_other_weights(keras, classifier.model_, pruned)


def test_two_files_of_one_model_hold_the_same_configuration(either_keras):
    model = sequential(either_keras)
    pruned = apply_masks(model, masks_for(model))
    assert pruned.to_json() == pruned.to_json()


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 3, 4)])
def test_masks_as_text(shape):
    mask = np.random.default_rng(0).random(shape) < 0.5
    again = mask_of_text(text_of_mask(mask), shape, "kernel")
    assert again.dtype == bool
    np.testing.assert_array_equal(again, mask)
