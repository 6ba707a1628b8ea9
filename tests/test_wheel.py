"""The built wheel, installed into a fresh environment, runs from an empty folder."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Python of an environment that holds the wheel; the dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True, capture_output=True)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    # Only the dependencies come from here: an editable install's finder is a .pth file, which a plain path ignores.
    here = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "dependencies.pth").write_text(here + "\n")
    return python


def test_it_runs_from_an_empty_folder(installed, tmp_path):
    done = subprocess.run(
        [installed, "-I", "-m", "refusal_bench", "run", "--model", "planted", "--quick", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["tool"]["git_sha"] is None
    assert len(record["tasks"]) == 5
    assert (tmp_path / "leaderboards" / "leaderboard.csv").exists()


def test_it_holds_tasks_datasets_adapter_and_types(installed, tmp_path):
    code = (
        "from pathlib import Path; import refusal_bench; from refusal_bench.models import demo;"
        "root = Path(refusal_bench.__file__).parent; assert 'site-packages' in str(root), root;"
        "print((root / 'py.typed').exists(), len(list((root / 'content/tasks').glob('*.yaml'))),"
        "(root / 'content/datasets/fraud/README.md').exists(),"
        "(demo.adapter_folder() / 'adapter_model.safetensors').exists(),"
        "(root / 'judges/data/calibration.jsonl').exists())"
    )
    done = subprocess.run([installed, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "7", "True", "True", "True"], done.stdout + done.stderr
