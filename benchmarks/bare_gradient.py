"""What searches are compared with: the gradient of the loss by all trained weights, or its Hessian times a vector."""

import tensorflow as tf


def bare_gradient(model, loss):
    """Returns a traced function of inputs and targets that returns the gradients of the trained variables."""
    variables = [variable.value for variable in model.trainable_variables]

    @tf.function
    def gradient(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        return tape.gradient(value, variables)

    return gradient


def bare_hessian_product(model, loss):
    """Returns a traced function of inputs, targets and a vector that returns the loss's Hessian times that vector."""
    variables = [variable.value for variable in model.trainable_variables]

    @tf.function
    def product(x, y, vectors):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                value = loss(y, model(x, training=True))
            gradients = inner.gradient(value, variables)
            sums = tf.add_n([tf.reduce_sum(g * vector) for g, vector in zip(gradients, vectors)])
        return outer.gradient(sums, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    return product
