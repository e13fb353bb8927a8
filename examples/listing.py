"""TensorFlow's CNN tutorial as a script: a small CNN on CIFAR-10 with Keras `fit`.

    cifar-trainer prepare
    python examples/listing.py --data-dir data

The tutorial is "Convolutional Neural Network (CNN)". There are two differences: this script
reads the data that `cifar-trainer prepare` wrote, and it prints the seconds of each epoch.
`cifar-trainer train --epochs 10` does the same.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.keras import layers, models

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--data-dir", type=Path, default=Path("data"))
parser.add_argument("--dataset", default="cifar10")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--limit", type=int, default=None, help="only the first N training images")
options = parser.parse_args()

folder = options.data_dir / options.dataset
train_images = np.load(folder / "train_images.npy")[: options.limit]
train_labels = np.load(folder / "train_labels.npy")[: options.limit]
test_images = np.load(folder / "test_images.npy")
test_labels = np.load(folder / "test_labels.npy")

# Normalize pixel values to be between 0 and 1
train_images, test_images = train_images / 255.0, test_images / 255.0


class Clock(tf.keras.callbacks.Callback):
    """Prints the seconds of each epoch, which Keras rounds to whole ones."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        print(f"epoch seconds: {time.perf_counter() - self.start:.3f}")


model = models.Sequential()
model.add(layers.Conv2D(32, (3, 3), activation="relu", input_shape=(32, 32, 3)))
model.add(layers.MaxPooling2D((2, 2)))
model.add(layers.Conv2D(64, (3, 3), activation="relu"))
model.add(layers.MaxPooling2D((2, 2)))
model.add(layers.Conv2D(64, (3, 3), activation="relu"))
model.add(layers.Flatten())
model.add(layers.Dense(64, activation="relu"))
model.add(layers.Dense(10))

model.compile(
    optimizer="adam",
    loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(
    train_images,
    train_labels,
    epochs=options.epochs,
    validation_data=(test_images, test_labels),
    callbacks=[Clock()],
    verbose=2,
)

test_loss, test_accuracy = model.evaluate(test_images, test_labels, verbose=2)
print(f"test accuracy: {test_accuracy:.4f}")
