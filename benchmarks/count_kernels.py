"""Count the kernels of a training step on a GPU, from a trace of `cifar-trainer train --profile`.

    python benchmarks/count_kernels.py runs/RUN/tensorboard/train/plugins/profile/TIME/HOST.xplane.pb

Prints JSON: `profiled_steps`, and `kernels_a_step`: kernels and copies on the GPU's streams per step, or
null if the trace has no GPU. benchmarks/gpu_program.py counts them from the compiler's output.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorflow.tsl.profiler.protobuf import xplane_pb2


def count(path: Path) -> dict[str, Any]:
    """The number of steps in a trace, and of kernels per step.

    Raises:
        ValueError: the trace does not mark any steps.
    """
    space = xplane_pb2.XSpace()
    space.ParseFromString(path.read_bytes())
    steps = sum(steps for plane in space.planes for steps in _marked(plane))
    if not steps:
        raise ValueError(f"{path} marks no training steps; write it with cifar-trainer train --profile")
    gpus = [plane for plane in space.planes if plane.name.startswith("/device:GPU")]
    # Other lines of a GPU's plane contain the same kernels, summed by step, operation and module.
    streams = [line for plane in gpus for line in plane.lines if line.name.startswith("Stream")]
    kernels = sum(len(line.events) for line in streams)
    return {"profiled_steps": steps, "kernels_a_step": kernels / steps if gpus else None}


def _marked(plane: Any) -> Iterator[int]:
    """The number of steps of each marked chunk in a plane."""
    for line in plane.lines:
        for event in line.events:
            if plane.event_metadata[event.metadata_id].name == "train":
                for stat in event.stats:
                    if plane.stat_metadata[stat.metadata_id].name == "steps":
                        yield stat.int64_value or stat.uint64_value


if __name__ == "__main__":
    print(json.dumps(count(Path(sys.argv[1]))))
