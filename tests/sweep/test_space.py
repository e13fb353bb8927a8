"""The ranges of a sweep, from the command line, a mapping and TOML files."""

from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from cifar_trainer.errors import UsageError
from cifar_trainer.sweeps.space import Range, combinations, describe, parse_space


@pytest.mark.parametrize(
    ("name", "text", "expected", "described"),
    [
        ("learning_rate", "1e-4..1e-2:log", FloatDistribution(1e-4, 1e-2, log=True), "0.0001..0.01:log"),
        ("learning-rate", "0.1..0.3", FloatDistribution(0.1, 0.3), "0.1..0.3"),
        ("batch_size", "32..256:step=32", IntDistribution(32, 256, step=32), "32..256:step=32"),
        ("batch_size", "32..200:step=100", IntDistribution(32, 132, step=100), "32..132:step=100"),
        ("epochs", "2..8", IntDistribution(2, 8), "2..8"),
        ("epochs", "2..8:log", IntDistribution(2, 8, log=True), "2..8:log"),
        ("batch_size", "32, 64,128", CategoricalDistribution((32, 64, 128)), "32,64,128"),
        ("recipe", "vit,regularized", CategoricalDistribution(("vit", "regularized")), "vit,regularized"),
        ("batch_size", [32, 64], CategoricalDistribution((32, 64)), "32,64"),
        ("augment", "none,crop:4+flip", CategoricalDistribution(("none", "crop:4+flip")), "none,crop:4+flip"),
        ("warmup", "0.5,1", CategoricalDistribution((0.5, 1.0)), "0.5,1.0"),
    ],
)
def test_a_range_is_read_and_described(name: str, text: object, expected: Range, described: str) -> None:
    """The description is kept with the study: another one would be another sweep."""
    setting = name.replace("-", "_")
    space = parse_space(space={name: text})
    assert (space, describe(space)) == ({setting: expected}, {setting: described})


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("learning_rat", "1..2", "Did you mean 'learning_rate'?"),
        ("seed", "1,2,3", "is the same for all trials"),
        ("gpus", "1,2", "is not a setting"),
        ("validation", "test,holdout", "is the same for all trials"),
        ("recipe_sha256", "a,b", "is not a setting"),
        ("batch_size", "a,b", "'a' is not a whole number"),
        ("batch_size", "32..64.5", "'64.5' is not a whole number"),
        ("learning_rate", "0.1..nan", "is not finite"),
        ("learning_rate", "0.3..0.1", "is not a range: `low <= high` must hold"),
        ("learning_rate", "0..0.1:log", "`low > 0` must hold"),
        ("learning_rate", "0.1..0.2:cubic", "is not a range"),
        ("batch_size", "32..64:step=0", "`step > 0` must hold"),
        ("batch_size", "32,32", "repeats a choice"),
        ("recipe", "a..b", "is not numeric"),
        ("batch_size", "", "'' is not a whole number"),
        ("batch_size", [], "has no choice"),
    ],
)
def test_a_wrong_range_is_refused(name: str, text: str | list[int], says: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_space(space={name: text})
    assert says in str(error.value)


def test_a_file_and_the_command_line_add_up(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text('learning_rate = "1e-4..1e-2:log"\nbatch_size = [32, 64]\n')
    assert list(parse_space(["epochs=2..3"], file)) == [
        "batch_size", "epochs", "learning_rate",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("assignments", "content", "says"),
    [
        (["epochs"], None, "Expected PARAMETER=RANGE"),
        ([], None, "No setting varies"),
        (["epochs=2..3", "epochs=4"], None, "is given twice"),
        ([], "x = = 1", "is not TOML"),
    ],
)
def test_a_wrong_space_is_refused(
    tmp_path: Path, assignments: list[str], content: str | None, says: str
) -> None:
    file = None
    if content is not None:
        file = tmp_path / "space.toml"
        file.write_text(content)
    with pytest.raises(UsageError) as error:
        parse_space(assignments, file)
    assert says in str(error.value)


def test_a_space_may_be_a_mapping_or_a_file_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text("batch_size = [32, 64]\n")
    assert parse_space(space={"batch_size": [32, 64]}) == parse_space(space=str(tmp_path / "space.toml"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.toml"):
        parse_space([], tmp_path / "gone.toml")


def test_the_combinations_of_a_finite_space_are_counted() -> None:
    space = parse_space(["batch_size=32,64", "epochs=2..6:step=2"])
    found = combinations(space)
    assert found is not None
    assert {(each["batch_size"], each["epochs"]) for each in found} == {
        (size, epochs) for size in (32, 64) for epochs in (2, 4, 6)
    }


def test_a_range_of_real_numbers_is_infinite() -> None:
    assert combinations(parse_space(["learning_rate=0.1..0.2"])) is None
