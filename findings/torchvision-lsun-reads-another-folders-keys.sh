#!/usr/bin/env bash
# Finding: torchvision 0.29.1's `LSUN` writes the keys of a database into a file of the *current* folder whose name is made
# of the letters of the database's path alone, and never looks whether they still belong to it: of two databases whose
# paths differ in digits or signs ("2015/…", "2017/…"), or of one that was exchanged, the second is read by the first one's
# keys. `len` is the second's, an image that it has is not found: TypeError, "a bytes-like object is required".
# What it does to a user: after a copy, a new release or a crop of LSUN the loader fails far from the cause, or, where some
# keys are the same, leaves out images without a word; each folder that one works in gets such a file.
# Way out: delete `_cache_*` wherever a script with `LSUN` ran. flowbench reads the database itself and keeps no keys.
# Source: torchvision/datasets/lsun.py (`LSUNClass.__init__`), read 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 lmdb==3.0.0 pillow
cd "$work"
venv/bin/python - <<'PYTHON'
import io
from pathlib import Path

import lmdb
import torchvision
from PIL import Image
from torchvision.datasets import LSUN

print("torchvision", torchvision.__version__, "lmdb", lmdb.__version__)


def write(year: str, images: int) -> None:
    folder = Path(year, "church_outdoor_val_lmdb")
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**24) as database, database.begin(write=True) as transaction:
        for number in range(images):
            picture = io.BytesIO()
            Image.new("RGB", (8, 8), (number, 0, 0)).save(picture, "webp")
            transaction.put(f"{year}-{number}".encode(), picture.getvalue())


write("2015", 3)
write("2017", 5)
first = LSUN("2015", classes=["church_outdoor_val"])
first[0]
second = LSUN("2017", classes=["church_outdoor_val"])
try:
    second[0]
    said = "nothing: it was read"
except TypeError as error:
    said = f"TypeError: {error}"
files = sorted(path.name for path in Path().glob("_cache_*"))
print(f"2015 has {len(first)} images, 2017 has {len(second)}; files here: {files}; the first image of 2017 gives {said}")
same = len(files) == 1 and len(second) == 5 and "NoneType" in said
print("as described: the second database is read by the first one's keys" if same else "CHANGED: not as described any more")
raise SystemExit(not same)
PYTHON
