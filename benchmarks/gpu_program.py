"""Count what a training step launches on an H100, without a GPU: TensorFlow lowers it, XLA:GPU compiles it.

    pip install -e '.[gpu-program]'      # JAX's XLA for CUDA, a compiler that needs no device
    python benchmarks/gpu_program.py --recipe tutorial --batch-size 32
    python benchmarks/gpu_program.py --lower-only step.hlo.pb

The XLA of jaxlib 0.9.0 is a few weeks apart from that of TensorFlow 2.21; --compiler selects the Python of
another version. Without a device there is no autotuning, so the algorithms of convolutions and products are
unknown. The thunks (launches, copies, library calls) of the loop are known. `h100_sxm.txtpb` is XLA's own
description of an H100 SXM (openxla/xla, Apache-2.0).

Prints one line per figure, or with --json one object: `thunks_in_the_loop_body`, `by_kind`,
`cudnn_convolutions`, `host_submissions_a_step` under TensorFlow 2.21's default command buffers,
`one_cuda_graph_could_hold_the_loop`, `known_trip_count`, `compile_seconds`.
"""

import argparse
import collections
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
#: Kinds of thunks here that TensorFlow 2.21's command buffers can hold by default.
_CAPTURED = ("kKernel", "kCustomKernel", "kCopy", "kGemm", "kCublasLtMatmul")
#: Minimum number of consecutive commands for a graph (xla_gpu_graph_min_graph_size).
_MIN_COMMANDS = 5
_STEPS = 32


def lower(
    recipe: str, precision: str, batch_size: int, images: int, seeds: int, augment: str | None = None
) -> bytes:
    """Lower the training loop of these seeds for a GPU, as a serialized HloModuleProto."""
    from cifar_trainer import devices
    from cifar_trainer.recipes import is_splittable
    from cifar_trainer.settings import Settings

    configs = [
        Settings(
            recipe, "cifar10", 1, batch_size, 0.001, seed,
            precision=precision, device="cpu", xla=True, augment=augment,
        )
        for seed in range(seeds)
    ]  # fmt: skip
    devices.start(configs[0], split=is_splittable(configs[0]))
    import numpy as np

    from cifar_trainer.data.dataset import Split
    from cifar_trainer.recipes import get_recipe
    from cifar_trainer.training.assembly import assemble
    from cifar_trainer.training.stacked import StackedLoop

    draw = np.random.default_rng(0)
    split = Split(
        draw.integers(0, 256, (images, 32, 32, 3), np.uint8),
        draw.integers(0, 10, images).astype(np.uint8),
        fingerprint="",
    )
    loops = [
        assemble(
            config, get_recipe(recipe), split, np.arange(images), classes=10, gpu=True, stacked=seeds > 1
        )
        for config in configs
    ]
    return (loops[0] if seeds == 1 else StackedLoop(loops, seeds)).lowered(_STEPS)


#: Fields that a newer XLA needs to put library calls into a CUDA graph. jaxlib 0.9, with CUDA 12, does not
#: know them.
_TARGET_VERSIONS = ("driver_version", "runtime_version")


def compile_for_h100(hlo: Path, dump: Path, flags: str) -> float:
    """Compile HLO with jaxlib's XLA:GPU, without TensorFlow, and dump to `dump`; returns the seconds."""
    import importlib
    import sysconfig
    import time

    nvidia = Path(sysconfig.get_path("purelib")) / "nvidia"
    # Folders of the assembler in the wheels of CUDA 12 and CUDA 13.
    cuda, nvcc = next(
        pair for pair in ((12, nvidia / "cuda_nvcc"), (13, nvidia / "cu13")) if pair[1].is_dir()
    )
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["PATH"] = f"{nvcc / 'bin'}{os.pathsep}{os.environ['PATH']}"
    os.environ["XLA_FLAGS"] = (
        f"--xla_dump_to={dump} --xla_dump_hlo_as_text --xla_gpu_cuda_data_dir={nvcc} {flags}"
    )
    import numpy as np
    from jax._src.interpreters import mlir as jax_mlir
    from jax._src.lib import xla_client
    from jax._src.lib.mlir import ir

    plugin = importlib.import_module(f"jax_plugins.xla_cuda{cuda}")
    target = (HERE / "h100_sxm.txtpb").read_text()
    for name in _TARGET_VERSIONS if cuda >= 13 else ():
        if name not in target:
            opening = "gpu_device_info {\n"
            target = target.replace(opening, f'{opening}  {name}: "{cuda}.0.0"\n', 1)
    api = xla_client.load_pjrt_plugin_dynamically("cuda", str(plugin._get_library_path()))
    xla_client.initialize_pjrt_plugin("cuda")
    topology = xla_client.make_c_api_device_topology(api, "1x1x1", target_config=target, topology="1x1x1")
    (device, *_) = topology._make_compile_only_devices()
    stablehlo = to_stablehlo(hlo.read_bytes())
    with jax_mlir.make_ir_context():
        module = ir.Module.parse(stablehlo)
    options = xla_client.CompileOptions()
    options.num_replicas = options.num_partitions = 1
    options.device_assignment = xla_client.DeviceAssignment.create(np.zeros((1, 1), "int32"))
    start = time.perf_counter()
    device.client.compile(module, xla_client.DeviceList((device,)), options)
    return time.perf_counter() - start


def to_stablehlo(proto: bytes) -> bytes:
    """Convert a serialized HloModuleProto to StableHLO with this Python's jaxlib."""
    from jaxlib import _jax

    # jaxlib 0.11 moved these.
    hlo = _jax if hasattr(_jax, "hlo_module_from_text") else __import__("jaxlib._hlo", fromlist=["_hlo"])
    printed = hlo.HloPrintOptions()
    printed.print_large_constants = True
    printed.print_metadata = False
    text = hlo.HloModule.from_serialized_hlo_module_proto(proto).to_string(printed)
    if "{...}" in text:
        raise ValueError("the printed program lacks the values of constants")
    # StableHLO lacks the copies that TensorFlow writes.
    module = hlo.hlo_module_from_text(re.sub(r" copy\(", " reshape(", text))
    stablehlo: bytes = _jax.mlir.hlo_to_stablehlo(module.as_serialized_hlo_module_proto())
    return stablehlo


def read_bodies(text: str) -> list[list[str]]:
    """The kinds of thunks in the body of each loop of a dumped sequence; an inner loop counts as one."""
    bodies: list[list[str]] = []
    # The bodies that enclose a line, with their indents.
    enclosing: list[tuple[int, list[str]]] = []
    in_condition = False
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if thunk := re.match(r"\s*\d+: (k\w+)", line):
            # Skip the condition's thunks, up to the header of the body.
            if in_condition:
                continue
            enclosing = [body for body in enclosing if body[0] < indent]
            if enclosing:
                enclosing[-1][1].append(thunk[1])
        elif line.strip() in ("condition:", "body:"):
            # Newer versions of XLA do not indent `condition:`.
            in_condition = line.strip() == "condition:"
            if not in_condition:
                enclosing = [body for body in enclosing if body[0] < indent]
                enclosing.append((indent, []))
                bodies.append(enclosing[-1][1])
    return bodies


def count(dump: Path, compile_seconds: float) -> dict[str, Any]:
    """Figures of the loop over steps, which is the one with most thunks in its body."""
    sequence = max(dump.glob("*thunk_sequence.txt"), key=lambda path: path.stat().st_size)
    body = max(read_bodies(sequence.read_text()), key=len)
    optimized = max(dump.glob("*gpu_after_optimizations.txt"), key=lambda path: path.stat().st_size)
    submissions = run = 0
    for kind in [*body, ""]:
        if kind in _CAPTURED:
            run += 1
            continue
        submissions += (1 if run >= _MIN_COMMANDS else run) + bool(kind)
        run = 0
    return {
        "thunks_in_the_loop_body": len(body),
        "by_kind": dict(collections.Counter(body)),
        "cudnn_convolutions": body.count("kConvolution"),
        "host_submissions_a_step": submissions,
        "one_cuda_graph_could_hold_the_loop": all(kind in _CAPTURED for kind in body),
        "known_trip_count": '"known_trip_count"' in optimized.read_text(),
        "compile_seconds": round(compile_seconds, 1),
    }


def main() -> None:
    """Lower, compile in another process, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", default="tutorial")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, default=1, help="runs side by side in one program")
    parser.add_argument("--augment", help="as for train")
    parser.add_argument("--flags", default="--xla_gpu_enable_triton_gemm=false", help="further flags for XLA")
    parser.add_argument("--lower-only", type=Path, metavar="FILE", help="write the HLO to FILE, and stop")
    parser.add_argument("--compiler", default=sys.executable, help="a Python with jaxlib for CUDA")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--compile", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compile:
        print(compile_for_h100(*options.compile, options.flags))
        return
    here = options.compiler == sys.executable
    if options.lower_only is None and here and importlib.util.find_spec("jax_plugins") is None:
        sys.exit("JAX's XLA for CUDA is not installed. Install it with: pip install -e '.[gpu-program]'")
    lowered = lower(
        options.recipe, options.precision, options.batch_size, options.images, options.seeds, options.augment
    )
    if options.lower_only is not None:
        options.lower_only.write_bytes(lowered)
        return
    with tempfile.TemporaryDirectory() as folder:
        hlo, dump = Path(folder) / "step.hlo.pb", Path(folder) / "dump"
        hlo.write_bytes(lowered)
        command = [options.compiler, __file__, "--compile", str(hlo), str(dump), f"--flags={options.flags}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"XLA failed to compile:\n{done.stderr[-3000:]}")
        counted = count(dump, float(done.stdout))
    if options.json:
        print(json.dumps(counted))
    else:
        for name, value in counted.items():
            print(f"{name.replace('_', ' ')}: {value}")


if __name__ == "__main__":
    main()
