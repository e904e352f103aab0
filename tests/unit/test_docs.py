"""README and docs say what the code does: their Python runs, their commands parse, tables and links hold."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import docs_reader
import pytest
from docs_reader import CODE, FENCE, LINK, ROOT

from engine.output.formats import to_dict
from engine.types import Segment, Transcript, Translation, Word

PAGES_WITH_PYTHON = sorted({block.page for block in docs_reader.blocks("python")})
COMMANDS = list(docs_reader.command_lines())
OURS = [(page, words) for page, words in COMMANDS if words[0] in docs_reader.PROGRAMS]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON)
def test_the_python_of_a_page_runs_as_typed(page: str, tmp_path: Path) -> None:
    """One process a page, in a folder that looks like the checkout and may be written to."""
    code = "\n".join(block.text for block in docs_reader.blocks("python") if block.page == page)
    if "import my_library" in code:  # an example of a script around somebody else's package
        compile(code, page, "exec")
        return
    for name in ("examples", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", code],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    if page == "README.md":
        german, english = done.stdout.splitlines()
        assert german == "Morgen besuchen wir meine Großmutter und bringen ihr frische Blumen mit."
        assert "my grandmother" in english


def test_the_pages_hold_commands_of_every_program() -> None:
    assert {words[0] for _, words in OURS} == set(docs_reader.PROGRAMS)
    assert len(OURS) > 60


@pytest.mark.parametrize(("page", "words"), OURS, ids=[f"{page}: {' '.join(words)}" for page, words in OURS])
def test_a_command_line_of_the_docs_parses(page: str, words: list[str]) -> None:
    parser, arguments = docs_reader.parser_of(words[0], docs_reader.without_redirections(words[1:]))
    try:
        parser.parse_args(arguments)
    except SystemExit as end:
        assert end.code == 0, f"{page}: {' '.join(words)}"


def test_a_wrong_option_would_be_found() -> None:
    parser, arguments = docs_reader.parser_of("engine-bench", ["gate", "--base_line", "x.json"])
    with pytest.raises(SystemExit) as end:
        parser.parse_args(arguments)
    assert end.value.code == 2


def test_modules_that_the_docs_run_exist() -> None:
    modules = {words[2] for _, words in COMMANDS if words[0].endswith("python") and words[1:2] == ["-m"]}
    assert modules
    assert [name for name in modules - {"venv", "pip", "pytest"} if not importlib.util.find_spec(name)] == []


def test_make_targets_that_the_docs_name_exist() -> None:
    targets = {words[1] for _, words in COMMANDS if words[0] == "make"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets >= {"demo", "test", "docs", "gate"}
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_make_docs_fails_on_a_broken_link() -> None:
    """mkdocs counts warnings by its log: with --quiet, --strict would let every broken link pass."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    build = re.search(r"^docs:.*\n\t(.*)$", makefile, re.MULTILINE)
    assert build is not None
    assert build[1].endswith("mkdocs build --strict")
    assert re.search("^make docs$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_relative_link_leads_to_a_file_and_its_heading() -> None:
    broken = []
    for page in docs_reader.pages():
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        for target in LINK.findall(text):
            if target.startswith(("http://", "https://", "mailto:")):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            if not path.exists() or (anchor and anchor not in headings(path)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def headings(path: Path) -> set[str]:
    """Anchors of a page's headings, as mkdocs and code hosts write them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


def test_every_path_of_the_code_that_the_docs_name_exists() -> None:
    folders = "engine|export|training|benchmarks|tests|examples|docs"
    path = re.compile(rf"(?:{folders})/[\w./-]*[\w/]")
    missing = []
    for page in docs_reader.pages():
        for code in CODE.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
            named = path.fullmatch(code.partition(":")[0].strip())
            if named and not (ROOT / named.group()).exists():
                missing.append(f"{page.relative_to(ROOT)}: {code}")
    assert missing == []


def test_every_function_that_the_architecture_page_names_is_in_its_file() -> None:
    """`engine/audio/limits.py: check_rate` names a file and what to look for in it."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py): (\w+)`", page)
    assert len(named) > 15
    wrong = [
        f"{name}: {symbol}"
        for name, symbol in named
        if not re.search(rf"\b{symbol}\b", (ROOT / name).read_text(encoding="utf-8"))
    ]
    assert wrong == []


def test_every_room_is_on_the_architecture_page() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {
        str(path.parent.relative_to(ROOT))
        for top in ("engine", "export", "training", "benchmarks")
        for path in (ROOT / top).glob("*/__init__.py")
    }
    assert [room for room in sorted(rooms) if f"`{room}`" not in page and f"`{room}/`" not in page] == []


def test_the_table_of_http_errors_is_the_services() -> None:
    pytest.importorskip("fastapi")
    from engine.serve.responses import CLIENT_LEFT, STATUS

    page = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)`[^|]*\| (\d+) \|", page, re.MULTILINE)
    said = {name: int(status) for name, status in rows}
    wanted = {kind.__name__: status for kind, status in STATUS}
    assert wanted.items() <= said.items()
    assert said["CancelledError"] == CLIENT_LEFT


def test_every_field_of_the_http_form_is_on_its_page() -> None:
    pytest.importorskip("fastapi")
    from engine.serve.fields import FORM

    page = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
    schema = FORM["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert [field for field in schema["properties"] if f"| `{field}` |" not in page] == []


def test_every_error_is_on_the_embedding_page() -> None:
    from engine import errors

    page = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")
    kinds = (kind for kind in vars(errors).values() if isinstance(kind, type))
    names = [kind.__name__ for kind in kinds if kind.__module__ == errors.__name__]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_every_field_of_a_result_is_on_its_page() -> None:
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    word = Word("ja", 0.0, 0.2, 0.9)
    transcript = Transcript((Segment("ja", 0.0, 0.2, (word,), 0.9),), 0.2)
    result = to_dict(Translation((Segment("yes", 0.0, 0.2),), transcript))
    assert [field for field in keys_of(result) if f"`{field}`" not in page] == []


def test_every_field_of_a_benchmark_is_on_its_page() -> None:
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    result = json.loads((RESULTS / "emodb_two_pass.json").read_text(encoding="utf-8"))
    fields = [*result, *result["utterances"][0], *result["comparison"]]
    assert [field for field in fields if f"`{field}`" not in page] == []


def keys_of(value: object) -> set[str]:
    """All keys at any depth."""
    if isinstance(value, dict):
        return set(value).union(*(keys_of(each) for each in value.values()))
    return set().union(*(keys_of(each) for each in value)) if isinstance(value, list) else set()


def test_the_figures_of_the_readme_are_those_of_the_committed_results() -> None:
    from benchmarks.reports.pictures import SPEECH, read_quality

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+)\| ([\d.]+)[ %]*\| ([\d.]+)[ %]*\| ([\d.]+)[ %]*\|$", readme, re.MULTILINE)
    shown = {name.strip(): [float(value) for value in values] for name, *values in rows}
    emodb, erlangen = (
        list(read_quality(json.loads((RESULTS / name).read_text(encoding="utf-8"))).values())
        for name in SPEECH.values()
    )
    assert shown == {
        "word errors, acted speech (EmoDB, 172 clips)": [round(wer, 1) for _, wer in emodb],
        "word errors, running speech (Erlangen, 58 utterances)": [round(wer, 1) for _, wer in erlangen],
        "seconds of audio per CPU second, EmoDB": [round(rate, 1) for rate, _ in emodb],
        "seconds of audio per CPU second, Erlangen": [round(rate, 1) for rate, _ in erlangen],
    }


def test_the_pictures_are_drawn_from_committed_results(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.reports.pictures import IMAGES, draw_all

    drawn = draw_all(tmp_path)
    assert sorted(path.name for path in drawn) == sorted(path.name for path in IMAGES.glob("*.png"))
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
