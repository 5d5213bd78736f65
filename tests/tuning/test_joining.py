import hashlib
import json
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage

from flowbench.config.experiments import load_experiment
from flowbench.errors import InputError
from flowbench.tuning.joining import join_study
from flowbench.tuning.objectives import objectives_of


def test_a_study_begun_before_a_key_existed_is_joined_as_long_as_the_key_stands_at_its_default(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("date,OT\n")
    csv = f"data.csv={tmp_path / 'mine.csv'}"
    experiment = load_experiment("etth/dlinear", [csv])
    objectives = objectives_of(experiment)
    storage = InMemoryStorage()
    study = join_study("s", storage, experiment, objectives)
    content = experiment.model_dump(mode="json", by_alias=True) | {"study": [["mae"], 0]}
    del content["data"]["unit"], content["data"]["test_on"]
    earlier = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    study.set_user_attr("flowbench_config", earlier)
    assert join_study("s", storage, experiment, objectives).study_name == "s"
    with pytest.raises(InputError, match="another search space, config"):
        join_study("s", storage, load_experiment("etth/dlinear", [csv, "data.unit=kW"]), objectives)


def test_a_study_is_not_joined_on_other_data(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("date,OT\n")
    experiment = load_experiment("etth/mean", [f"data.csv={path}"])
    objectives, storage = objectives_of(experiment), InMemoryStorage()
    then = join_study("s", storage, experiment, objectives).user_attrs["flowbench_data"]["file"]
    join_study("s", storage, experiment, objectives)
    path.write_text("date,OT,b\n")
    with pytest.raises(InputError, match=f"begun on other data than lie here now: file: fingerprint {then}, now "):
        join_study("s", storage, experiment, objectives)
    path.unlink()
    join_study("s", storage, experiment, objectives)  # whoever needs the data says that they are missing
