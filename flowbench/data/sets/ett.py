"""The electricity transformer temperatures: ETTh1 and ETTh2 by the hour, ETTm1 and ETTm2 by the quarter."""

from flowbench.config.registry import series_sets
from flowbench.data.image_set import Download
from flowbench.data.series import SeriesSet

# SHA-256 where it is known; of the others, the id that git gave them in the publishers' repository.
CHECKSUMS = {
    "ETTh1": "sha256:f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
    "ETTh2": "sha256:a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b",
    "ETTm1": "git:62c9f979e2dc5b05d9cc5b38891e60e6baf77417",
    "ETTm2": "git:f9d46027c987d442d2d8f81308d1d8c4d1d35db8",
}
# Those of the quarters are about.
BYTES = {"ETTh1": 2_589_657, "ETTh2": 2_417_960, "ETTm1": 10_400_000, "ETTm2": 9_700_000}

for title, checksum in CHECKSUMS.items():
    hourly = title.startswith("ETTh")
    series_sets.register(title.lower())(
        SeriesSet(
            name=title.lower(),
            title=f"{title}: oil temperature and loads of a transformer, {'hourly' if hourly else 'each quarter'}",
            file=f"{title}.csv",
            rows=17_420 if hourly else 69_680,
            published="https://github.com/zhouhaoyi/ETDataset",
            licence="CC BY-ND 4.0",
            citation="Zhou et al. 2021, Informer: Beyond Efficient Transformer for Long Sequence Forecasting, AAAI",
            disk_bytes=BYTES[title],
            download=Download(
                url=f"https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/{title}.csv",
                file=f"{title}.csv",
                checksum=checksum,
            ),
        )
    )
