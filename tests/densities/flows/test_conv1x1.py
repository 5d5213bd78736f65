import warnings

import numpy as np
import pytest
import torch

from flowbench.densities.flows.conv1x1 import Conv1x1, LUConv1x1, PermuteChannels, permutation

LEARNED = ["plain", "lu"]


def mixing(kind, channels, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return permutation(kind, channels)


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("channels", [1, 2, 12])
def test_it_starts_as_a_rotation(kind, channels):
    W = mixing(kind, channels).double().matrix().detach()
    torch.testing.assert_close(W @ W.T, torch.eye(channels).double(), atol=1e-5, rtol=0)
    _, log_det = mixing(kind, channels)(torch.randn(2, channels, 3, 5))
    torch.testing.assert_close(log_det.detach(), torch.zeros(2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", LEARNED)
def test_log_determinant_is_pixels_times_that_of_the_matrix(kind):
    layer = mixing(kind, 6).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).double()
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    z, log_det = layer(x)
    W = layer.matrix().detach()
    np.testing.assert_allclose(log_det.detach(), 15 * np.linalg.slogdet(W.numpy())[1], rtol=1e-10)
    torch.testing.assert_close(z.detach(), torch.einsum("bihw,ij->bjhw", x, W))


def test_the_decomposition_is_p_l_u_with_the_diagonals_signs_fixed():
    layer = mixing("lu", 5).double()
    rotation = mixing("plain", 5).double().W.detach()
    torch.testing.assert_close(layer.matrix().detach(), rotation, atol=1e-6, rtol=0)
    signs = layer.sign.clone()
    with torch.no_grad():
        # What lies outside the triangles must not count, whatever an optimizer does to it.
        layer.lower += torch.triu(torch.full((5, 5), 9.0)).double()
        layer.upper += torch.tril(torch.full((5, 5), 9.0)).double()
    torch.testing.assert_close(layer.matrix().detach(), rotation, atol=1e-6, rtol=0)
    assert torch.equal(layer.sign, signs)
    assert set(layer.P.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(layer.log_abs_det(), torch.linalg.slogdet(layer.matrix()).logabsdet)


def degenerate(kind):
    layer = mixing(kind, 4)
    with torch.no_grad():
        if isinstance(layer, Conv1x1):
            layer.W[:, 0] = layer.W[:, 1] * (1 + 1e-6)
        elif isinstance(layer, LUConv1x1):
            layer.log_s[2] = -18.0
    return layer


@pytest.mark.parametrize("kind", LEARNED)
def test_a_degenerate_matrix_is_told_with_its_condition_number(kind):
    z = torch.randn(1, 4, 2, 2)
    with pytest.warns(RuntimeWarning, match=r"nearly singular \(condition number \d.*e\+\d\d\)"):
        degenerate(kind).inverse(z)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixing(kind, 4).inverse(z)


def test_a_singular_matrix_warns_and_gives_no_numbers_rather_than_wrong_ones():
    layer = mixing("plain", 2)
    with torch.no_grad():
        layer.W.fill_(0.5)
    with pytest.warns(RuntimeWarning, match="condition number inf"):
        back, _ = layer.inverse(torch.randn(1, 2, 2, 2))
    assert not torch.isfinite(back).any()


@pytest.mark.parametrize("kind", LEARNED)
def test_solving_is_exact_to_float32_and_no_inverse_is_formed(kind, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a matrix was inverted")

    for name in ("inv", "pinv", "inv_ex"):
        monkeypatch.setattr(torch.linalg, name, never)
    layer = mixing(kind, 48)
    x = torch.randn(3, 48, 4, 4, generator=torch.Generator().manual_seed(0))
    back, _ = layer.inverse(layer(x)[0])
    assert back.dtype == torch.float32
    torch.testing.assert_close(back.detach(), x, atol=1e-5, rtol=0)


def test_reversal_turns_around_and_a_shuffle_is_drawn_once():
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert mixing("reverse", 6)(x)[0].flatten().tolist() == [5, 4, 3, 2, 1, 0]
    shuffle = mixing("shuffle", 6)
    assert isinstance(shuffle, PermuteChannels)
    first = shuffle(x)[0].flatten().tolist()
    assert sorted(first) == list(range(6))
    assert first == shuffle(x)[0].flatten().tolist() != mixing("shuffle", 6, seed=1)(x)[0].flatten().tolist()
    # A checkpoint must bring the very permutation back.
    assert "order" in shuffle.state_dict()
