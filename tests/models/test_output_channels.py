"""Dead channels are those that a layer leaves at zero, whatever it is given."""

import keras
import numpy as np
import pytest

import force_tf
from force_tf.models.output_channels import dead_channels, output_axes

layers = keras.layers

# Layer, the weight to mask, the shape of its inputs, and the axes of its output that hold channels.
CASES = {
    "dense": (layers.Dense(5, use_bias=False), "kernel", (4, 3), (-1,)),
    "conv": (layers.Conv2D(6, 2, use_bias=False), "kernel", (4, 5, 5, 2), (-1,)),
    "grouped conv": (layers.Conv1D(6, 2, groups=2, use_bias=False), "kernel", (4, 5, 4), (-1,)),
    "transposed conv": (layers.Conv2DTranspose(5, 2, use_bias=False), "kernel", (4, 5, 5, 2), (-1,)),
    "depthwise conv": (layers.DepthwiseConv2D(2, depth_multiplier=3, use_bias=False), "kernel", (4, 5, 5, 2), (-1,)),
    "embedding": (layers.Embedding(3, 8), "embeddings", (4, 6), (-1,)),
    "heads of a query": (layers.EinsumDense("abc,cde->abde", (None, 2, 4)), "kernel", (4, 5, 3), (-2, -1)),
    "output of heads": (layers.EinsumDense("abcd,cde->abe", (None, 6)), "kernel", (4, 5, 2, 2), (-1,)),
    "one matrix per position": (layers.EinsumDense("abc,bcd->abd", (5, 4)), "kernel", (4, 5, 2), (-2, -1)),
    "any rank": (layers.EinsumDense("...x,xy->...y", 6), "kernel", (4, 5, 2), (-1,)),
    "no output axis": (layers.EinsumDense("ab,b->a", ()), "kernel", (4, 3), ()),
}


@pytest.mark.parametrize("name", CASES)
def test_dead_channels_are_those_that_stay_zero(name):
    layer, attribute, shape, channel_axes = CASES[name]
    rng = np.random.default_rng(3)
    x = rng.integers(0, 3, shape) if isinstance(layer, layers.Embedding) else rng.normal(size=shape).astype("float32")
    layer(x)
    variable = getattr(layer, attribute)
    mask = rng.random(variable.shape) < 0.15
    variable.assign(mask * rng.uniform(1, 2, variable.shape))
    output = layer(x).numpy()
    others = tuple(axis for axis in range(output.ndim) if axis - output.ndim not in channel_axes)
    expected = np.count_nonzero(~output.any(axis=others))
    assert dead_channels(mask, output_axes(layer, attribute)) == expected
    assert dead_channels(np.ones_like(mask), output_axes(layer, attribute)) == 0


def test_units_of_each_gate_are_channels():
    cell = layers.LSTMCell(2)
    cell.build((None, 3))
    mask = np.ones(cell.recurrent_kernel.shape, bool)
    mask[:, [1, 4, 5]] = False  # of 4 gates of 2 units
    assert dead_channels(mask, output_axes(cell, "recurrent_kernel")) == 3


def test_both_kernels_of_a_separable_convolution():
    layer = layers.SeparableConv2D(4, 2, depth_multiplier=2)
    layer.build((None, 5, 5, 3))
    assert layer.depthwise_kernel.shape == (2, 2, 3, 2)
    mask = np.ones(layer.depthwise_kernel.shape, bool)
    mask[:, :, 1, 0] = False
    mask[:, :, 2, :] = False
    assert dead_channels(mask, output_axes(layer, "depthwise_kernel")) == 3
    mask = np.ones(layer.pointwise_kernel.shape, bool)
    mask[..., 2] = False
    assert dead_channels(mask, output_axes(layer, "pointwise_kernel")) == 1


def test_a_class_of_the_user_is_not_taken_for_one_of_keras_by_its_name(either_keras):
    class EinsumDense(either_keras.layers.Layer):
        def build(self, input_shape):
            self.kernel = self.add_weight(shape=(input_shape[-1], 8), name="kernel")
            self.built = True

        def call(self, inputs):
            return inputs @ self.kernel

        def get_prunable_weights(self):
            return [self.kernel]

    model = either_keras.Sequential([either_keras.Input((16,)), EinsumDense(name="mine"), either_keras.layers.Dense(4)])
    masks = force_tf.PruneAtInit("magnitude", sparsity=0.5, granularity="2:4").find_masks(model, verbose=0)
    assert masks["mine/kernel"].reshape(4, 4, 8).sum(axis=1).tolist() == np.full((4, 8), 2).tolist()


def test_a_class_of_the_user_named_as_a_transposed_convolution_has_its_channels_last():
    class Conv2DTranspose(keras.layers.Layer):
        pass

    assert output_axes(Conv2DTranspose(), "kernel") == (-1,)
