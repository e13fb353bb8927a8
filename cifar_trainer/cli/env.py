"""`cifar-trainer env`."""

from typing import TYPE_CHECKING

from cifar_trainer.cli.base import make_command

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from cifar_trainer.cli.console import Output
    from cifar_trainer.devices.survey import Survey, Trial


@make_command("env")
def command(output: "Output", /) -> None:
    """Show versions and devices, test each device, and list what is missing to use a GPU.

    \b
    Examples:
      cifar-trainer env
      cifar-trainer env --json
      cifar-trainer env -v
    """
    from cifar_trainer.devices.survey import environment

    output.result(environment(verbose=output.verbose), survey_tables)


def survey_tables(survey: "Survey") -> "list[Table | Text]":
    """Tables of versions and devices, and what is missing."""
    from rich.table import Table
    from rich.text import Text

    record, cuda = survey.record, survey.cuda
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, version in {**record["versions"], **survey.extras}.items():
        facts.add_row(name, version or Text("not installed (optional)", style="dim"))
    threads = record["threads"]
    facts.add_row("platform", record["platform"])
    facts.add_row("processor", describe_processor(record["processor"]))
    facts.add_row("threads", f"inter-op {threads['inter_op']}, intra-op {threads['intra_op']}")
    facts.add_row("oneDNN", "on" if record["onednn"] else "off")
    facts.add_row("NVIDIA driver", _driver(cuda.driver, cuda.driver_cuda))
    facts.add_row("CUDA", _format_versions(cuda.cuda_built, cuda.cuda_found))
    facts.add_row("cuDNN", _format_versions(cuda.cudnn_built, cuda.cudnn_found))

    tried = Table("device", "name", "a convolution", box=None, padding=(0, 2, 0, 0))
    tried.columns[0].no_wrap = True
    for trial in survey.trials:
        tried.add_row(trial.device, trial.description, format_trial(trial))
    parts: list[Table | Text] = [facts, Text(), tried]
    if survey.missing:
        parts += [Text(), Text("To use an NVIDIA GPU:", style="bold")]
        parts += [Text(f"  - {missing.what}.\n    {missing.remedy}.") for missing in survey.missing]
    return parts


def describe_processor(processor: dict[str, object]) -> str:
    """The processor's name, cores and vector instructions on one line."""
    sets = processor["instruction_sets"]
    instructions = f" ({' '.join(sets)})" if isinstance(sets, list) and sets else ""
    return f"{processor['name']}, {processor['usable_cores']} usable cores{instructions}"


def format_trial(trial: "Trial") -> str:
    """The result of the convolution on a device."""
    if trial.error is not None:
        return f"failed: {trial.error}"
    return (
        f"correct, {trial.milliseconds:.2f} ms ({trial.gflops:,.0f} GFLOP/s), "
        f"first run {trial.first_milliseconds:.0f} ms"
    )


def _driver(driver: str | None, runs: str | None) -> str:
    if driver is None and runs is None:
        return "none found"
    return f"{driver or 'unknown version'}, supports CUDA up to {runs or 'unknown'}"


def _format_versions(built: str | None, found: str | None) -> str:
    if built is None:
        return "not in this TensorFlow"
    return f"TensorFlow built with {built}, found here: {found or 'none'}"
