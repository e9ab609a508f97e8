"""Tables in the docs are what the benchmarks print from the rows that were measured."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MEASURED = pathlib.Path("benchmarks", "measured")
PAGES = {page: (ROOT / "docs" / page).read_text() for page in ("results.md", "edge.md")}
COMMANDS = [
    pytest.param(page, command, id=command[-1].rpartition("/")[2])
    for page, text in PAGES.items()
    for block in re.findall(r"^    python (benchmarks/(?:.*\\\n)*.*)", text, re.MULTILINE)
    if str(MEASURED) in block and (command := shlex.split(block.replace("\\\n", "")))
]


def test_rows_that_were_measured_have_a_command_in_the_docs():
    files = {path.name for path in (ROOT / MEASURED).iterdir()}
    outputs = [
        flag
        for _, command in (each.values for each in COMMANDS)
        for flag in command
        if flag.startswith(f"--output={MEASURED}/")
    ]
    assert {pathlib.Path(flag).name for flag in outputs} == files
    for name in files:
        for line in (ROOT / MEASURED / name).read_text().splitlines():
            assert isinstance(json.loads(line), dict)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_tables_in_the_docs_are_those_of_the_measured_rows(page, command):
    assert command[-1].startswith("--output="), "the last flag tells the file"
    result = subprocess.run(
        [sys.executable, *command, "--tables_only"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    printed = [line for line in result.stdout.splitlines() if line.startswith("|")]
    assert len(printed) > 2, "no row"
    missing = [line for line in printed if line not in PAGES[page].splitlines()]
    assert not missing, f"docs/{page} lacks\n" + "\n".join(missing)
