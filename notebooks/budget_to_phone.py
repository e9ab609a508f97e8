# %% [markdown]
# # Prune to a budget and ship to a phone
#
# A file may have so many bytes and no more, or a network so many multiply-adds. Say so, and the search finds what fits;
# then shrink, train, quantize and time it.

# %% tags=["skip-execution"]
# %pip install -q "force_tf[litert,plots]" scikit-learn

# %% tags=["parameters"]
EPOCHS, STEPS = 12, 10
LIMITS, SHARES = {"file_bytes": 30_000, "quantize": "int8"}, (0.5, 0.25, 0.1)

# %%
import keras
import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

import force_tf

keras.utils.set_random_seed(0)
x, y = load_digits(return_X_y=True)
x = x.reshape(-1, 8, 8, 1).astype("float32") / 16
train, test = (x[:1500], y[:1500]), (x[1500:], y[1500:])
layers = keras.layers
stack = [layers.Conv2D(width, 3, activation="relu", padding="same") for width in (32, 64, 64)]
model = keras.Sequential([keras.Input((8, 8, 1)), *stack, layers.Flatten(), layers.Dense(10, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
print(f"dense: {model.count_params():,} weights, {force_tf.count_flops(model):,} multiply-adds")

# %% [markdown]
# At most 30,000 bytes in 8-bit integers. Whole channels are pruned, so that the network becomes smaller and faster on
# every device. The last lines tell what it came to:

# %%
pruner = force_tf.PruneAtInit("force", budget=force_tf.Budget(**LIMITS), granularity="channel", steps=STEPS, seed=0)
masks = pruner.find_masks(model, train, verbose=0)
masks.summary()

# %% [markdown]
# `shrink` removes what is pruned; what is left trains as always. The file keeps to the budget:

# %%
small = force_tf.shrink(force_tf.apply_masks(model, masks))
small.fit(*train, epochs=EPOCHS, verbose=0)
report = force_tf.export_tflite(small, "digits.tflite", quantize="int8", representative_data=train[0][:300])
accuracy = force_tf.evaluate_tflite("digits.tflite", test, metrics=["accuracy"], verbose=0)["accuracy"]
print(f"\naccuracy of the file: {accuracy:.3f}")

# %% [markdown]
# What does less work cost? A half, a quarter and a tenth of the multiply-adds, beside the dense network:

# %%
rows = []
for share in (1.0, *SHARES):
    network = keras.models.clone_model(model)
    network.set_weights(model.get_weights())
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    if share < 1:
        budget = force_tf.Budget(flops=share)
        pruner = force_tf.PruneAtInit("force", budget=budget, granularity="channel", steps=STEPS, seed=0)
        network = force_tf.shrink(pruner.prune(network, train, verbose=0))
    network.fit(*train, epochs=EPOCHS, verbose=0)
    accuracy = network.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    rows.append((share, force_tf.count_flops(network), accuracy))

print(f"{'budget':>8} {'multiply-adds':>14} {'accuracy':>9}")
for share, flops, accuracy in rows:
    print(f"{share:8.0%} {flops:14,} {accuracy:9.3f}")

# %%
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
axes.plot([flops / 1000 for _, flops, _ in rows], [accuracy for *_, accuracy in rows], marker="o")
axes.set(xlabel="multiply-adds, thousands", ylabel="accuracy", xscale="log")
plt.show()

# %% [markdown]
# One seed on small data: differences of a point say nothing. Time the file, and look at how phones would run it:

# %%
print(force_tf.benchmark_tflite("digits.tflite", runs=20))
print(force_tf.check_tflite("digits.tflite"))
