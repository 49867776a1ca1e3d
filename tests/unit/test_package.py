"""The package as people install it: a wheel is built, installed apart from this tree, and tried."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest

import swarm

ROOT = Path(__file__).parents[2]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "swarm")
EXTRAS = {"quant": "bitsandbytes", "tui": "textual", "dev": "pytest"}
TRY_HELP = """
import json, sys
import swarm
from swarm.__main__ import main
sys.argv = ["swarm", "--help"]
try:
    main()
except SystemExit as ended:
    code = ended.code
heavy = sorted({"torch", "transformers", "quart", "hypercorn", "numpy", "textual"} & set(sys.modules))
print(json.dumps([code, swarm.__file__, heavy]))
"""


def run(command: Sequence[str | Path], **environment: str) -> str:
    """Run outside this tree; what PYTHONPATH names comes before what is installed here."""
    done = subprocess.run(
        command, cwd=ROOT.anchor, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel and nothing of what it needs."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "target"))
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, source])
    (wheel,) = wheels.iterdir()
    assert wheel.name.startswith(f"swarm_inference-{swarm.__version__}-py3-none-any")
    run([*pip, "install", "--no-deps", "--no-compile", "--target", target, wheel])
    return target


@pytest.fixture(scope="module")
def distribution(installed: Path) -> Distribution:
    (found,) = distributions(path=[str(installed)])
    return found


def test_the_wheel_holds_every_file_of_the_package_and_none_beside(installed: Path) -> None:
    def files(root: Path) -> set[str]:
        found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
        return {path.as_posix() for path in found if "__pycache__" not in path.parts}

    there = files(installed / "swarm")
    assert there == files(ROOT / "swarm")
    assert {"py.typed", "api/page/index.html", "api/page/style.css", "api/page/main.js"} <= there
    tops = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"swarm", "bin"}


def test_the_version_stands_in_one_place_and_everything_says_it(
    installed: Path, distribution: Distribution
) -> None:
    assert distribution.version == swarm.__version__
    program = installed / "bin" / ("swarm.exe" if os.name == "nt" else "swarm")
    assert run([program, "--version"], PYTHONPATH=str(installed)) == f"swarm {swarm.__version__}\n"
    assert swarm.__version__ not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_help_of_the_installed_command_imports_nothing_heavy(installed: Path) -> None:
    out = run([sys.executable, "-c", TRY_HELP], PYTHONPATH=str(installed))
    code, file, heavy = json.loads(out.splitlines()[-1])
    assert (code, heavy) == (0, [])
    assert Path(file).is_relative_to(installed)
    assert " join " in out


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_what_it_is_for(distribution: Distribution, extra: str) -> None:
    wanted = f'extra == "{extra}"'
    assert any(need.startswith(EXTRAS[extra]) and wanted in need for need in distribution.requires or ())
