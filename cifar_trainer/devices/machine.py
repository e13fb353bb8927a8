"""The processor: name, instruction sets, and the cores that this process may use."""

import contextlib
import math
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_CGROUP, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
#: Instruction sets for which TensorFlow and oneDNN have optimized code.
_INSTRUCTION_SETS = re.compile(r"avx\w*|fma|amx\w*|asimd\w*|sve\w*|bf16")
#: TensorFlow needs one of these instruction sets to train fast in a precision. AVX512-FP16 is not enough:
#: with it alone, TensorFlow 2.21 was 180 times slower in float16 than in float32.
_NARROW = {"bfloat16": {"avx512_bf16", "amx_bf16", "bf16"}, "float16": {"amx_fp16", "asimdhp"}}


#: With one of these, TensorFlow 2.21 uses oneDNN by default (util/port.cc).
_ONEDNN_IS_ON = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"}


def usable_cores() -> int:
    """The number of cores that this process may use, by its CPU affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([cores, *(max(1, math.ceil(quota)) for quota in _quotas() if math.isfinite(quota))])


def _quotas() -> Iterator[float]:
    """The CPU quotas, in cores, of this process's cgroups and of their parents (cgroup v1 and v2)."""
    try:
        lines = _CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        roots = [_CGROUPS / name for name in (controllers, "cpu")] if controllers else [_CGROUPS]
        for root in roots:
            folder = root / path.lstrip("/")
            # In a container, its own cgroup is often mounted as the root, and `path` does not exist there.
            for each in [folder, *folder.parents]:
                if each.is_relative_to(root):
                    with contextlib.suppress(OSError, ValueError):
                        yield _quota(each) if controllers else _quota_v2(each)


def _quota_v2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
    return math.inf if quota == "max" else int(quota) / int(period)


def _quota(folder: Path) -> float:
    quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
    period = int((folder / "cpu.cfs_period_us").read_text(encoding="utf-8"))
    return math.inf if quota <= 0 else quota / period


def processor() -> str:
    """The processor's name, such as `AMD EPYC 7543`."""
    return _field("model name") or platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """The processor's vector instruction sets, sorted; empty if unknown."""
    flags = (_field("flags") or _field("Features") or "").split()
    return sorted(flag for flag in flags if _INSTRUCTION_SETS.fullmatch(flag))


def is_slow(precision: str) -> bool:
    """Whether this processor is known to be slow in `precision` with TensorFlow."""
    available = instruction_sets()
    return bool(available) and precision in _NARROW and _NARROW[precision].isdisjoint(available)


def gains_from_onednn() -> bool | None:
    """True if oneDNN is faster but disabled by TensorFlow's default; None leaves it to TensorFlow.

    TensorFlow enables oneDNN if the processor has AVX512-VNNI or the like. On a Zen 3, which lacks it,
    `tutorial` trained 1.4 to 1.6 times as fast with oneDNN.
    """
    available = set(instruction_sets())
    return True if "avx2" in available and available.isdisjoint(_ONEDNN_IS_ON) else None


def _field(name: str) -> str | None:
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else None
