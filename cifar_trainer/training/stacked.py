"""Many seeds in one program: their steps side by side, in the launches that one of them takes.

A small network leaves a GPU idle most of the time. Here each operation of a step has a leading axis of seeds:
`tf.vectorized_map` writes the step of one seed for all of them. The seeds' models and optimizers stay ordinary
ones. A call stacks their variables, runs its steps, and gives each seed its own back, so that all that
happens between two calls (validation, checkpoints, callbacks, a schedule's plateau) is that of a single run.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.ops.parallel_for import pfor

from cifar_trainer.training.engine import BLOCK, MAX_CHUNK, Chunk, StepLoop, Streams

#: Operations that draw, of which TensorFlow knows no stacked form.
_DRAWING = (
    "StatelessRandomGetKeyCounter",
    "StatelessRandomUniformV2",
    "StatelessRandomUniformIntV2",
    "StatelessRandomUniformFullIntV2",
    "StatelessRandomNormalV2",
    "StatelessTruncatedNormalV2",
)


class StackedLoop:
    """Runs the same steps of several loops that differ by their seeds only.

    Args:
        loops: of the seeds, on images of the same number. The first one's recipe, forms and shapes hold for all.

    Attributes:
        loops: as given.
    """

    def __init__(self, loops: Sequence[StepLoop]) -> None:
        self.loops = tuple(loops)
        self._first = loops[0]
        self._run = tf.function(self._run_steps, autograph=False, jit_compile=self._first.xla, reduce_retracing=False)

    def compile(self) -> None:
        """Trace and compile all that an epoch runs, by runs of no steps."""
        for batch in {self._first.batch_size, self._first.last_batch}:
            self._call(0, 0, 0, batch)

    def lowered(self, count: int) -> str:
        """The HLO of `count` whole steps, as TensorFlow gives it to XLA. Nothing is run."""
        arguments = (tf.constant(0), tf.constant(count), tf.constant(0), self._first.batch_size)
        return str(self._run.experimental_get_compiler_ir(*arguments)(stage="hlo"))

    def _call(self, start: int, count: int, global_start: int, batch: int) -> list[Chunk]:
        losses, correct, finite = self._run(
            tf.constant(start, tf.int32), tf.constant(count, tf.int32), tf.constant(global_start, tf.int32), batch
        )
        chunks = []
        for i in range(len(self.loops)):
            shown = losses.numpy()[:count, i]
            faults = np.flatnonzero(~np.isfinite(shown))
            steps = int(faults[0]) + 1 if len(faults) else count
            chunks.append(Chunk(shown[:steps], correct.numpy()[:steps, i], bool(finite.numpy()[i])))
        return chunks

    def _run_steps(self, start: tf.Tensor, count: tf.Tensor, global_start: tf.Tensor, batch: int) -> Any:
        seeds = len(self.loops)
        streams = [
            tf.stack([getattr(loop.streams, name) for loop in self.loops])
            for name in ("order", "augmentation", "layers")
        ]
        states = [_state(loop) for loop in self.loops]
        values = [tf.stack([state[i].value for state in states]) for i in range(len(states[0]))]

        def one(i: tf.Tensor, losses: tf.Tensor, correct: tf.Tensor, *values: tf.Tensor) -> tuple[tf.Tensor, ...]:
            loss, right, values = self._step(start + i, global_start + i, batch, streams, values)
            at = tf.reshape(i, [1, 1])
            losses = tf.tensor_scatter_nd_update(losses, at, loss[None])
            correct = tf.tensor_scatter_nd_update(correct, at, right[None])
            return i + 1, losses, correct, *values

        def block(*state: tf.Tensor) -> tuple[tf.Tensor, ...]:
            _, *state = tf.while_loop(
                lambda done, *_: done < BLOCK,
                lambda done, *state: (done + 1, *one(*state)),
                (tf.constant(0), *state),
                parallel_iterations=1,
            )
            return tuple(state)

        def repeat(body: Any, steps: int, state: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
            return tf.while_loop(lambda i, *_: i + steps <= count, body, state, parallel_iterations=1)

        state = (tf.constant(0), tf.zeros([MAX_CHUNK, seeds]), tf.zeros([MAX_CHUNK, seeds], tf.int32), *values)
        if self._first.xla and batch == self._first.batch_size:
            state = repeat(block, BLOCK, state)
        _, losses, correct, *values = repeat(one, 1, state)
        for variables in zip(*states, strict=True):
            pass
        finite = tf.ones([seeds], tf.bool)
        trained = len(self._first.model.trainable_variables)
        for i, stacked in enumerate(values):
            for s, own in enumerate(tf.unstack(stacked)):
                states[s][i].assign(own)
        return losses, correct, finite

    def _step(self, step, global_step, batch, streams, values):
        variables = _state(self._first)

        def of_one(mine):
            (order, augmentation, layers), values = mine
            with _functional(self._first.optimizer), keras.StatelessScope(zip(variables, values, strict=True)) as scope:
                loss, right = self._first._step(step, global_step, batch, Streams(order, augmentation, layers))
                after = [scope.get_current_value(variable) for variable in variables]
            return loss, right, after

        return tf.vectorized_map(of_one, (tuple(streams), list(values)), fallback_to_while_loop=False)


def _state(loop: StepLoop) -> list[keras.Variable]:
    return [*loop.model.variables, *loop.optimizer.variables]


@contextlib.contextmanager
def _functional(optimizer):
    """While this holds, the optimizer computes on tensors, as Keras's `BaseOptimizer` does."""
    base = keras.src.optimizers.base_optimizer.BaseOptimizer
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


def _drawn_by_each(pfor_input):
    """An operation that draws, of each seed by itself."""
    inputs = [pfor_input.input(i) for i in range(pfor_input.num_inputs)]
    count = next(int(each.t.shape[0]) for each in inputs if each.is_stacked)
    parts = [tf.unstack(each.t) if each.is_stacked else [each.t] * count for each in inputs]
    op = pfor_input.op
    drawn = [
        pfor._create_op(op.type, list(one), [output.dtype for output in op.outputs], op.node_def.attr).outputs
        for one in zip(*parts, strict=True)
    ]
    return [pfor.wrap(tf.stack(each), True) for each in zip(*drawn, strict=True)]


for _name in _DRAWING:
    pfor.RegisterPFor(_name)(_drawn_by_each)
