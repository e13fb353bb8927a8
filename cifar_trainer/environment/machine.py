"""The processor: its name, what it can do, and how much of it this process may use."""

import os
import platform
import re
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
#: The instruction sets for which TensorFlow and oneDNN have code of their own.
_INSTRUCTION_SETS = re.compile(r"avx\w*|fma|amx\w*|asimd\w*|sve\w*|bf16")
#: The instructions of which a processor needs one for TensorFlow to train fast in a precision. AVX512-FP16
#: is not among them: with it alone TensorFlow 2.21 was 180 times slower in float16 than in float32.
_NARROW = {"bfloat16": {"avx512_bf16", "amx_bf16", "bf16"}, "float16": {"amx_fp16", "asimdhp"}}


def usable_cores() -> int:
    """The cores that the scheduler lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's name, such as `AMD EPYC 7543`."""
    return _field("model name") or platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """The vector instructions that the processor has, sorted; empty where Linux does not say."""
    flags = (_field("flags") or _field("Features") or "").split()
    return sorted(flag for flag in flags if _INSTRUCTION_SETS.fullmatch(flag))


def is_slow(precision: str) -> bool:
    """Whether this processor is known to lack what TensorFlow needs to train fast in `precision`."""
    available = instruction_sets()
    return bool(available) and precision in _NARROW and _NARROW[precision].isdisjoint(available)


def _field(name: str) -> str | None:
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else None
