"""Random sequences of fit, evaluate and predict: the callback's figures are what the model received, or it warns.

For an hour of it: pytest tests/callbacks/test_padding_stats_machine.py -m "" --hypothesis-profile=soak
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import keras
import pytest
import tensorflow as tf
from hypothesis import event, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.callbacks.padding_stats import PaddingStatsCallback
from tests.support import consumption_scenarios as scenarios

KINDS = [kind for kind in scenarios.DATASETS if kind != "py_dataset_threads"]  # which warns that it is not exact
# TensorFlow tunes these, and adds a prefetch() at their end (`experimental_optimization.inject_prefetch`).
TUNED_KINDS = ["monitored_right", "monitored_left", "monitored_unknown"]
HARMLESS = ("`shuffle=True` was passed", "Your input ran out of data")
HOOKS = [
    "on_train_begin",
    "on_epoch_begin",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_begin",
    "on_test_batch_end",
    "on_test_end",
    "on_epoch_end",
]


# Whoever reads the same dataset in one of these hooks must come before the callback.
BEFORE_A_READ = ["on_epoch_begin", "on_train_batch_begin", "on_test_begin"]


class AccidentError(Exception):
    """What other callbacks raise."""


@dataclasses.dataclass
class Happening:
    """Something that another callback does when Keras calls one of its hooks for the n-th time."""

    what: str
    hook: str
    call: int
    comes_first: bool
    on_validation_data: bool


class DoesSomething(keras.callbacks.Callback):
    def __init__(self, hook, call, action):
        super().__init__()
        self.calls_left = call
        self.action = action
        setattr(self, hook, self.happen)

    def happen(self, *arguments, **keywords):
        self.calls_left -= 1
        if self.calls_left == -1:
            self.action(self.model)


maybe_steps = st.none() | st.integers(1, 14)
numbers = st.integers(1, 12)
# Where a prefetch() comes after a repeat(), the next pass begins at any time, and no hook tells: documented.
wrappers = st.lists(st.tuples(st.sampled_from(["map", "prefetch", "take"]), numbers), max_size=2) | st.lists(
    st.tuples(st.sampled_from(["map", "take", "repeat"]), numbers), max_size=2
)
happenings = st.none() | st.builds(
    Happening,
    what=st.sampled_from(["raise", "stop", "evaluate", "predict", "read"]),
    hook=st.sampled_from(HOOKS),
    call=st.integers(0, 5),
    comes_first=st.booleans(),
    on_validation_data=st.booleans(),
)


def wrap(dataset: Any, names: list[tuple[str, int]]) -> Any:
    if not isinstance(dataset, tf.data.Dataset):
        return dataset
    for name, number in names:
        if name == "map":
            dataset = dataset.map(lambda *batch: batch, num_parallel_calls=number % 3 or None)
        elif name == "repeat":
            dataset = dataset.repeat(1 + number % 3)
        else:
            dataset = getattr(dataset, name)(number)
    return dataset


def figures_of(stats: Any) -> tuple[int, int, int] | None:
    return None if stats is None else (stats.num_sequences, stats.total_timesteps, stats.real_timesteps)


class PaddingStatsMachine(RuleBasedStateMachine):
    """One model, one callback, and an oracle in the model."""

    @initialize(
        kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
        steps_per_execution=st.sampled_from([1, 3]),
        validation=st.sampled_from(["same", "other", None]),
        oracle_first=st.booleans(),
    )
    def begin(self, kinds, steps_per_execution, validation, oracle_first):
        self.train = scenarios.DATASETS[kinds[0]](1)
        self.other = self.train if validation == "same" else scenarios.DATASETS[kinds[1]](2)
        self.kind_of = {id(self.train): kinds[0], **({} if validation == "same" else {id(self.other): kinds[1]})}
        self.callback = PaddingStatsCallback(self.train, None if validation is None else self.other)
        self.validates = validation is not None
        self.oracle = scenarios.Oracle()
        self.callbacks = [self.oracle, self.callback] if oracle_first else [self.callback, self.oracle]
        self.model = scenarios.model_for(steps_per_execution)
        self.iterators = []

    @rule(
        epochs=st.integers(1, 4),
        steps=maybe_steps,
        on_top=wrappers,
        validated=st.booleans(),
        validation_steps=maybe_steps,
        validation_freq=st.integers(1, 2),
        validation_on_top=wrappers,
        class_weight=st.booleans(),
        shuffle=st.booleans(),
        happening=happenings,
    )
    def fit(self, epochs, steps, validated, validation_steps, validation_freq, class_weight, shuffle, happening, **on):
        data = self._finite(self.train, on["on_top"], steps)
        arguments = {"epochs": epochs, "steps_per_epoch": steps, "shuffle": shuffle}
        if validated and self.validates:
            arguments |= {"validation_steps": validation_steps, "validation_freq": validation_freq}
            arguments["validation_data"] = self._finite(self.other, on["validation_on_top"], validation_steps)
        repeats = [name for name, _ in on["on_top"] + on["validation_on_top"] if name == "repeat"]
        if class_weight and not repeats:  # Keras puts a prefetch() on top of it
            arguments["class_weight"] = {0: 1.0, 1: 2.0, 2: 3.0}
        what = None if happening is None else happening.what
        may_warn = bool(repeats) or what == "read"
        # Nothing tells a pass over a PyDataset from the next one if several people read it.
        may_warn |= self._is_read_by_others(validated, what) and not isinstance(self.train, tf.data.Dataset)
        self._run(
            lambda callbacks: self.model.fit(data, callbacks=callbacks, verbose=0, **arguments), happening, may_warn
        )

    @rule(
        what=st.sampled_from(["evaluate", "predict"]),
        on_validation_data=st.booleans(),
        steps=maybe_steps,
        on_top=wrappers,
    )
    def evaluate_or_predict(self, what, on_validation_data, steps, on_top):
        data = self._finite(self._known(on_validation_data), on_top, steps)
        call = getattr(self.model, what)
        may_warn = any(name == "repeat" for name, _ in on_top)
        self._run(lambda callbacks: call(data, steps=steps, callbacks=callbacks, verbose=0), None, may_warn)

    @precondition(lambda self: isinstance(self.train, tf.data.Dataset))
    @rule(batches=st.integers(1, 12), keep=st.booleans())
    def read(self, batches, keep):
        iterator = iter(self.train)
        for _ in zip(range(batches), iterator, strict=False):
            pass
        if keep:
            self.iterators.append(iterator)

    @precondition(lambda self: isinstance(self.train, BucketedSequence))
    @rule(epoch=st.integers(0, 5), batch=st.integers(0, 5))
    def seek(self, epoch, batch):
        self.train.seek(epoch, batch)

    def _is_read_by_others(self, validated, what):
        return what in ("evaluate", "predict") or (validated and self.other is self.train)

    def _known(self, on_validation_data):
        return self.other if on_validation_data and self.validates else self.train

    def _finite(self, dataset, on_top, steps):
        """With something on top; cut where nothing else would end an endless one."""
        kind = self.kind_of[id(dataset)]
        if kind in TUNED_KINDS:
            on_top = [(name, number) for name, number in on_top if name != "repeat"]
        data = wrap(dataset, on_top)
        endless = kind == "monitored_repeat"
        return data.take(9) if endless and steps is None else data

    def _act(self, happening):
        """What the other callback does."""

        def act(model):
            data = self._known(happening.on_validation_data)
            if happening.what == "raise":
                raise AccidentError
            if happening.what == "stop":
                model.stop_training = True
            elif happening.what == "read":
                next(iter(data), None)
            else:
                self.oracle.nested = True
                getattr(model, happening.what)(data, steps=2, callbacks=list(self.callbacks), verbose=0)
                self.oracle.nested = False

        return act

    def _run(self, call, happening, may_warn):
        callbacks = list(self.callbacks)
        if happening is not None:
            if happening.what in ("evaluate", "predict", "read") and happening.hook in BEFORE_A_READ:
                happening = dataclasses.replace(happening, comes_first=True)  # as the documentation says
            does = DoesSomething(happening.hook, happening.call, self._act(happening))
            callbacks.insert(0 if happening.comes_first else len(callbacks), does)
        before = self._lengths()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                call(callbacks)
            except AccidentError:
                event("interrupted")
            finally:
                self.oracle.nested = False
        messages = [str(warning.message) for warning in caught]
        ours = [message for message in messages if message.startswith("PaddingStatsCallback")]
        others = [message for message in messages if not message.startswith(("PaddingStatsCallback", *HARMLESS))]
        assert not others, others
        counted, received = self._counted(), self._received()
        if ours:
            event("warned")
            nothing_read = all(
                train[0] == 0 or (val and val[0] == 0) for train, val in received["fit"][before["fit"] :]
            )
            assert may_warn or nothing_read, ours
            self._forget()
            return
        note(f"{counted} {received}")
        assert counted == received

    def _counted(self):
        epochs = zip(self.callback.history, self.callback.val_history, strict=True)
        return {
            "fit": [(figures_of(train), figures_of(validation)) for train, validation in epochs],
            "evaluate": [figures_of(stats) for stats in self.callback.evaluate_history],
            "predict": [figures_of(stats) for stats in self.callback.predict_history],
        }

    def _received(self):
        def plain(figures):
            return None if figures is None else tuple(map(int, figures))

        return {
            "fit": [(plain(train), plain(validation)) for train, validation in self.oracle.epochs],
            "evaluate": [plain(figures) for figures in self.oracle.evaluate],
            "predict": [plain(figures) for figures in self.oracle.predict],
        }

    def _lengths(self):
        return {name: len(figures) for name, figures in self._received().items()}

    def _forget(self):
        """After a warning: what was counted may be wrong, what comes next may not."""
        for history in (
            *(self.oracle.epochs, self.oracle.evaluate, self.oracle.predict),
            *(self.callback.history, self.callback.val_history, self.callback.epochs),
            *(self.callback.evaluate_history, self.callback.predict_history),
        ):
            history.clear()


BOUNDED = settings(max_examples=8, stateful_step_count=5, deadline=None)


@pytest.mark.fit
def test_the_figures_are_what_the_model_received_whatever_happens():
    soaks = settings().max_examples == settings.get_profile("soak").max_examples
    run_state_machine_as_test(PaddingStatsMachine, settings=settings() if soaks else BOUNDED)
