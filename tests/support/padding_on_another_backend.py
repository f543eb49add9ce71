"""Run by test_check_padding_backends.py in a process of its own, with KERAS_BACKEND set: models that leak or do not.

Arguments: none for all models, or the names of some.
"""

import sys
import warnings

import keras

from keras_bucketing import check_padding
from tests.support.padding_models import CASES, RIGHT, dataset


def main(names):
    warnings.simplefilter("ignore")  # of masks that are lost, and of the backends themselves
    wrong = []
    for case in CASES:
        if case.where() and (not names or case.name in names):
            leaking, cured = (
                check_padding(case.leaking(), dataset(case.data)),
                check_padding(case.cured(), dataset(case.data)),
            )
            named = (leaking.layer or "").startswith(case.layer) and case.cure in leaking.text
            if leaking.passed or not named or not cured.passed:
                wrong.append(f"{case.name}: {leaking!r}\n{leaking}\ncured: {cured}")
    for name, (kind, make) in RIGHT.items():
        if not names or name in names:
            check = check_padding(make(), dataset(kind))
            if not check:
                wrong.append(f"{name}: {check}")
    print("\n\n".join(wrong))
    print(keras.config.backend(), "done" if not wrong else f"{len(wrong)} wrong")


if __name__ == "__main__":
    main(sys.argv[1:])
