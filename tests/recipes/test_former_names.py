"""The recipe `tutorial` was called `document`."""

import json
from pathlib import Path

import pytest

import cifar_trainer
from cifar_trainer.recipes import RECIPES, get_recipe
from cifar_trainer.training.jobs import _differences


def test_the_former_name_of_a_recipe_is_accepted() -> None:
    assert get_recipe("document") is RECIPES["tutorial"]


@pytest.mark.usefixtures("small_runs")
def test_a_run_that_recorded_the_former_name_resumes_under_both_names(
    small_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    cifar_trainer.train(dataset="synthetic", data_dir=small_data, run_dir=run, epochs=1, limit=32)
    config = json.loads((run / "config.json").read_text())
    assert config["recipe"] == "tutorial"
    for epochs, name in ((2, "document"), (3, "tutorial")):
        (run / "config.json").write_text(json.dumps({**config, "recipe": "document"}))
        result = cifar_trainer.resume(run, recipe=name, epochs=epochs, data_dir=small_data)
        assert (result.recipe, result.epochs) == ("tutorial", epochs)


def test_a_checkpoint_that_recorded_the_former_name_has_the_same_settings(trained_run: Path) -> None:
    now = cifar_trainer.load_run(trained_run).read_config().identity()
    assert list(_differences({**now, "recipe": "document"}, now)) == []
    assert list(_differences({**now, "recipe": "vit"}, now)) == ["recipe was 'vit' and is 'tutorial'"]
