"""Searches to a budget: never above it, near below it, and the densest network that fits."""

import keras
import numpy as np
import pytest

import force_tf

pytestmark = [
    pytest.mark.filterwarnings("ignore:Every channel of the model"),
    pytest.mark.filterwarnings("ignore::force_tf.ZeroScoresWarning"),  # units that no image reaches
]


def network(keras):
    layers = keras.layers
    model = keras.Sequential([keras.Input((20,)), layers.Dense(30, "relu", name="a"), layers.Dense(4, name="b")])
    model.compile(loss=keras.losses.MeanSquaredError())
    return model


def data():
    random = np.random.default_rng(0)
    return random.standard_normal((32, 20)).astype("float32"), random.standard_normal((32, 4)).astype("float32")


def parameters_left(pruned):
    """The weights and biases that are left of the two layers, counted in the shrunk network's own arrays."""
    small = force_tf.shrink(pruned)
    kept = sum(int(mask.sum()) for mask in force_tf.get_masks(small).values())
    return kept + sum(int(np.size(layer.bias)) for layer in force_tf.strip_pruning(small).layers)


def test_weights_meet_a_number_of_parameters_exactly(either_keras):
    model = network(either_keras)
    pruner = force_tf.PruneAtInit("snip", budget=force_tf.Budget(parameters=150), seed=0)
    pruned = pruner.prune(model, data(), verbose=0)
    masks = pruner.find_masks(model, data(), verbose=0)
    left = parameters_left(pruned)
    assert left == masks.metadata["budget"]["parameters"]["result"]
    assert 148 <= left <= 150  # a weight may bring a bias
    assert masks.metadata["budget"]["parameters"]["dense"] == 20 * 30 + 30 + 30 * 4 + 4
    denser = force_tf.PruneAtInit("snip", 1 - (masks.kept + 1) / masks.total, seed=0)
    assert parameters_left(denser.prune(model, data(), verbose=0)) > 150
    assert f"parameters: {left} of at most 150; dense: 754" in masks.to_table()


def test_the_search_ends_with_the_first_step_that_fits(either_keras):
    model = network(either_keras)
    pruner = force_tf.PruneAtInit("force", budget=force_tf.Budget(flops=0.3), granularity="channel", steps=4, seed=0)
    masks = pruner.find_masks(model, data(), verbose=0)
    assert 1 < len(pruner.history) <= 4
    # A hidden unit takes 20 + 4 multiply-adds, and 9 of 30 fit.
    assert masks.metadata["budget"]["flops"] == {"budget": 216, "result": 216, "dense": 720}
    small = force_tf.shrink(force_tf.apply_masks(model, masks))
    assert force_tf.count_flops(force_tf.strip_pruning(small)) == 216


@pytest.mark.slow  # some twenty files are written
def test_a_file_and_several_costs_at_once(either_keras, tmp_path):
    model = network(either_keras)
    budget = force_tf.Budget(file_bytes=0.9, quantize="float16", flops=0.8)
    pruned = force_tf.PruneAtInit("magnitude", budget=budget, granularity="channel").prune(model, verbose=0)
    small = force_tf.strip_pruning(force_tf.shrink(pruned))
    dense = force_tf.export_tflite(model, tmp_path / "dense.tflite", quantize="float16", verbose=False)
    found = force_tf.export_tflite(small, tmp_path / "small.tflite", quantize="float16", verbose=False)
    assert found.bytes <= 0.9 * dense.bytes
    assert force_tf.count_flops(small) <= 0.8 * 720


def mobile(keras):
    """The form of MobileNetV2: inverted residuals of 1x1 and depthwise convolutions, fit for phones' sparse kernels."""
    layers = keras.layers
    x = inputs = keras.Input((16, 16, 3))
    x = layers.ReLU(6.0)(layers.Conv2D(8, 3, strides=2, padding="same", name="stem")(x))
    for number in range(2):
        y = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(32, 1, name=f"expand_{number}")(x)))
        y = layers.ReLU(6.0)(layers.DepthwiseConv2D(3, padding="same", name=f"depthwise_{number}")(y))
        x = layers.Add()([x, layers.Conv2D(8, 1, name=f"project_{number}")(y)])
    model = keras.Model(inputs, layers.Dense(4, name="head")(layers.GlobalAveragePooling2D()(x)))
    model.compile(loss=keras.losses.MeanSquaredError())
    return model


def images():
    random = np.random.default_rng(0)
    return random.standard_normal((16, 16, 16, 3)).astype("float32"), random.standard_normal((16, 4)).astype("float32")


def cost_of(model, masks, name, **options):
    """A cost, counted on the shrunk network itself."""
    small = force_tf.shrink(force_tf.apply_masks(model, masks))
    kept, plain = force_tf.get_masks(small), force_tf.strip_pruning(small)
    if name == "parameters":
        return plain.count_params() - (kept.total - kept.kept)
    return force_tf.count_flops(plain, **options)


def test_blocks_and_several_costs_at_once():
    model = mobile(keras)
    dense = model.count_params()
    budget = force_tf.Budget(parameters=0.4, flops=0.95)
    pruner = force_tf.PruneAtInit("snip", budget=budget, granularity=(1, 2), seed=0)
    masks = pruner.find_masks(model, images(), verbose=0)
    assert 0.38 * dense < cost_of(model, masks, "parameters") <= 0.4 * dense
    assert cost_of(model, masks, "flops") <= 0.95 * force_tf.count_flops(model)
    for mask in masks.values():
        pairs = mask[..., : mask.shape[-1] // 2 * 2].reshape(-1, 2)
        np.testing.assert_array_equal(pairs.any(1), pairs.all(1))


@pytest.mark.parametrize("part", [0.6, 0.25])
def test_channels_meet_multiply_adds(part):
    model = mobile(keras)
    pruner = force_tf.PruneAtInit("synflow", budget=force_tf.Budget(flops=part), granularity="channel", steps=3)
    masks = pruner.find_masks(model, verbose=0)
    dense, found = force_tf.count_flops(model), cost_of(model, masks, "flops")
    assert masks.metadata["budget"]["flops"] == {"budget": int(part * dense), "result": found, "dense": dense}
    # A channel between the blocks has two 1x1 convolutions and a depthwise one; one of the sums is tied to all blocks.
    assert (part - 0.04) * dense < found <= part * dense


@pytest.mark.slow  # the network is converted a few times
def test_sparse_kernels_count_kept_weights_alone():
    model = mobile(keras)
    fit = force_tf.sparse_kernel_layers(model)
    budget = force_tf.Budget(flops=0.4, sparse_kernels=True)
    masks = force_tf.PruneAtInit("snip", budget=budget, layers=fit, seed=0).find_masks(model, images(), verbose=0)
    dense, found = force_tf.count_flops(model), masks.metadata["budget"]["flops"]
    assert found["dense"] == dense
    small = force_tf.shrink(force_tf.apply_masks(model, masks))
    counted = force_tf.count_flops(force_tf.strip_pruning(small), force_tf.get_masks(small), sparse_kernels=True)
    assert found["result"] == counted
    assert 0.38 * dense < counted <= 0.4 * dense
    with pytest.raises(ValueError, match=r"phones can run layers sparsely.*or sparse_kernels=False. Received: 'sequ"):
        force_tf.PruneAtInit("snip", budget=budget).find_masks(network(keras), data(), verbose=0)


@pytest.mark.slow  # files are written
@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_int8_files(granularity, tmp_path):
    model = mobile(keras)
    rows = images()[0]
    dense = force_tf.export_tflite(
        model, tmp_path / "dense.tflite", quantize="int8", representative_data=rows, tolerance=np.inf, verbose=False
    )
    budget = force_tf.Budget(file_bytes=0.8, quantize="int8")
    masks = force_tf.PruneAtInit("snip", budget=budget, granularity=granularity, seed=0).find_masks(
        model, images(), verbose=0
    )
    small = force_tf.strip_pruning(force_tf.shrink(force_tf.apply_masks(model, masks)))
    found = force_tf.export_tflite(
        small, tmp_path / "small.tflite", quantize="int8", representative_data=rows, tolerance=np.inf, verbose=False
    )
    assert 0.7 * dense.bytes < found.bytes <= 0.8 * dense.bytes


@pytest.mark.parametrize(
    ("granularity", "budget", "asked"),
    [
        ("weight", {"parameters": 5}, "parameters=5, for a dense network of parameters=754"),
        ("channel", {"flops": 1e-6}, "flops=0, for a dense network of flops=720"),  # less than one multiply-add
    ],
)
def test_what_cannot_be_met_says_the_least(either_keras, granularity, budget, asked):
    pruner = force_tf.PruneAtInit("snip", budget=force_tf.Budget(**budget), granularity=granularity, seed=0)
    (name,) = budget
    with pytest.raises(ValueError, match=rf"the least such network has {name}=\d+\. Received: a budget of {asked}"):
        pruner.find_masks(network(either_keras), data(), verbose=0)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"sparsity": 0.9}, ValueError, "either `sparsity` or `budget`"),
        ({"repair": True}, ValueError, "repair=False with a budget"),
        ({"granularity": "2:4"}, ValueError, "other than a pattern"),
        ({"cut": "device"}, ValueError, 'cut="auto" or "host"'),
        ({"budget": 0.25}, TypeError, "force_tf.Budget or None"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        force_tf.PruneAtInit("snip", **{"budget": force_tf.Budget(flops=0.5), **settings})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "Expected one of"),
        ({"flops": 0}, ValueError, r"`flops` to be a number in \(0, inf\)"),
        ({"flops": "1k"}, TypeError, r"`flops` to be a number in \(0, inf\)"),
        ({"file_bytes": 0.5, "quantize": "int4"}, ValueError, "one of"),
        ({"flops": 0.5, "quantize": "int8"}, ValueError, "Expected `file_bytes`"),
        ({"parameters": 0.5, "sparse_kernels": True}, ValueError, "Expected `flops` where `sparse_kernels`"),
        ({"flops": 0.5, "sparse_kernels": "auto"}, ValueError, "one of True, False"),
    ],
)
def test_budgets_that_say_nothing_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        force_tf.Budget(**arguments)


def test_a_search_to_a_budget_takes_no_checkpoint(either_keras, tmp_path):
    pruner = force_tf.PruneAtInit("snip", budget=force_tf.Budget(flops=0.5))
    with pytest.raises(ValueError, match="cannot go on where it was"):
        pruner.find_masks(network(either_keras), data(), checkpoint=tmp_path / "state")
