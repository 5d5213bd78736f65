"""A search from Python: its frame, its best experiment, its page, and that it goes on."""

from pathlib import Path

import numpy as np
import pytest

import flowbench as fb

SPACE = {"model.features": {"categorical": [2, 3]}, "optim.lr": {"float": [1e-3, 1e-2], "log": True}}
STUDY = {"sampler": "random", "pruner": "none", "objectives": ["bits_per_dim"], "steps": 2, "validations": 1}


@pytest.mark.slow
def test_a_search_over_own_images_goes_on_and_its_best_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 17, (90, 4, 4, 1), np.uint8)
    data = {"train": images[:60], "holdout": images[60:75], "test": images[75:]}
    toy = fb.experiment(
        "real_nvp/digits",
        data={"levels": 17, "batch_size": 20},
        model={"scales": 1},
        train={"steps": 4},
        tune=SPACE,
        study=STUDY,
    )
    first = fb.tune(toy, "evaluate.draws=1", trials=2, data=data, study="toy", progress=False)
    assert list(first.columns) == ["number", "state", "bits_per_dim", "model.features", "optim.lr"]
    assert first["state"].to_list() == ["complete", "complete"]
    assert first["bits_per_dim"].between(3, 12).all()
    both = fb.tune(toy, "evaluate.draws=1", trials=3, data=data, study="toy", progress=False)
    assert both.iloc[:2].equals(first)
    best = both.loc[both["bits_per_dim"].idxmin()]
    assert both.best is not None
    assert (both.best.model.features, both.best.optim.lr) == (best["model.features"], best["optim.lr"])
    assert both.best.train.steps == 4  # the budget of a trial is the study's alone
    assert both.page is not None
    assert both.page.is_file()
    run = fb.train(both.best, "best", progress=False)
    assert run.result["metrics"]["test"]["bits_per_dim"]["n"] == 15
    assert capfd.readouterr() == ("", "")
