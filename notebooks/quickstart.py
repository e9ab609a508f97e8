# %% [markdown]
# # Quickstart
#
# Prune a small network before training, train what is left, and look at what came out.

# %% tags=["skip-execution"]
# %pip install -q "force_tf[litert,plots]" scikit-learn

# %% tags=["parameters"]
EPOCHS, STEPS = 12, 60

# %%
import keras
from sklearn.datasets import load_digits

import force_tf

keras.utils.set_random_seed(0)
x, y = load_digits(return_X_y=True)
x = x.reshape(-1, 8, 8, 1).astype("float32") / 16
train, test = (x[:1500], y[:1500]), (x[1500:], y[1500:])

# %% [markdown]
# A model, compiled as always, and not trained yet:

# %%
layers = keras.layers
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(32, 3, activation="relu", name="conv1"),
        layers.Conv2D(64, 3, activation="relu", name="conv2"),
        layers.Flatten(),
        layers.Dense(10, activation="softmax", name="digits"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

# %% [markdown]
# FORCE finds the 5% of the weights worth keeping. The model stays as it is.

# %%
pruner = force_tf.PruneAtInit("force", sparsity=0.95, steps=STEPS, seed=0)
masks = pruner.find_masks(model, train, verbose=0)
masks.summary()

# %% [markdown]
# What each layer keeps, beside what chance would keep:

# %%
chance = force_tf.PruneAtInit("random", sparsity=0.95, seed=0).find_masks(model, verbose=0)
force_tf.plots.plot_density({"force": masks, "random": chance}).figure

# %% [markdown]
# Training works as always; pruned weights stay exactly zero.

# %%
pruned = force_tf.apply_masks(model, masks)
pruned.fit(*train, epochs=EPOCHS, verbose=0)
model.fit(*train, epochs=EPOCHS, verbose=0)
for name, each in (("pruned", pruned), ("dense", model)):
    print(f"{name}: accuracy {each.evaluate(*test, verbose=0, return_dict=True)['accuracy']:.3f}")

# %% [markdown]
# The file, run and compared with the model:

# %%
report = force_tf.export_tflite(pruned, "digits.tflite")
