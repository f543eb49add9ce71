"""Leaking models of every kind: the text names the layer and the cure, and with the cure they pass."""

import random

import pytest

from keras_bucketing import check_padding
from tests.support.padding_models import CASES, RIGHT, dataset, untraced

# Keras warns of masks that are lost when a model is made, not only when it runs.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Layer .* was passed an input with a mask:UserWarning",
    "ignore:`build\\(\\)` was called on layer 'own_model:UserWarning",  # which has layers that it does not use
)
CASES_HERE = {case.name: case for case in CASES if case.where()}
QUICK = ["a residual with +", "a convolution"]


def check_case(case, prepare=lambda model: model):
    random.seed(0)  # of Keras' seeds; with some weights, padding does not show. TensorFlow's own empties its caches
    data = dataset(case.data)
    leaking, cured = (
        check_padding(prepare(make()), data, num_rows=5, extra_timesteps=4) for make in (case.leaking, case.cured)
    )
    assert not leaking.passed
    assert (leaking.layer or "").startswith(case.layer), leaking.text
    assert case.cure in leaking.text
    assert cured.passed, cured.text


@pytest.mark.parametrize("name", QUICK)
def test_the_layer_and_the_cure_are_named_and_the_cure_cures(name):
    check_case(CASES_HERE[name])


@pytest.mark.fit
@pytest.mark.parametrize("name", [name for name in CASES_HERE if name not in QUICK])
def test_the_layer_and_the_cure_of_any_other_are_named_and_the_cure_cures(name):
    check_case(CASES_HERE[name], untraced)


@pytest.mark.fit
@pytest.mark.parametrize("name", RIGHT)
def test_no_false_alarm(name):
    kind, make = RIGHT[name]
    check = check_padding(untraced(make()), dataset(kind))
    assert check.passed, check.text
    assert check.layer is None


def test_there_are_forty_models_and_half_of_them_leak():
    assert len(CASES) >= 40
    assert {case.name for case in CASES} == {*dict.fromkeys(case.name for case in CASES)}
