"""Result files with made figures."""

import numpy as np


def figure(samples):
    samples = np.asarray(samples, dtype=float)
    low, median, high = np.quantile(samples, (0.025, 0.5, 0.975))
    return {"median": median, "low": low, "high": high, "samples": samples.tolist()}


def entry(ratios, **changes):
    ratios = np.asarray(ratios, dtype=float)
    return {
        "experiment": "real_nvp/digits",
        "pass": "train",
        "batch": 16,
        "precision": 32,
        "compiled": False,
        "images_per_second": figure(100 / ratios),
        "floor_ratio": figure(ratios),
        "parameters": 1000,
        "flops_per_image": 1e6,
        "peak_memory_bytes": 10**9,
    } | changes


def content(*entries, commit="a" * 40, **environment):
    known = {"device": "cpu", "device_name": "a processor", "threads": 1, "commit": commit, "flowbench": "0.1"}
    return {"schema": 1, "environment": known | environment, "results": list(entries)}
