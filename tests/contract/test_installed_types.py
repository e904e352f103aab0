"""A type checker sees the types of the installed package, in an editable install as in a wheel."""

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="needs the extra [dev]")

ROOT = Path(__file__).resolve().parents[2]
USER = ROOT / "tests" / "data" / "typing" / "user.py"


def run(command: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    return subprocess.run(command, cwd=folder, env={**kept, **more}, capture_output=True, text=True)


def install(kind: str, folder: Path) -> Path:
    """An environment of its own with the package as pip installs it, and the other packages of this one."""
    wheels, build = folder / "wheels", folder / "build"
    if kind == "editable":
        command = ["editable_wheel", "--dist-dir", str(wheels)]
    else:
        command = ["build", "--build-base", str(build), "bdist_wheel", "--dist-dir", str(wheels)]
        command += ["--bdist-dir", str(folder / "bdist")]
    built = run([sys.executable, "setup.py", "--quiet", *command], ROOT, ENGINE_BUILD_LEVELS="none")
    assert built.returncode == 0, built.stderr
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # What this environment holds is found too, but not its own install of the package.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin" / "python"


@pytest.mark.parametrize("kind", ["editable", "wheel"])
def test_a_users_file_is_checked_against_our_types(kind: str, tmp_path: Path) -> None:
    python = install(kind, tmp_path)
    folder = tmp_path / "user"
    folder.mkdir()
    lines = USER.read_text(encoding="utf-8").splitlines()
    (folder / "user.py").write_text("\n".join(lines), encoding="utf-8")
    checked = run(
        [sys.executable, "-P", "-m", "mypy", "--strict", "--python-executable", str(python), "user.py"],
        folder,
    )
    found = {
        (int(line), code)
        for line, code in re.findall(
            r"^user\.py:(\d+): error: .*\[([a-z-]+)\]$", checked.stdout, re.MULTILINE
        )
    }
    wanted = {(i, line.split("# E: ")[1]) for i, line in enumerate(lines, 1) if "# E: " in line}
    assert wanted and found == wanted, checked.stdout + checked.stderr
    where = run([str(python), "-P", "-c", "import engine; print(engine.__file__)"], folder).stdout
    assert (str(ROOT) in where) == (kind == "editable")
