"""What is pruned of every layer of Keras, and that it trains: search, wrap, fit, strip, around one layer at a time."""

import keras
import numpy as np
import pytest

import force_tf
from force_tf.models.prunable import all_prunable_weights
from helpers.layer_cases import CASES, HEAD, build, data_for

layers = keras.layers


def find_masks(model, **settings):
    return force_tf.PruneAtInit("magnitude", sparsity=0.5, scope="layer", **settings).find_masks(model, verbose=0)


def weights_of(model):
    return {weight.path: weight.variable.numpy() for weight in all_prunable_weights(model)}


@pytest.mark.parametrize("name", CASES)
def test_what_is_pruned_by_default_and_what_joins(name):
    case = CASES[name]
    model = build(case)
    masks = find_masks(model, layers=None if case.pruned else "head")
    assert set(masks) == {*case.pruned, HEAD}
    if case.pruned:
        reasons = dict.fromkeys(case.opt_in, "not pruned by default: select its layer with `layers=`")
        assert reasons.items() <= masks.left_out.items(), masks.left_out
    assert set(find_masks(model, layers=["it", "head"])) == {*case.pruned, *case.opt_in, HEAD}


@pytest.mark.parametrize("name", CASES)
def test_what_is_pruned_stays_zero_and_the_rest_trains(name, tmp_path):
    case = CASES[name]
    model, (x, y) = build(case), data_for(case)
    masks = find_masks(model, layers=["it", "head"])
    pruned = force_tf.apply_masks(model, masks)
    before = weights_of(pruned)
    pruned.fit(x, y, verbose=0)
    after = weights_of(pruned)
    plain = force_tf.strip_pruning(pruned)
    stripped = weights_of(plain)
    for path, mask in masks.items():
        assert not after[path][~mask].any(), f"{path}: {np.count_nonzero(after[path][~mask])} pruned weights moved"
        assert (after[path] != before[path])[mask].any(), f"{path} has not trained"
        np.testing.assert_array_equal(stripped[path], after[path])
    np.testing.assert_allclose(plain(x), pruned(x), rtol=1e-5, atol=1e-6)
    model.save_weights(tmp_path / "dense.weights.h5")
    plain.load_weights(tmp_path / "dense.weights.h5")
    for loaded, weight in zip(plain.weights, model.weights, strict=True):
        np.testing.assert_array_equal(loaded, weight, err_msg=weight.path)


def freeze(layer):
    layer.trainable = False


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("Dense", freeze, "frozen"),
        ("MultiHeadAttention", freeze, "frozen"),
        ("LSTM", freeze, "frozen"),
        ("Dense", lambda layer: layer.enable_lora(2), "has LoRA weights: merge them first"),
        ("EinsumDense", lambda layer: layer.enable_lora(2), "has LoRA weights: merge them first"),
        ("Embedding", lambda layer: layer.enable_lora(2), "has LoRA weights: merge them first"),
        ("Dense", lambda layer: layer.quantize("int8"), "quantized"),
        ("EinsumDense", lambda layer: layer.quantize("int8"), "quantized"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_pruned_is_left_out_with_the_reason_and_stays_as_it_is(name, change, reason):
    case = CASES[name]
    model, (x, y) = build(case), data_for(case)
    change(model.get_layer("it"))
    model.compile(keras.optimizers.SGD(0.5), "mse", run_eagerly=True)
    masks = find_masks(model)
    assert list(masks) == [HEAD]
    assert {path: masks.left_out[path] for path in (*case.pruned, *case.opt_in)} == dict.fromkeys(
        (*case.pruned, *case.opt_in), reason
    )
    assert all(path in masks.to_table(full=True) for path in masks.left_out)
    pruned = force_tf.apply_masks(model, masks)
    kernels = [variable.numpy() for variable in pruned.get_layer("it").variables if "kernel" in variable.path]
    pruned.fit(x, y, verbose=0)
    plain = force_tf.strip_pruning(pruned)
    assert not plain.get_layer("head").kernel.numpy()[~masks[HEAD]].any()
    for variable, value in zip(
        (variable for variable in plain.get_layer("it").variables if "kernel" in variable.path), kernels, strict=True
    ):
        if not variable.trainable:
            np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)


def test_a_frozen_part_of_a_layer_is_left_out_alone():
    case = CASES["MultiHeadAttention"]
    model = build(case)
    model.get_layer("it").query_dense.trainable = False
    masks = find_masks(model)
    assert set(masks) == {*case.pruned, HEAD} - {"it/query/kernel"}
    assert masks.left_out == {"it/query/kernel": "frozen"}
    assert force_tf.get_masks(force_tf.apply_masks(model, masks)) == masks
