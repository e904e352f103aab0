"""Peers on AVX2: libraries of an environment are changed once and only there, and signatures say so."""

import json
import os
from pathlib import Path

import pytest

from benchmarks.peers import lower
from benchmarks.protocol.worker.peer_worker import LEVEL_VARIABLES, RECORD, level

XBYAK = bytes.fromhex("31c9 0f01d0 89c0 48c1e220")  # xor ecx, ecx; xgetbv; mov eax, eax; shl rdx, 32
CALL = bytes.fromhex("31c9 0f01d0 c3")  # xor ecx, ecx; xgetbv; ret
ELSE = bytes.fromhex("90 0f01d0 90")  # as good as any data


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    folder = tmp_path / "peer"
    packages = folder / "lib" / "python3.11" / "site-packages"
    files = {
        "onnxruntime/capi/state.so": b"\x7fELF" + XBYAK + ELSE + XBYAK,
        "ctranslate2.libs/libct2-a7.so.4": CALL,
        "plain/plain.so": ELSE,
        "onnxruntime/notes.txt": XBYAK,
    }
    for name, data in files.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_bytes(data)
    (folder / "pyvenv.cfg").touch()
    return packages


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LEVEL_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_libraries_get_the_answer_of_a_processor_with_avx2(environment: Path) -> None:
    library = environment / "onnxruntime" / "capi" / "state.so"
    library.chmod(0o755)
    other = environment.parent / "cached"
    os.link(library, other)
    assert lower.main([str(environment.parents[2])]) == 0
    zero, answer = bytes.fromhex("31c9"), bytes.fromhex("b807000000")  # mov eax, 7
    asked = XBYAK.replace(bytes.fromhex("0f01d089c0"), answer)
    assert asked.startswith(zero) and len(asked) == len(XBYAK)  # ecx is zero for the cpuid that follows
    assert library.read_bytes() == b"\x7fELF" + asked + ELSE + asked
    assert (environment / "ctranslate2.libs" / "libct2-a7.so.4").read_bytes() == bytes.fromhex("31c9b00790c3")
    assert library.stat().st_mode & 0o777 == 0o755
    assert XBYAK in other.read_bytes() and XBYAK in (environment / "onnxruntime" / "notes.txt").read_bytes()


def test_the_signature_names_packages_and_variables(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = environment.parents[2]
    assert level(folder) == "processor's own"
    lower.main([str(folder)])
    lower.main([str(folder)])  # finds nothing more, and forgets nothing
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    assert record == {"level": "avx2", "packages": ["ctranslate2", "onnxruntime"]}
    monkeypatch.setenv("CT2_FORCE_CPU_ISA", "AVX2")
    found = level(folder)
    assert found == "avx2 in libraries of ctranslate2 onnxruntime + CT2_FORCE_CPU_ISA=AVX2"


def test_what_is_not_an_environment_or_has_nothing_to_change_is_refused(environment: Path) -> None:
    with pytest.raises(SystemExit):
        lower.main([str(environment)])
    for path in environment.rglob("*.so*"):
        path.unlink()
    with pytest.raises(SystemExit):
        lower.main([str(environment.parents[2])])
    assert not (environment.parents[2] / RECORD).exists()
