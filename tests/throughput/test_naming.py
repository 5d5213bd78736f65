from flowbench.throughput.naming import called, changed_preset


def test_a_name_says_what_was_changed_of_the_model_alone() -> None:
    changes = ["model.features=2", "train.precision=bf16", "train.compile=true", "seed=3"]
    assert called("real_nvp/digits", changes) == "real_nvp/digits model.features=2"
    made = changed_preset("real_nvp/digits", changes)
    assert (made.name, made.seed, made.train.precision) == ("real_nvp/digits model.features=2", 3, "bf16")
