"""The kernels' disk cache: dropped when any source changed, kept otherwise."""

from pathlib import Path

from engine.kernels._jit import drop_stale_cache


def test_a_changed_source_drops_every_cached_kernel(tmp_path: Path) -> None:
    caller, callee = tmp_path / "caller.py", tmp_path / "callee.py"
    caller.write_text("1")
    callee.write_text("1")
    drop_stale_cache(tmp_path)
    cached = [tmp_path / "__pycache__" / name for name in ("caller.f-1.py311.nbi", "caller.f-1.py311.1.nbc")]
    for path in cached:
        path.write_text("code")
    drop_stale_cache(tmp_path)
    assert all(path.exists() for path in cached)
    callee.write_text("22")
    drop_stale_cache(tmp_path)
    assert not any(path.exists() for path in cached)
