"""The wheel and the sdist: built here, and complete."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUNDLED = [
    f"specgen/checkpoint/bundled/stories/{model}/{name}"
    for model in ("target", "draft")
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md")
]
MOST = 20_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_the_wheel_has_the_code_and_the_bundled_pair(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        bundled = sum(entry.compress_size for entry in archive.infolist() if "/bundled/" in entry.filename)
    assert {*BUNDLED, "specgen/py.typed", "specgen/config/pairs.toml", "specgen/cli/main.py"} <= names
    assert bundled <= MOST
    assert not any(name.startswith(("tests/", "docs/")) for name in names)


def test_the_sdist_has_the_bundled_pair_and_the_tests(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {*BUNDLED, "README.md", "LICENSE", "constraints.txt", "tests/test_build.py", "docs/structure.md"} <= names
