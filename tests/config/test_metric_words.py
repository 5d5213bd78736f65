from typing import Any

import pytest

from flowbench.config.metric_words import known_values, remarks, shares_in_words, value_in_words

BY_COLUMN = {"value": None, "stderr": None, "n": 9, "unit": None, "per_column": {"sales": 12.0, "visitors": 0.5}}
NEVER_FREE = {"value": None, "n": 9, "per_column": {"a": None}, "constant_share": {"a": 1.0}}
STORED = {"value": 6.25, "stderr": None, "n": 9}
"""As `mae_original` was before it had columns."""


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ({"value": 3.5, "stderr": 0.01, "n": 3}, "3.5000 ± 0.0100"),
        ({**BY_COLUMN, "value": 6.25, "unit": "kW"}, "6.2500 kW"),
        (BY_COLUMN, "sales 12.0000, visitors 0.5000"),
        (NEVER_FREE, "–"),
        (STORED, "6.2500"),
        (
            {"value": None, "per_column": {f"c{place}": 1.0 for place in range(12)}},
            f"{', '.join(f'c{k} 1.0000' for k in range(8))}, 4 more columns",
        ),
    ],
)
def test_a_value_is_written_with_its_unit_or_by_column(metric: dict[str, Any], words: str) -> None:
    assert value_in_words(metric) == words


def test_values_have_names_of_their_own_where_there_is_no_common_one() -> None:
    assert known_values("mae", STORED) == {"mae": 6.25}
    assert known_values("m", BY_COLUMN) == {"m/sales": 12.0, "m/visitors": 0.5}
    assert known_values("m", NEVER_FREE) == {}


def test_a_mean_that_was_stored_before_columns_were_told_apart_says_so() -> None:
    assert remarks("mae_original", STORED) == remarks("mse_original", STORED) == ["mean over columns"]
    assert remarks("mae", STORED) == remarks("mae_original", BY_COLUMN) == []
    assert remarks("mae_without_stuck", NEVER_FREE) == [
        "over the windows without constant runs, in which lie 100 % of a"
    ]


def test_how_much_of_a_bound_is_a_density_is_said() -> None:
    stored = {"value": 1.7, "bound": "density_branch", "density_branch_share": 4.2e-6}
    assert remarks("bits_per_dim", stored) == ["a density instead of a bin for 0.0004 % of the values"]
    assert remarks("bits_per_dim", {"value": 1.7, "density_branch_share": 0.0}) == []


def test_shares_are_written_largest_first() -> None:
    assert shares_in_words({"a": 0.001, "b": 0.5618}) == "56 % of b, under 1 % of a"
