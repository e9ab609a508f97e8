"""All that knows Keras and no masks: what a model and its layers are, and how they are copied."""
