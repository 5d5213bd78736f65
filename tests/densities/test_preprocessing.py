import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.functional import jacobian

from flowbench.densities.preprocessing import Center, Logit, Unit

EVERY = [Logit(0.05), Logit(1e-6), Center(), Unit()]


@pytest.mark.parametrize("preprocessing", EVERY, ids=repr)
def test_inverse_undoes_forward(preprocessing):
    x = torch.rand(3, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, log_det = preprocessing(x)
    assert log_det.shape == (3,)
    torch.testing.assert_close(preprocessing.inverse(y), x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("preprocessing", EVERY, ids=repr)
def test_log_jacobian_is_autograds(preprocessing):
    x = torch.rand(1, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    _, log_det = preprocessing(x)
    matrix = jacobian(lambda x: preprocessing(x)[0], x).reshape(6, 6)
    assert log_det.item() == pytest.approx(torch.linalg.slogdet(matrix).logabsdet.item(), abs=1e-8)


@given(st.floats(0, 1), st.floats(1e-4, 0.4))
def test_logit_is_the_authors_formula(x, alpha):
    y, log_det = Logit(alpha)(torch.tensor([[[[x]]]], dtype=torch.float64))
    p = alpha + (1 - 2 * alpha) * x
    assert y.item() == pytest.approx(math.log(p) - math.log(1 - p), abs=1e-12)
    assert log_det.item() == pytest.approx(math.log(1 - 2 * alpha) - math.log(p) - math.log(1 - p), abs=1e-12)


def test_logit_is_finite_at_the_edges_in_float32():
    y, log_det = Logit(0.05)(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1))
    assert torch.isfinite(y).all()
    assert torch.isfinite(log_det).all()


@pytest.mark.parametrize("alpha", [0.0, 0.5, -0.1])
def test_logit_refuses_an_alpha_without_a_logit(alpha):
    with pytest.raises(ValueError, match="between 0 and 1/2"):
        Logit(alpha)
