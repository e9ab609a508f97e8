"""The package is built as docs/architecture.md says: who may import whom."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "force_tf"
ROW = re.compile(r"^\| `([a-z/_]+)` \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)


def table():
    """Maps each wing to the wings that it may import, in the order of the table."""
    rows = ROW.findall((ROOT / "docs" / "architecture.md").read_text())
    return {wing: set(re.findall(r"`([a-z/_]+)`", allowed)) for wing, allowed in rows}


def wing_of(module, wings):
    """Returns the wing of a module such as "force_tf.export.programs.child": the longest name that fits."""
    path = module.removeprefix("force_tf.").replace(".", "/")
    return max((wing for wing in wings if path == wing or path.startswith(f"{wing}/")), key=len, default=None)


def imported_modules(path):
    """Yields the modules of the package that a file imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("force_tf."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "force_tf":
            for name in node.names:
                inner = PACKAGE.parent.joinpath(*node.module.split("."), name.name)
                is_module = inner.is_dir() or inner.with_suffix(".py").exists()
                yield f"{node.module}.{name.name}" if is_module else node.module


def modules():
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def test_imports_are_those_of_the_table():
    allowed = table()
    assert len(allowed) > 10, "the table was not found"
    found = []
    for module, path in modules():
        if module == "force_tf":
            continue  # names what is public
        wing = wing_of(module, allowed)
        assert wing is not None, f"docs/architecture.md has no row for {module}"
        for imported in imported_modules(path):
            target = wing_of(imported, allowed)
            if target != wing and target not in allowed[wing]:
                found.append(f"{module} imports {imported}")
    assert not found


def test_rows_import_rows_above_them():
    allowed, above = table(), set()
    for wing, imports in allowed.items():
        assert imports <= above, f"{wing} imports {sorted(imports - above)}, which stand not above it"
        above.add(wing)


def test_no_row_allows_what_no_module_needs():
    allowed = table()
    used = {wing: set() for wing in allowed}
    for module, path in modules():
        if module != "force_tf":
            wing = wing_of(module, allowed)
            used[wing] |= {wing_of(imported, allowed) for imported in imported_modules(path)} - {wing}
    idle = {wing: sorted(imports - used[wing] - {"support"}) for wing, imports in allowed.items()}
    assert {wing: imports for wing, imports in idle.items() if imports} == {}


def test_nothing_imports_the_examples():
    names = {path.stem for path in (ROOT / "examples").glob("*.py")} | {"examples"}
    for _, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not names & {name.name.partition(".")[0] for name in node.names}, path
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.partition(".")[0] not in names, path
