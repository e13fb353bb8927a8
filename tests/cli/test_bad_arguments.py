"""One bad argument, one message: the value, what was expected, the exit code, and nothing on stdout."""

from pathlib import Path

import pytest
from command_line import run_here

#: By command: the arguments, the exit code, and what the message says.
TABLE: dict[str, list[tuple[str, int, str]]] = {
    "runs": [
        ("nowhere", 1, "nowhere does not exist; expected a folder of runs"),
        ("a-file", 1, "a-file is a file; expected a folder of runs"),
        (f"{'x' * 300}", 1, "x" * 300),
    ],
    "compare": [
        ("", 2, "Missing argument 'RUN RUN...'"),
        ("a", 1, "a does not exist; expected a run's folder"),
        ("a b --split train", 2, "--split 'train' is invalid. Choose from test, validation"),
        ("a b --plot x.gif", 2, "--plot x.gif is not a supported format. Expected .png, .svg or .pdf"),
    ],
    "reproduce": [("", 2, "Missing argument 'RUN'")],
    "recipes": [
        ("--show tutorial", 2, "--show needs --plot FILE"),
        ("--plot x.png", 2, "--plot needs --show NAME"),
        ("--show tutoral --plot x.png", 2, "Did you mean 'tutorial'?"),
        ("--show nowhere.py --plot x.png", 2, "nowhere.py cannot be read"),
    ],
    "benchmark": [
        ("--train --batch-size 0", 2, "--batch-size 0 is out of range. Expected a whole number from 1 up"),
        ("--batch-size 0", 2, "--batch-size 0 is out of range"),
        ("--seconds 0", 2, "above 0"),
        ("--seconds nan", 2, "above 0"),
        ("--plot x.gif", 2, "Expected .png, .svg or .pdf"),
        ("--plot x", 2, "Expected .png, .svg or .pdf"),
        ("--train --plot x.png", 2, "--plot draws latencies, which --train does not measure"),
        ("--train --run runs/x", 2, "leave out ARTEFACT and --run"),
        ("--train model.onnx", 2, "leave out ARTEFACT and --run"),
        ("--train --batch-size 1 --batch-size 2", 2, "--train takes a single --batch-size"),
        ("model.onnx --run runs/x", 2, "Pass only one"),
        ("--train --recipe tutoral", 2, "Did you mean 'tutorial'?"),
        ("--train --precision float8", 2, "--precision 'float8' is invalid"),
        ("--train --batch-size 60000", 2, "more than the 50,000 images"),
        ("--device tpu", 2, "--device 'tpu' is invalid. Choose from auto, cpu, gpu"),
        ("nowhere.onnx", 1, "nowhere.onnx cannot be read"),
        ("--run nowhere", 1, "nowhere does not exist; expected a run's folder"),
    ],
    "evaluate": [
        (f"{'x' * 300}", 1, "x" * 300),
        ("runs/a --run runs/b", 2, "RUN runs/a and --run runs/b were both given"),
    ],
    "export": [
        (f"{'x' * 300}", 1, "x" * 300),
        ("runs/a --run runs/b", 2, "RUN runs/a and --run runs/b were both given"),
    ],
    "train": [
        ("--lr 0.1", 2, "Did you mean '--learning-rate'?"),
        ("--epoks 1", 2, "No such option"),
    ],
}


@pytest.mark.parametrize(
    ("command", "arguments", "code", "says"),
    [(command, *row) for command, rows in TABLE.items() for row in rows],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_argument_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, arguments: str, code: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").touch()
    done = run_here([command, *arguments.split()])
    assert (done.exit_code, done.stdout) == (code, ""), done.output
    assert says in done.stderr
    assert done.stderr.count("Error: ") == 1
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]
