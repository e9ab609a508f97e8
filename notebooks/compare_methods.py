# %% [markdown]
# # Compare methods honestly
#
# Several seeds, the same training for all, a dense network and chance beside them, and the spread.

# %% tags=["skip-execution"]
# %pip install -q "force_tf[plots]" scikit-learn

# %% tags=["parameters"]
EPOCHS, SEEDS, METHODS = 10, (0, 1, 2), ("random", "magnitude", "snip", "synflow", "force")

# %%
import keras
import numpy as np
from sklearn.datasets import load_digits

import force_tf

x, y = load_digits(return_X_y=True)
x = x.astype("float32") / 16
train, test = (x[:1200], y[:1200]), (x[1200:], y[1200:])


def network(seed):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    stack = [layers.Dense(128, "relu", name="one"), layers.Dense(64, "relu", name="two")]
    model = keras.Sequential([keras.Input((64,)), *stack, layers.Dense(10, activation="softmax", name="digits")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def accuracy(model):
    model.fit(*train, epochs=EPOCHS, verbose=0)
    return model.evaluate(*test, verbose=0, return_dict=True)["accuracy"]


# %% [markdown]
# At 97% sparsity. The masks of each method are also shuffled within each layer: where that does no harm, the method has
# found how many weights a layer needs, not which ([2009.08576](https://arxiv.org/abs/2009.08576)).

# %%
results, masks = {"dense": [accuracy(network(seed)) for seed in SEEDS]}, {}
for method in METHODS:
    for seed in SEEDS:
        model = network(seed)
        pruner = force_tf.PruneAtInit(method, sparsity=0.97, seed=seed)
        masks[method] = pruner.find_masks(model, train, verbose=0)
        results.setdefault(method, []).append(accuracy(force_tf.apply_masks(model, masks[method])))
        shuffled = force_tf.apply_masks(network(seed), masks[method].shuffled(seed))
        results.setdefault(f"{method}, shuffled", []).append(accuracy(shuffled))

print(f"{'':22} mean ± standard deviation of {len(SEEDS)} seeds")
for name, values in results.items():
    print(f"{name:22} {np.mean(values):.3f} ± {np.std(values):.3f}")

# %% [markdown]
# Where the methods put their weights:

# %%
force_tf.plots.plot_density(masks).figure

# %% [markdown]
# Three seeds on small data tell apart what differs by several standard deviations, and nothing else.
