"""What the processor can do is read from Linux's description of it."""

from pathlib import Path

import pytest

from cifar_trainer.devices import machine

ZEN3 = "flags\t\t: fpu sse2 fma avx avx2\n"
SAPPHIRE_RAPIDS = "flags\t\t: fpu avx512_bf16 avx512_fp16 amx_bf16\n"
GRAVITON3 = "Features\t: fp asimd asimdhp sve bf16\n"


@pytest.mark.parametrize(
    ("cpuinfo", "slow"),
    [(ZEN3, {"bfloat16", "float16"}), (SAPPHIRE_RAPIDS, {"float16"}), (GRAVITON3, set()), ("", set())],
    ids=["without", "x86 with", "ARM with", "unknown"],
)
def test_a_precision_without_fast_instructions_is_known_as_slow(
    cpuinfo: str, slow: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system does not say, nothing is claimed; float32 is never slow."""
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    assert {name for name in ("float32", "bfloat16", "float16") if machine.is_slow(name)} == slow
