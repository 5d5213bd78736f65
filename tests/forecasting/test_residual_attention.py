import pytest
import torch
from torch.nn import functional

from flowbench.forecasting.models.patchtst import PatchTSTConfig
from flowbench.forecasting.residual_attention import ResidualAttentionEncoder

CONFIG = PatchTSTConfig(name="patchtst", width=8, heads=2, hidden=12, layers=3, dropout=0.0, faithful=True)


def test_scores_that_add_up_are_those_of_all_layers_queries_and_keys_side_by_side() -> None:
    """Σ_l q_l·k_l is the product of the vectors [q_1 … q_L] and [k_1 … k_L]: torch's attention over those."""
    torch.manual_seed(0)
    encoder = ResidualAttentionEncoder(CONFIG).double()
    tokens = torch.randn(5, 7, 8, dtype=torch.float64)
    expected, queries, keys = tokens, [], []
    for layer in encoder.layers:
        query, key, value = (
            part.unflatten(2, (2, 4)).transpose(1, 2) for part in layer.project(expected).split(8, dim=2)
        )
        queries, keys = [*queries, query], [*keys, key]
        width = 4 * len(queries)
        mixed = functional.scaled_dot_product_attention(
            torch.cat(queries, 3), torch.cat(keys, 3), functional.pad(value, (0, width - 4)), scale=0.5
        )
        mixed = mixed[..., :4].transpose(1, 2).flatten(2)
        for norm, branch in zip(layer.norms, (lambda x, m=mixed, out=layer.out: out(m), layer.feed), strict=True):
            summed = expected + branch(expected)
            centred = summed - summed.mean((0, 1))
            expected = centred / (centred.square().mean((0, 1)) + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(encoder(tokens), expected)


def test_every_score_has_its_part_in_every_gradient() -> None:
    torch.manual_seed(0)
    encoder = ResidualAttentionEncoder(CONFIG)
    encoder(torch.randn(5, 7, 8))[..., 0].square().sum().backward()
    for layer in encoder.layers:
        by_part = layer.project.weight.grad.view(3, 8, 8).abs().amax((1, 2))
        assert (by_part > 0).all()


def test_in_evaluation_mode_windows_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    encoder = ResidualAttentionEncoder(CONFIG)
    tokens = torch.randn(5, 7, 8)
    encoder(tokens)
    encoder.eval()
    torch.testing.assert_close(encoder(tokens)[:2], encoder(tokens[:2]))


def test_what_attention_adds_is_masked_twice_in_training_by_one_mask() -> None:
    layer = ResidualAttentionEncoder(CONFIG.model_copy(update={"dropout": 0.3})).layers[0]
    assert layer.attention_dropout.p == pytest.approx(1 - 0.7 * 0.7)
    assert layer.dropout.p == 0.3
