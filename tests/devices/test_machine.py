"""What the processor can do is read from Linux's description of it."""

import os
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


#: A container's cgroup, its files below /sys/fs/cgroup, and the cores that it may use.
QUOTAS = {
    "docker run --cpus 2, v2": ("0::/\n", {"cpu.max": "200000 100000"}, 2),
    "a fraction is rounded up": ("0::/\n", {"cpu.max": "150000 100000"}, 2),
    "less than one core": ("0::/\n", {"cpu.max": "20000 100000"}, 1),
    "no limit, v2": ("0::/\n", {"cpu.max": "max 100000"}, 64),
    "a limit of the slice around it": (
        "0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3
    ),
    "v1": (
        "4:memory:/x\n3:cpu,cpuacct:/docker/1\n",
        {"cpu,cpuacct/cpu.cfs_quota_us": "400000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 4,
    ),
    "no limit, v1": ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
    "no cgroups": (None, {}, 64),
}  # fmt: skip


@pytest.mark.parametrize(("cgroup", "limits", "cores"), QUOTAS.values(), ids=QUOTAS)
def test_a_container_with_a_quota_uses_no_more_cores_than_that(
    cgroup: str | None, limits: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cgroup is not None:
        (tmp_path / "cgroup").write_text(cgroup)
    for name, text in limits.items():
        (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / name).write_text(f"{text}\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "sys")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    assert machine.usable_cores() == cores
