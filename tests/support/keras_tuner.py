"""A stand-in for KerasTuner, so that the recipes with it run where it is not installed: a search that copies callbacks.

As keras_tuner/src/engine/tuner.py does: each trial gets deep copies of the callbacks, and the very dataset.
"""

import copy
import random
from pathlib import Path
from typing import NamedTuple

import keras


class HyperParameters(dict):
    """The values that a trial has drawn, by name."""

    def Int(self, name, min_value, max_value):  # noqa: N802  as in KerasTuner
        return self.setdefault(name, random.randint(min_value, max_value))


class Trial(NamedTuple):
    trial_id: str
    hyperparameters: HyperParameters


class RandomSearch:
    def __init__(self, hypermodel, objective, max_trials, directory, overwrite=False):
        self._build, self._objective, self._directory = hypermodel, objective, Path(directory)
        self._trials = [Trial(f"{number:04d}", HyperParameters()) for number in range(max_trials)]
        self._scores = {}

    def get_trial_dir(self, trial_id):
        return str(self._directory / f"trial_{trial_id}")

    def run_trial(self, trial, *arguments, callbacks=(), **options):
        model = self._build(trial.hyperparameters)
        copies = copy.deepcopy(list(callbacks))
        return model.fit(*arguments, callbacks=[*copies, keras.callbacks.Callback()], **options)

    def search(self, *arguments, **options):
        for trial in self._trials:
            history = self.run_trial(trial, *arguments, **options)
            self._scores[trial.trial_id] = max(history.history[self._objective])

    def get_best_hyperparameters(self):
        ranked = sorted(self._trials, key=lambda trial: self._scores[trial.trial_id], reverse=True)
        return [trial.hyperparameters for trial in ranked]
