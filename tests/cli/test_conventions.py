"""What holds for every command: help, exit codes, streams, terminals, locales."""

import json
import os
import pty
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from command_line import RunCli, all_commands, command, environment, python, run_here, run_python

from cifar_trainer import __version__
from cifar_trainer.cli import COMMANDS

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

#: Runs several command lines in one process, and says after each whether a slow package came with it.
WATCHED = """
import contextlib, io, json, sys
from cifar_trainer.cli import main
answers = []
for arguments in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(arguments, prog_name="cifar-trainer")
        except SystemExit as end:
            code = end.code
    slow = sorted({"tensorflow", "keras", "matplotlib", "sklearn"} & set(sys.modules))
    answers.append([code, slow, said.getvalue()])
print(json.dumps(answers))
"""


def watched(commands: list[list[str]], cwd: Path) -> list[tuple[int, list[str], str]]:
    done = run_python(["-c", WATCHED, json.dumps(commands)], own_process=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return [tuple(answer) for answer in json.loads(done.stdout)]


def test_help_has_an_example_and_answers_without_tensorflow(tmp_path: Path) -> None:
    names = [*COMMANDS, *(name for name in all_commands() if name not in COMMANDS)]
    for name, (code, slow, said) in zip(
        names, watched([[*name.split(), "--help"] for name in names], tmp_path), strict=True
    ):
        assert (name, code, slow) == (name, 0, [])
        assert f"  cifar-trainer {name}" in said
        assert "Example" in said


def test_help_version_and_what_is_wrong_answer_without_tensorflow(tmp_path: Path) -> None:
    expected = {
        "--help": 0, "--version": 0, "nothing": 2, "train --epochs 0": 2, "train --epoks 1": 2,
        "train --recipe x": 2, "benchmark --train --batch-size 60000": 2, "evaluate no-such-run": 1,
        "train --offline --data-dir no-such-folder": 3,
    }  # fmt: skip
    answers = watched([text.split() for text in expected], tmp_path)
    assert [code for code, _, _ in answers] == list(expected.values())
    assert [slow for _, slow, _ in answers] == [[]] * len(expected)
    assert not any("Traceback" in said for _, _, said in answers)
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_the_packages() -> None:
    assert run_here(["--version"]).stdout == f"cifar-trainer, version {__version__}\n"


@pytest.mark.parametrize("name", ["evaluate", "export", "serve", "reproduce", "benchmark"])
@pytest.mark.parametrize("option", [[], ["--run"]])
def test_a_run_is_named_by_its_folder_or_by_an_option_in_every_command(
    tmp_path: Path, name: str, option: list[str]
) -> None:
    """A run without settings, so that each says which one it has looked at."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "history.csv").touch()
    done = run_here([name, *option, tmp_path])
    assert f"{tmp_path}/" in done.stderr
    assert done.exit_code == 1


def test_an_option_can_be_set_by_the_environment() -> None:
    done = run_here(["train"], env={"CIFAR_TRAINER_TRAIN_EPOCHS": "-7"})
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--epochs -7 is out of range" in done.stderr


@pytest.mark.parametrize(("name", "command"), all_commands().items(), ids=all_commands())
def test_every_option_has_the_variable_of_its_own_name(name: str, command: click.Command) -> None:
    """CIFAR_TRAINER_<COMMAND>_<OPTION>, whatever the function calls its argument."""
    options = [each for each in command.params if isinstance(each, click.Option)]
    # serve has no result: it answers until it is stopped.
    assert name == "serve" or any("--json" in each.opts for each in options)
    for option in options:
        typed = max(option.opts, key=len).removeprefix("--").replace("-", "_").upper()
        variables = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or [])
        assert variables[0] == f"CIFAR_TRAINER_{name.upper().replace(' ', '_')}_{typed}"


def test_variables_set_flags_and_what_may_be_given_several_times(trained_run: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    done = run_here(["runs", tmp_path], env={"CIFAR_TRAINER_RUNS_JSON": "1"})
    assert len(json.loads(done.stdout)["runs"]) == 1
    done = run_here(["export", tmp_path / "run"], env={"CIFAR_TRAINER_EXPORT_FORMAT": "keras cereal"})
    assert done.exit_code == 2
    assert "cereal" in done.stderr


def test_cifar_trainer_data_names_the_data_folder_of_every_command(
    run_cli: RunCli, data_dir: Path, tmp_path: Path
) -> None:
    done = run_cli(
        ["prepare", "--dataset", "synthetic", "--json"], env={"CIFAR_TRAINER_DATA": data_dir}, cwd=tmp_path
    )
    assert json.loads(done.stdout)["data_dir"] == str(data_dir)


def test_an_unexpected_exception_keeps_its_traceback() -> None:
    program = (
        "import cifar_trainer.run as listing\n"
        "def broken(root): raise ZeroDivisionError('a fault of ours')\n"
        "listing.list_runs = broken\n"
        "from cifar_trainer.cli import main\n"
        "main(['runs', '.'], prog_name='cifar-trainer')\n"
    )
    done = run_python(["-c", program])
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "a fault of ours" in done.stderr


def test_an_expected_error_shows_its_traceback_with_v_only(tmp_path: Path) -> None:
    for options, shown in (([], 0), (["-v"], 1)):
        done = run_here([*options, "evaluate", tmp_path / "nowhere"])
        assert done.exit_code == 1
        assert done.stderr.count("Traceback") == shown
        assert sum(line.startswith("Error: ") for line in done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--help"], ["prepare", "--help"], ["runs", "."]])
def test_a_reader_of_a_pipe_that_is_gone_ends_it_quietly(
    arguments: list[str], trained_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command(*arguments, own_process=True), cwd=tmp_path, env=environment(),
        stdout=writing, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def on_a_terminal(arguments: list[str], **env: str) -> tuple[int, str]:
    """Run a program on a terminal of its own; its exit code, and all that it showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment(env)
    )
    os.close(theirs)
    shown = b""
    # Linux gives EIO where the last holder of the other end is gone.
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return process.wait(), shown.decode()


def small(data_dir: Path, run: Path) -> list[str]:
    return [
        "train", "--dataset", "synthetic", "--data-dir", str(data_dir), "--limit", "80", "--epochs", "2",
        "--batch-size", "4", "--run-dir", str(run),
    ]  # fmt: skip


def test_a_terminal_shows_a_live_bar_and_keeps_a_line_an_epoch(small_data: Path, tmp_path: Path) -> None:
    code, shown = on_a_terminal(
        command(*small(small_data, tmp_path / "run")), TERM="xterm-256color", COLUMNS="100"
    )
    assert code == 0
    assert "\x1b[" in shown
    assert re.search(r"epoch 1/2 .*step \d+/20 .*loss \d\.\d{4} .*accuracy .*images/s .*\d:\d\d left", shown)
    assert re.search(r"epoch 2/2  loss \d\.\d{4}", shown)


def test_a_line_says_that_tensorflow_is_loaded_before_anything_slow_is(tmp_path: Path) -> None:
    """Loading takes seconds, on a slow disk half a minute: the terminal must not stay empty."""
    program = (
        "import logging, sys\n"
        "class Watch(logging.Handler):\n"
        "    def emit(self, record):\n"
        "        slow = {'tensorflow', 'keras', 'matplotlib', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "        print(record.getMessage(), sorted(slow), file=sys.__stdout__, flush=True)\n"
        "        import os; os._exit(0)\n"
        "logging.getLogger('cifar_trainer').addHandler(Watch())\n"
        "from cifar_trainer.cli import main\n"
        "main(sys.argv[1:], prog_name='cifar-trainer')\n"
    )
    for arguments in (["recipes"], ["env"], ["benchmark", "--train"]):
        done = run_python(["-c", program, *arguments], own_process=True, cwd=tmp_path)
        assert done.stdout == "loading TensorFlow ... []\n", (arguments, done.stderr)


def test_a_dumb_terminal_of_20_columns_gets_plain_lines(small_data: Path, tmp_path: Path) -> None:
    code, shown = on_a_terminal(command(*small(small_data, tmp_path / "run")), TERM="dumb", COLUMNS="20")
    assert code == 0
    assert not CONTROL.search(shown.replace("\r\n", "\n"))
    assert shown.count("val_accuracy") == 2


@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_on_a_terminal_gives_no_colour(env: dict[str, str], coloured: bool) -> None:
    program = [python(), "-c", "from cifar_trainer.cli.console import Output; Output().warn('mind the gap')"]
    _, shown = on_a_terminal(program, TERM="xterm-256color", **env)
    assert "Warning: mind the gap" in shown
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-7]", shown)) is coloured


def test_force_color_where_there_is_no_terminal_gives_colour_and_no_bar() -> None:
    """Continuous integration sets it, and keeps what is written in a file."""
    program = (
        "from cifar_trainer.cli.console import Output; o = Output(); o.warn('mind the gap'); print(o.live)"
    )
    done = run_python(["-c", program], env={"FORCE_COLOR": "1", "TERM": "xterm-256color"})
    assert "\x1b[33mWarning: mind the gap" in done.stderr
    assert done.stdout == "False\n"


def test_a_command_to_paste_is_one_line_however_narrow_the_terminal() -> None:
    line = "cifar-trainer train --resume " + "/a/long/way/to" * 8
    said = f"Output().note('Go on with:\\n  {line}', wrap=False)"
    program = [python(), "-c", f"from cifar_trainer.cli.console import Output; {said}"]
    _, shown = on_a_terminal(program, TERM="xterm-256color", COLUMNS="40")
    assert f"  {line}\r\n" in shown


def test_names_that_look_like_markup_are_shown_as_they_are(trained_run: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_run, tmp_path / "[red]:cat:")
    assert "[red]:cat:" in run_here(["runs", tmp_path]).stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["prepare", "--dataset", "synthetic", "--json"]])
def test_results_that_cannot_be_written_are_a_failure(arguments: list[str], data_dir: Path) -> None:
    """Standard output on a full disk: one message, exit code 1, no traceback."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command(*arguments, own_process=True), stdout=full, stderr=subprocess.PIPE,
            text=True, check=False, env=environment({"CIFAR_TRAINER_DATA": str(data_dir)}),
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "Error: The result could not be written to standard output: No space left on device.\n"
    )


def test_a_variable_for_a_version_is_nobodys_option(tmp_path: Path) -> None:
    """As Dockerfiles set it for what they install."""
    assert run_here(["runs", tmp_path], env={"CIFAR_TRAINER_VERSION": "1.2.0"}).exit_code == 0


def test_a_pipe_gets_one_plain_line_an_epoch(trained_run: Path) -> None:
    shown = (trained_run.parent / "stderr.txt").read_text()
    lines = [line for line in shown.splitlines() if line.startswith("epoch")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert not CONTROL.search(shown)


#: A locale of plain ASCII, as containers and cron jobs have it.
ASCII_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def latin_1(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The path of a run whose name is Latin-1, as a POSIX system may have it; alone in its folder."""
    return os.fsencode(tmp_path_factory.mktemp("latin-1")) + b"/caf\xe9"


@pytest.fixture(scope="module")
def trained_there(latin_1: bytes, small_data: Path) -> subprocess.CompletedProcess[bytes]:
    """The quiet command that has trained it."""
    train = [os.fsencode(word) for word in [*command(), *small(small_data, Path("x"))[:-1]]]
    words = [*train, latin_1, b"--quiet"]
    return subprocess.run(words, capture_output=True, env=environment(), check=False)


def test_a_run_whose_path_is_not_utf8_is_trained_and_listed_and_quiet_writes_no_line(
    trained_there: subprocess.CompletedProcess[bytes], latin_1: bytes
) -> None:
    words = [os.fsencode(word) for word in command("runs")] + [os.path.dirname(latin_1)]  # noqa: PTH120
    listed = subprocess.run(words, capture_output=True, env=environment(), check=False)
    for done in (trained_there, listed):
        assert (done.returncode, done.stderr) == (0, b"")
    assert Path(os.fsdecode(latin_1), "model.keras").is_file()


#: Several commands in one process. What figures show is not what this is about, and they take long.
IN_TURN = """
import sys
from cifar_trainer import pages
from cifar_trainer.cli import main
pages.draw_figures = lambda drawings, progress: dict.fromkeys(drawings, pages.PageFigure(b"", b""))
run, data = sys.argv[1:]
for arguments in (["train", "--resume", run, "--epochs", "3"], ["evaluate", run]):
    main([*arguments, "--data-dir", data], prog_name="cifar-trainer", standalone_mode=False)
"""


def test_in_a_locale_that_is_not_utf8_such_a_run_goes_on_and_is_evaluated(
    trained_there: subprocess.CompletedProcess[bytes], small_data: Path, latin_1: bytes
) -> None:
    words = [os.fsencode(python()), b"-c", IN_TURN.encode(), latin_1, os.fsencode(small_data)]
    done = subprocess.run(words, capture_output=True, env=environment(ASCII_LOCALE), check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert Path(os.fsdecode(latin_1), "evaluation", "test", "report.html").is_file()
