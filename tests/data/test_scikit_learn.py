"""The images that ship with scikit-learn are those that it gives itself, and it is not imported for them."""

import subprocess
import sys

import numpy as np
from sklearn.datasets import load_digits, load_sample_images

from flowbench.data.scikit_learn import digits, photographs


def test_the_files_are_read_as_scikit_learn_reads_them() -> None:
    np.testing.assert_array_equal(digits()[..., 0], load_digits().images)
    for ours, theirs in zip(photographs(), load_sample_images().images, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_reading_them_imports_nothing_of_it() -> None:
    code = "import sys, flowbench.data.scikit_learn as s; s.digits(); s.photographs(); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
