"""Wheel, sdist and editable install: each is built, and the package imports from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEMPLATE = ("templates/support_agent/agent.py", "templates/support_agent/suites/daily.jsonl")
IMPORTS = (
    "import langgraph_learnloop, langgraph_learnloop.integrations.unsloth_trainer, langgraph_learnloop.store.opened;"
    "from langgraph_learnloop.cli.beginning import templates; assert 'support_agent' in templates(), templates();"
    "from pathlib import Path; demo = Path(langgraph_learnloop.__file__).parent / 'demo';"
    "assert (demo / 'base_model' / 'model.safetensors').exists(), demo;"
    "print(langgraph_learnloop.__file__)"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what git tracks, so that nothing else slips into a build."""
    folder = tmp_path_factory.mktemp("source")
    names = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def _python(folder: Path) -> Path:
    """Make an environment that sees the libraries of this one, and not this one's install of the package."""
    venv.create(folder, with_pip=False)
    here = next(p for p in sys.path if p.endswith("site-packages"))
    site = next((folder / "lib").glob("python*")) / "site-packages"
    # A plain path entry: the editable install here is a .pth file, which is not followed from a path entry.
    (site / "libraries.pth").write_text(here + "\n")
    return folder / "bin" / "python"


def _install(python: Path, *what: str) -> str:
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    flags = ["--no-build-isolation", "--no-index", "--disable-pip-version-check", "--ignore-installed"]
    subprocess.run([*pip, *flags, *what], check=True, capture_output=True, text=True)
    done = subprocess.run([python, "-c", IMPORTS], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _build(source: Path, kind: str, out: Path) -> Path:
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(out.iterdir())


@pytest.mark.slow
def test_the_wheel_has_everything_and_imports(source: Path, tmp_path: Path) -> None:
    """The wheel holds base model, migrations, integrations and type marker, and nothing of the tests."""
    wheel = _build(source, "wheel", tmp_path / "out")
    names = zipfile.ZipFile(wheel).namelist()
    own = ("demo/base_model/manifest.json", "store/migrations/versions/0001", "integrations/unsloth", "py.typed")
    for part in own + TEMPLATE:
        assert any(f"langgraph_learnloop/{part}" in name for name in names), part
    assert not any(name.startswith(("tests", "integrations/")) for name in names)
    assert str(tmp_path) in _install(_python(tmp_path / "env"), str(wheel))


@pytest.mark.slow
def test_the_sdist_builds_and_imports(source: Path, tmp_path: Path) -> None:
    """The sdist is enough to install from."""
    sdist = _build(source, "sdist", tmp_path / "out")
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("integrations/unsloth_trainer.py") for name in archive.getnames())
    assert str(tmp_path) in _install(_python(tmp_path / "env"), str(sdist))


@pytest.mark.slow
def test_an_editable_install_imports(source: Path, tmp_path: Path) -> None:
    """Working on a checkout, the integrations are importable under the package's name."""
    assert str(source) in _install(_python(tmp_path / "env"), "--editable", str(source))
