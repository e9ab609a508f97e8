# %% [markdown]
# # Prune to a budget and ship to a phone
#
# A file may have so many bytes and no more. Find the sparsity that fits, shrink, quantize and time it.

# %% tags=["skip-execution"]
# %pip install -q "force_tf[litert,plots]" scikit-learn

# %% tags=["parameters"]
EPOCHS, STEPS, SPARSITIES = 12, 20, (0.5, 0.7, 0.9)

# %%
import keras
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
# Whole channels are pruned, so that the network becomes smaller and faster on every device. Three sparsities, each
# shrunk, trained, and written with 8-bit integers:

# %%
rows = []
for sparsity in SPARSITIES:
    pruner = force_tf.PruneAtInit("force", sparsity=sparsity, granularity="channel", steps=STEPS, seed=0)
    small = force_tf.shrink(pruner.prune(model, train, verbose=0))
    small.fit(*train, epochs=EPOCHS, verbose=0)
    path = f"sparsity_{sparsity}.tflite"
    report = force_tf.export_tflite(small, path, quantize="int8", representative_data=train[0][:300], verbose=False)
    accuracy = force_tf.evaluate_tflite(path, test, metrics=["accuracy"], verbose=0)["accuracy"]
    rows.append((sparsity, report.bytes, force_tf.count_flops(small), accuracy, path))

print(f"{'sparsity':>8} {'bytes':>8} {'multiply-adds':>14} {'accuracy':>9}")
for sparsity, size, flops, accuracy, _ in rows:
    print(f"{sparsity:8} {size:8,} {flops:14,} {accuracy:9.3f}")

# %% [markdown]
# Take the most accurate file that fits:

# %%
budget = 60_000  # bytes
fitting = [row for row in rows if row[1] <= budget]
best = max(fitting, key=lambda row: row[3])
print(f"{best[4]}: {best[1]:,} bytes")
print(force_tf.benchmark_tflite(best[4], runs=20))
print(force_tf.check_tflite(best[4]))
