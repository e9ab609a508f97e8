# %% [markdown]
# # Coming from tfmot
#
# Gradual magnitude pruning as tensorflow-model-optimization does it, and the same in Keras 3.

# %% tags=["skip-execution"]
# %pip install -q "force_tf[litert,plots]" scikit-learn

# %% tags=["parameters"]
EPOCHS = 20

# %%
import keras
import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

import force_tf

keras.utils.set_random_seed(0)
x, y = load_digits(return_X_y=True)
x = x.astype("float32") / 16
train, test = (x[:1500], y[:1500]), (x[1500:], y[1500:])


def network():
    layers = keras.layers
    stack = [layers.Dense(128, "relu", name="one"), layers.Dense(64, "relu", name="two")]
    model = keras.Sequential([keras.Input((64,)), *stack, layers.Dense(10, activation="softmax", name="digits")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


# %% [markdown]
# In tfmot one writes `prune_low_magnitude(model, pruning_schedule=PolynomialDecay(0.0, 0.9, ...))`, compiles
# again, and must not forget `UpdatePruningStep` among the callbacks. Here the model stays
# compiled, and the callback is the pruning:

# %%
pruned = force_tf.apply_masks(network())  # nothing is pruned yet
pruning = force_tf.callbacks.PruneDuringTraining("gmp", sparsity=0.9)
history = pruned.fit(*train, epochs=EPOCHS, verbose=0, callbacks=[pruning])

# %% [markdown]
# The density falls as by `PolynomialDecay` with power 3, over the first three quarters of `fit`:

# %%
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
axes.plot(range(1, EPOCHS + 1), history.history["density"], marker="o")
axes.set(xlabel="epoch", ylabel="density", ylim=(0, 1))
plt.show()

# %% [markdown]
# `strip_pruning` takes the wrappers off, and the zeros stay:

# %%
plain = force_tf.strip_pruning(pruned)
for layer in plain.layers:
    print(f"{layer.name:8} {(layer.kernel.numpy() == 0).mean():.1%} zeros")

# %% [markdown]
# Beside the dense network, and one that is pruned before training:

# %%
dense = network()
at_start = force_tf.PruneAtInit("force", sparsity=0.9, seed=0).prune(network(), train, verbose=0)
for model in (dense, at_start):
    model.fit(*train, epochs=EPOCHS, verbose=0)
for name, model in (("dense", dense), ("gmp", pruned), ("force", at_start)):
    print(f"{name:6} accuracy {model.evaluate(*test, verbose=0, return_dict=True)['accuracy']:.3f}")
