"""From arrays and a data frame to figures and a page, with nothing but flowbench: `python examples/own_data.py`."""

import numpy as np
import pandas as pd

import flowbench as fb

rng = np.random.default_rng(0)
row, column = np.mgrid[:8, :8]
y, x = rng.uniform(1, 6, (2, 1000, 1, 1))
spots = 200 * np.exp(-((row - y) ** 2 + (column - x) ** 2) / 4) + rng.integers(0, 40, (1000, 8, 8))
images = spots.astype(np.uint8)[..., None]  # (n, height, width, channels)
data = {"train": images[:700], "holdout": images[700:800], "test": images[800:]}
small = fb.experiment("real_nvp/digits", model={"features": 8}, train={"steps": 40, "validate_every": 20})
flow = fb.train(small, "runs/flow", data=data)
baseline = fb.train("independent/digits", "runs/baseline", data=data)
measured = fb.evaluate(flow, draws=2)
print(f"{measured.value:.3f} ± {measured.stderr:.3f} bits/dim of {measured.n} images, {measured.labels['data_status']}")
compared = fb.compare(flow, baseline, out="page")
print(compared.words[-1], "as a page:", compared.page, sep="\n")
np.save("samples.npy", flow.sample(16).numpy())

hours = pd.date_range("2024-01-01", periods=2000, freq="h", name="date")
series = pd.DataFrame({"load": np.sin(2 * np.pi * hours.hour / 24) + rng.normal(0, 0.1, 2000)}, index=hours)
windows = {"protocol": "ratio", "lookback": 48, "horizon": 24}
linear = fb.train(fb.experiment("etth/nlinear", data=windows, train={"epochs": 3}), "runs/linear", data=series)
naive = fb.train(fb.experiment("etth/repeat_last", data=windows), "runs/naive", data=series)
print(fb.compare(linear, naive, out="page of the series")[["run", "value", "stderr", "verdict"]])
linear.forecast().to_csv("next.csv", index=False)
