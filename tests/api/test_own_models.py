"""Models of other packages from the first import to the report, with no file of flowbench touched."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flowbench as fb

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
TINY = ["train.steps=4", "evaluate.draws=1", "train.validate_every=4"]
IMPORTS = ["--import", "normflows_glow.py", f"--import={EXAMPLES / 'zuko_flow.py'}"]


def flowbench(*arguments: object, cwd: Path = EXAMPLES, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flowbench", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env={**os.environ}, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("normflows")
    pytest.importorskip("zuko")
    out = tmp_path_factory.mktemp("others")
    flowbench("reproduce", "others", *IMPORTS, "--out", out, *TINY)
    return out


@pytest.mark.slow
def test_models_of_other_packages_are_rows_of_a_table(results: Path) -> None:
    rows = json.loads((results / "results.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["done"] * 3
    assert all(1 < row["value"] < 6 for row in rows)
    assert len({row["labels"]["levels"] for row in rows}) == 1
    assert (results / "report.html").is_file()


@pytest.mark.slow
def test_a_run_records_its_import_and_asks_for_it_in_one_line(results: Path) -> None:
    (run,) = (results / "runs").glob("zuko_coupling-digits--*")
    (recorded,) = json.loads((run / "environment.json").read_text())["imports"]
    path = EXAMPLES / "zuko_flow.py"
    assert recorded == {
        "what": "density model",
        "name": "zuko_coupling",
        "module": "zuko_flow",
        "path": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    for command in (["evaluate", run], ["figures", run], ["export", run, "--out", results / "gone"]):
        done = flowbench(*command, check=False)
        assert done.returncode == 2
        assert f"its density model zuko_coupling is registered by {path} (SHA-256 " in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert "bits_per_dim" in flowbench("evaluate", run, "--import", "zuko_flow.py").stdout


@pytest.mark.slow
def test_it_is_timed_compared_sampled_and_exported(results: Path, tmp_path: Path) -> None:
    runs = {path.name.split("-")[0]: path for path in (results / "runs").iterdir()}
    timed = [
        "--passes",
        "train,forward,inverse",
        "--repeats",
        "5",
        "--batch",
        "4",
        "--out",
        tmp_path / "t.json",
        "--json",
    ]
    shutil.copytree(EXAMPLES, tmp_path / "here")  # the page of the timing goes into the working folder
    done = flowbench("throughput", "run", "normflows_glow/digits", *timed, *IMPORTS, cwd=tmp_path / "here")
    speed = json.loads(done.stdout)
    assert [row["pass"] for row in speed["results"]] == ["train", "forward", "inverse"]
    assert "verdict" in flowbench("compare", runs["normflows_glow"], runs["zuko_coupling"], *IMPORTS).stdout
    flowbench("export", runs["zuko_coupling"], "--out", tmp_path / "exported", *IMPORTS)
    (recorded,) = json.loads((tmp_path / "exported" / "environment.json").read_text())["imports"]
    assert recorded["path"] == "zuko_flow.py"
    assert (runs["normflows_glow"] / "figures" / "samples.png").is_file()


@pytest.mark.slow
def test_a_glow_of_normflows_that_would_initialize_itself_on_what_it_measures_is_refused() -> None:
    nf = pytest.importorskip("normflows")
    block = nf.flows.GlowBlock(4, 8)
    flow = nf.MultiscaleFlow(
        [nf.distributions.DiagGaussian((4, 4, 4))], [[block, nf.flows.Squeeze()]], [], class_cond=False
    )
    flow.log_prob = lambda x, inner=flow.log_prob: inner(x, None)
    with pytest.raises(fb.errors.InputError, match=r"log_prob changes flows\.0\.0\.\S+ in evaluation mode: it initial"):
        fb.adapters.from_log_prob(flow, image_shape=(1, 8, 8), levels=17, space="logit")


@pytest.mark.slow
def test_no_experiment_file_can_ask_for_an_import(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a/b\nkind: density\nimport: mine.py\nmodel: {name: real_nvp}\n")
    done = flowbench("train", "a.yaml", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "import: unknown key" in done.stderr


TOY = """
from typing import Literal
from flowbench.config.registry import density_models
from flowbench.densities.flows.independent import IndependentConfig

@density_models.register("{name}")
class Mine(IndependentConfig):
    name: Literal["{name}"] = "{name}"
"""


def test_in_python_it_is_just_imported(tmp_path: Path) -> None:
    from flowbench.config.extensions import import_extension, missing_imports
    from flowbench.config.registry import density_models

    path = tmp_path / "toy_of_mine.py"
    path.write_text(TOY.format(name="toy_of_mine"))
    module = import_extension(str(path))
    assert import_extension(str(path)) is module
    run = fb.train(fb.experiment("independent/digits", model={"name": "toy_of_mine"}), tmp_path / "run", progress=False)
    recorded = json.loads((run.path / "environment.json").read_text())["imports"]
    assert missing_imports(recorded) is None
    assert fb.load_run(run.path).sample(2).shape == (2, 1, 8, 8)
    # A later look at it finds another file.
    path.write_text(TOY.format(name="toy_of_mine") + "# A word more.\n")
    words = rf"toy_of_mine was trained with another toy_of_mine.py \(SHA-256 .* than {path} is now .* put that one back"
    with pytest.warns(RuntimeWarning, match=words):
        again = fb.load_run(run.path)
    with pytest.warns(RuntimeWarning, match=words):
        assert fb.train(run.experiment, run.path, progress=False).path == run.path
    assert [line for line in again.evaluate().notes if "was trained with another toy_of_mine.py" in line]
    path.write_text(TOY.format(name="toy_of_mine"))
    assert not again.evaluate().notes
    # As in a process that has not imported it, for good: the tests after this one know nothing of it.
    del density_models._entries["toy_of_mine"]
    with pytest.raises(fb.errors.InputError, match=rf"toy_of_mine is registered by {path} \(SHA-256 .*give --import"):
        fb.load_run(run.path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.py", None, "--import gone.py: there is no such file"),
        ("not_here.at_all", None, "--import not_here.at_all: there is no such module; a file ends in .py"),
        ("breaks.py", "1 / 0", "--import breaks.py: ZeroDivisionError: division by zero"),
        ("taken_name.py", TOY.format(name="real_nvp"), "density model 'real_nvp' is registered twice: by taken_name"),
        ("json.py", "", "--import json.py: there is a module json already"),
    ],
)
def test_what_cannot_be_imported_is_refused_in_one_line(
    name: str, content: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowbench.config.extensions import import_extension

    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_text(content)
    with pytest.raises(fb.errors.InputError) as caught:
        import_extension(name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert name.removesuffix(".py") not in sys.modules or name == "json.py"


def test_a_cell_may_register_its_model_again() -> None:
    from flowbench.config.registry import density_models

    cell = {"__name__": "__main__"}
    try:
        for _ in range(2):
            exec(compile(TOY.format(name="of_a_cell"), "cell", "exec"), cell)
        assert density_models["of_a_cell"] is cell["Mine"]
        with pytest.raises(fb.errors.InputError, match="registered twice: by another"):
            exec(compile(TOY.format(name="of_a_cell"), "cell", "exec"), {"__name__": "another"})
    finally:
        density_models._entries.pop("of_a_cell", None)


def test_the_line_may_hold_imports_anywhere() -> None:
    from flowbench.__main__ import _imports

    line = ["train", "--import", "a.py", "x", "--import=b.c", "--", "--import", "y"]
    assert _imports(line) == (["a.py", "b.c"], ["train", "x", "--", "--import", "y"])
    with pytest.raises(fb.errors.InputError, match="--import: name a file or a module"):
        _imports(["train", "--import"])
