"""Rules of names, sizes and state for every module; import-linter and ruff check the rules of imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for package in ("flows", "tasks")
    for path in sorted((ROOT / package).rglob("*.py"))
}
MAX_MODULE, MAX_FUNCTION, MAX_FLOW, MAX_PARAMETERS, MAX_NESTING = 300, 40, 25, 6, 3
PATH_MODULES = {"pathlib", "os", "shutil", "glob", "tempfile", "io", "fileinput"}
ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.MatMult)
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)
Function = ast.FunctionDef | ast.AsyncFunctionDef
MUTATING = {"add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update"}

# They hand the environment to other processes, learn from it who started them and which GPUs they may use, or show
# the configured server.
# The open pool of workers, which every stage of a search reaches through Prefect's tasks; what a worker keeps from one
# request to the next.
MAY_KEEP_STATE = {"tasks/runtime/pool.py": ["ContextVar"], "tasks/workers/kept.py": ["_kept"]}
MAY_READ_ENVIRONMENT = {
    "tasks/runtime/machine.py",
    "tasks/runtime/processes.py",
    "tasks/runtime/prefect_server.py",
    "tasks/runtime/spans.py",
    "tasks/workers/supervisor.py",
    "tasks/report/prefect_artifacts.py",
    "tasks/commands/deploy.py",
    "tasks/commands/doctor.py",
}


def _imports(tree: ast.AST) -> Iterator[str]:
    """Yield the full name of every import, those inside functions and for type checking too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _name(node.func).endswith(("import_module", "__import__")):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def _roots(tree: ast.AST) -> set[str]:
    return {name.partition(".")[0] for name in _imports(tree)}


def _name(node: ast.AST) -> str:
    """Return `a.b` of a plain chain of attributes, and else nothing."""
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _functions() -> Iterator[tuple[str, Function]]:
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{module}:{node.lineno} {node.name}", node


def _is_flow(function: Function) -> bool:
    decorators = [node.func if isinstance(node, ast.Call) else node for node in function.decorator_list]
    return any(_name(node).rpartition(".")[2] == "flow" for node in decorators)


def _num_lines(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def _num_parameters(function: Function) -> int:
    arguments = function.args
    named = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")])


def _depth(body: list[ast.stmt]) -> int:
    """Return how deep blocks nest; an `elif` stands beside its `if`, a function inside counts on its own."""
    depths = [0]
    for node in body:
        if not isinstance(node, BLOCKS):
            continue
        alternative = getattr(node, "orelse", [])
        is_elif = isinstance(node, ast.If) and len(alternative) == 1 and isinstance(alternative[0], ast.If)
        parts = [getattr(node, "body", []), getattr(node, "finalbody", [])]
        parts += [handler.body for handler in getattr(node, "handlers", [])]
        parts += [case.body for case in getattr(node, "cases", [])]
        depths += [1 + _depth(part) for part in parts]
        depths.append(_depth(alternative) if is_elif else 1 + _depth(alternative))
    return max(depths)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_flow_module(module: str) -> bool:
    return module.startswith("flows/") and not module.startswith("flows/cli")


@pytest.mark.parametrize("module", [module for module in MODULES if _is_flow_module(module)])
def test_flows_handle_no_paths_and_do_no_arithmetic(module: str) -> None:
    tree = MODULES[module]
    assert not _roots(tree) & PATH_MODULES
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.Name) and node.id in ("Path", "open")), f"line {node.lineno}"
        assert not (isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ARITHMETIC)), (
            f"arithmetic in line {node.lineno}"
        )
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            assert "/" not in node.value, f"a path in line {node.lineno}"


def test_files_are_written_and_moved_by_one_idiom() -> None:
    """Outside of runtime/files.py, only a staging file or folder is written to, and nothing is moved into place."""
    makes_documents = "tasks/config/reference.py"
    found = [
        f"{module}:{call.lineno}"
        for module, tree in MODULES.items()
        if module not in ("tasks/runtime/files.py", makes_documents)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and _writes_in_place(call.func)
    ]
    assert found == []


def _writes_in_place(function: ast.expr) -> bool:
    if _name(function) in ("os.rename", "os.replace", "os.link", "shutil.move"):
        return True
    if not isinstance(function, ast.Attribute) or function.attr not in ("write_text", "write_bytes"):
        return False
    return "staging" not in {node.id for node in ast.walk(function.value) if isinstance(node, ast.Name)}


def test_no_module_bears_the_name_of_a_package_we_use() -> None:
    used = set().union(*(_roots(tree) for tree in MODULES.values())) - {"flows", "tasks"}
    used |= {"evaluate", "torch", "mlflow", "datasets", "transformers", "prefect", "accelerate", "tokenizers"}
    stems = {Path(module).stem for module in MODULES} - {"__init__"}
    assert stems & used == set()


def test_no_module_is_a_grab_bag() -> None:
    stems = {Path(module).stem for module in MODULES}
    assert stems & {"utils", "util", "helpers", "helper", "common", "misc"} == set()


@pytest.mark.parametrize("module", [module for module in MODULES if module.endswith("__init__.py")])
def test_an_init_holds_a_docstring_and_nothing_else(module: str) -> None:
    body = MODULES[module].body
    assert len(body) == 1
    assert _is_docstring(body[0])


def test_every_module_says_what_it_gives() -> None:
    assert [module for module, tree in MODULES.items() if not ast.get_docstring(tree)] == []


def _state_of(tree: ast.Module) -> list[str]:
    """Return the names of a module that its functions rebind or mutate, and its context variables."""
    targets = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    bound = {name.id for node in targets for name in ast.walk(node) if isinstance(name, ast.Name)}
    changed = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    for function in (node for node in ast.walk(tree) if isinstance(node, Function)):
        local = {node.id for node in ast.walk(function) if _is_bound(node)} | {
            argument.arg for argument in ast.walk(function) if isinstance(argument, ast.arg)
        }
        changed |= {name for node in ast.walk(function) for name in _mutated(node)} & bound - local
    calls = [node.value for node in targets if isinstance(node.value, ast.Call)]
    return sorted(changed) + [_name(c.func) for c in calls if _name(c.func).endswith(("ContextVar", "local"))]


def _is_bound(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _mutated(node: ast.AST) -> Iterator[str]:
    """Yield the name whose value the node changes in place."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        yield _name(node.value)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATING:
        yield _name(node.func.value)


def test_no_module_keeps_state() -> None:
    states = {module: _state_of(tree) for module, tree in MODULES.items()}
    assert {m: state for m, state in states.items() if state} == MAY_KEEP_STATE


@pytest.mark.parametrize(
    "source",
    [
        "x = 0\ndef f():\n    global x\n    x = 1",
        "x = []\ndef f():\n    x.append(1)",
        "x: dict[str, int] = {}\ndef f():\n    x['a'] = 1",
        "x = {}\ndef f():\n    del x['a']",
        "x = ContextVar('x')",
    ],
)
def test_state_of_a_module_is_seen(source: str) -> None:
    assert _state_of(ast.parse(source)) != []
    assert _state_of(ast.parse("x = []\ndef f(x):\n    x.append(1)")) == []


def _environment_reads(tree: ast.Module) -> list[int]:
    """Return the lines that read variables of the environment or settings of Prefect, which come from there."""
    defaults = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "setdefault"}
    lines = []
    for node in ast.walk(tree):
        name = _name(node.func) if isinstance(node, ast.Call) else _name(node)
        is_variable = name in ("os.environ", "os.getenv", "environ", "getenv") and node not in defaults
        is_setting = name == "get_current_settings" or (name.startswith("PREFECT_") and name.endswith(".value"))
        if is_variable or is_setting:
            lines.append(getattr(node, "lineno", 0))
    return lines


def test_only_named_modules_read_the_environment() -> None:
    reads = {module: _environment_reads(tree) for module, tree in MODULES.items()}
    assert {m: lines for m, lines in reads.items() if lines and m not in MAY_READ_ENVIRONMENT} == {}


@pytest.mark.parametrize("source", ["os.environ['A']", "os.getenv('A')", "PREFECT_API_URL.value()"])
def test_a_read_of_the_environment_is_seen(source: str) -> None:
    assert _environment_reads(ast.parse(source)) != []
    assert _environment_reads(ast.parse("os.environ.setdefault('A', 'b')")) == []


def test_modules_have_at_most_300_lines() -> None:
    sizes = {module: len((ROOT / module).read_text().splitlines()) for module in MODULES}
    assert {module: size for module, size in sizes.items() if size > MAX_MODULE} == {}


def test_functions_have_at_most_40_lines_and_flows_25() -> None:
    sizes = {where: (_num_lines(f), MAX_FLOW if _is_flow(f) else MAX_FUNCTION) for where, f in _functions()}
    assert {where: size for where, (size, limit) in sizes.items() if size > limit} == {}


def test_functions_have_at_most_6_parameters() -> None:
    counts = {where: _num_parameters(function) for where, function in _functions()}
    # typer makes an option of each parameter of a command
    others = {where: count for where, count in counts.items() if not where.startswith("flows/cli")}
    assert {where: count for where, count in others.items() if count > MAX_PARAMETERS} == {}


def test_blocks_nest_at_most_3_deep() -> None:
    depths = {where: _depth(function.body) for where, function in _functions()}
    assert {where: depth for where, depth in depths.items() if depth > MAX_NESTING} == {}
