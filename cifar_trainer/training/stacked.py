"""Several seeds in one program: a step of all seeds needs as many kernel launches as a step of one.

A small network leaves a GPU idle most of the time. Here, each operation has a leading axis of seeds:
`tf.vectorized_map` turns the step of one seed into a step of all seeds. Models and optimizers are unchanged:
a call stacks their variables, runs its steps, and writes the variables back, so everything between calls
(validation, checkpoints, the plateau schedule) works as in a single run.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.optimizers.base_optimizer import BaseOptimizer
from tensorflow.python.ops.parallel_for import pfor

from cifar_trainer.training.loop import (
    BLOCK,
    MAX_CHUNK,
    Chunk,
    Phase,
    Program,
    StepLoop,
    Streams,
    chunk_of,
    joined,
)

#: Random operations that TensorFlow cannot vectorize.
_RANDOM_OPERATIONS = (
    "StatelessRandomGetKeyCounter",
    "StatelessRandomUniformV2",
    "StatelessRandomUniformIntV2",
    "StatelessRandomUniformFullIntV2",
    "StatelessRandomNormalV2",
    "StatelessTruncatedNormalV2",
)


class StackedLoop(Program):
    """Runs the same steps of several loops that differ only in their seeds.

    Args:
        loops: one for each seed, over the same images. All use the first one's recipe and kernel variants.
        width: number of seeds that the program computes, at least `len(loops)`; extra ones repeat the first.
            With a constant width, the results stay exactly the same after some of the runs have ended.
    """

    def __init__(self, loops: Sequence[StepLoop], width: int) -> None:
        self._loops = tuple(loops)
        self._slots = (*loops, *[loops[0]] * (width - len(loops)))
        self._first = first = loops[0]
        self.batch_size, self.last_batch, self.xla = first.batch_size, first.last_batch, first.xla
        self.phases = first.phases
        self._trace(self._run_steps)

    def run(self, start: int, count: int, global_start: int, members: Sequence[int]) -> list[Chunk]:
        """Run steps of the epoch for all loops.

        Args:
            start, count, global_start: as for `StepLoop.run`.
            members: indices of the loops whose runs are still training; the state of the others is ignored.

        Returns:
            A chunk for each member.
        """
        parts: dict[int, list[Chunk]] = {i: [] for i in members}
        for call in self._first.calls(start, count, global_start):
            global_first = global_start + call.start - start
            losses, correct, finite = self._steps(call, global_first)
            for i, of_member in parts.items():
                if of_member and not of_member[-1].finite:
                    continue
                chunk = chunk_of(losses[:, i], correct[:, i], finite[i])
                if not chunk.finite:
                    # The state is still the one before the call. Find the faulty step as in a single run.
                    (chunk,) = self._loops[i].run(call.start, call.count, global_first)
                of_member.append(chunk)
        return [joined(of_member) for of_member in parts.values()]

    def _run_steps(self, start: tf.Tensor, count: tf.Tensor, global_start: tf.Tensor, phase: Phase) -> Any:
        seeds = len(self._slots)
        streams = tuple(
            tf.stack([tf.convert_to_tensor(getattr(loop.streams, field.name)) for loop in self._slots])
            for field in dataclasses.fields(Streams)
        )
        before = [tf.stack([v.value for v in same]) for same in zip(*map(_state, self._slots), strict=True)]

        def one(i: tf.Tensor, losses: tf.Tensor, correct: tf.Tensor, *values: tf.Tensor) -> Any:
            loss, right, values = self._step(start + i, global_start + i, phase, streams, values)
            at = tf.reshape(i, [1, 1])
            losses = tf.tensor_scatter_nd_update(losses, at, loss[None])
            correct = tf.tensor_scatter_nd_update(correct, at, right[None])
            return i + 1, losses, correct, *values

        def block(*state: tf.Tensor) -> Any:
            _, *state = tf.while_loop(
                lambda done, *_: done < BLOCK,
                lambda done, *state: (done + 1, *one(*state)),
                (tf.constant(0), *state),
                parallel_iterations=1,
            )
            return tuple(state)

        def repeat(body: Any, steps: int, state: Any) -> Any:
            return tf.while_loop(lambda i, *_: i + steps <= count, body, state, parallel_iterations=1)

        buffers = (tf.zeros([MAX_CHUNK, seeds]), tf.zeros([MAX_CHUNK, seeds], tf.int32))
        state = (tf.constant(0), *buffers, *before)
        if self.xla and phase.batch == self.batch_size:
            state = repeat(block, BLOCK, state)
        _, losses, correct, *after = repeat(one, 1, state)
        finite = tf.reduce_all(tf.math.is_finite(losses), axis=0)
        for variable, values in zip(_state(self._first), after, strict=True):
            if any(variable is trained for trained in self._first.model.trainable_variables):
                rest = tf.reshape(values, [seeds, -1])
                finite = tf.logical_and(finite, tf.reduce_all(tf.math.is_finite(rest), axis=1))
        for i, (old, new) in enumerate(zip(before, after, strict=True)):
            for j, loop in enumerate(self._loops):
                _state(loop)[i].assign(tf.where(finite[j], new[j], old[j]))
        return losses, correct, finite

    def _step(
        self,
        step: tf.Tensor,
        global_step: tf.Tensor,
        phase: Phase,
        streams: tuple[tf.Tensor, ...],
        values: Sequence[tf.Tensor],
    ) -> Any:
        """One step of all seeds: losses and correct images, [seeds], and the new state."""
        variables = _state(self._first)

        def of_one(arguments: Any) -> Any:
            streams, values = arguments
            scope = keras.StatelessScope(zip(variables, values, strict=True))
            with _functional(self._first.optimizer), scope:
                loss, right = self._first.step(step, global_step, phase, Streams(*streams))
                after = [scope.get_current_value(variable) for variable in variables]
            return loss, right, after

        return tf.vectorized_map(of_one, (streams, list(values)), fallback_to_while_loop=False)


def _state(loop: StepLoop) -> list[keras.Variable]:
    return [*loop.model.variables, *loop.optimizer.variables]


@contextlib.contextmanager
def _functional(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Make the optimizer update Keras's variables, not TensorFlow's, so that a stateless scope sees it."""
    base = BaseOptimizer
    own = vars(optimizer)
    names = ("assign", "assign_add", "assign_sub", "_apply_weight_decay", "_backend_update_step")
    for name in names:
        own[name] = getattr(base, name).__get__(optimizer)
    own["_var_key"] = lambda variable: variable._value._unique_id
    try:
        yield
    finally:
        for name in (*names, "_var_key"):
            del own[name]


def _draw_for_each(pfor_input: Any) -> list[Any]:
    """Vectorize a random operation by calling it once for each seed."""
    inputs = [pfor_input.input(i) for i in range(pfor_input.num_inputs)]
    count = next(int(value.t.shape[0]) for value in inputs if value.is_stacked)
    parts = [tf.unstack(value.t) if value.is_stacked else [value.t] * count for value in inputs]
    op = pfor_input.op
    drawn = [
        pfor._create_op(op.type, list(one), [output.dtype for output in op.outputs], op.node_def.attr).outputs
        for one in zip(*parts, strict=True)
    ]
    return [pfor.wrap(tf.stack(outputs), True) for outputs in zip(*drawn, strict=True)]


for _name in _RANDOM_OPERATIONS:
    pfor.RegisterPFor(_name)(_draw_for_each)
