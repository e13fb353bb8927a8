# %% [markdown]
# # cifar-trainer from a notebook
#
# Open this file in VS Code, PyCharm or Spyder, or with Jupytext in Jupyter: each `# %%` starts a cell.
# Each command has a function of the same name, whose arguments are named like the options.

# %%
import os

import cifar_trainer

# A quick look with the built-in synthetic images.
# For real training: DATASET = "cifar10", LIMIT = None, EPOCHS = 10.
DATASET = os.environ.get("DATASET", "synthetic")
DATA_DIR = os.environ.get("CIFAR_TRAINER_DATA", "data")
LIMIT, EPOCHS = 320, 1

# %% [markdown]
# ## Prepare the data

# %%
prepared = cifar_trainer.prepare(DATASET, DATA_DIR)
record = prepared.record
print(f"{record.title}: {record.train.images:,} training images of {len(record.classes)} classes")

# %% [markdown]
# ## Train two runs that differ in their seed

# %%
results = [
    cifar_trainer.train(
        dataset=DATASET,
        data_dir=DATA_DIR,
        run_dir=f"runs/notebook-seed-{seed}",
        epochs=EPOCHS,
        limit=LIMIT,
        seed=seed,
    )
    for seed in (0, 1)
]
for result in results:
    print(
        f"seed {result.seed}: {result.validation['accuracy']:.2%}, {result.images_per_second:,.0f} images/s"
    )

# %% [markdown]
# ## Resume a run
#
# A stopped run continues from its last checkpoint. A finished one can be extended.

# %%
extended = cifar_trainer.resume(results[0].run_dir, epochs=EPOCHS + 1)
print(f"after {extended.epochs} epochs: {extended.validation['accuracy']:.2%}")

# %% [markdown]
# ## Evaluate, and read the learning curves

# %%
report = cifar_trainer.evaluate(extended.run_dir)
low, high = report.accuracy_interval
print(f"accuracy {report.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%})")

for row in cifar_trainer.load_run(extended.run_dir).read_history():
    print(f"epoch {row['epoch']:.0f}: training {row['accuracy']:.2%}, validation {row['val_accuracy']:.2%}")

# %% [markdown]
# ## Export a model that does not need this package or Keras

# %%
for export in cifar_trainer.export(extended.run_dir, format="saved_model").exports:
    print(f"{export.format}: {export.path}, agreement with Keras {export.agreement:.2%}")
