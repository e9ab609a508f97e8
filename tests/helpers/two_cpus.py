"""Makes two devices of the CPU before TensorFlow starts; to be imported first, in a process of its own."""

import tensorflow as tf

CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(CPU, [tf.config.LogicalDeviceConfiguration()] * 2)

STRATEGY = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
