"""The rules of where things live, read from the source of every module."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
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
PROCESS_MODULES = {"subprocess", "multiprocessing"}
ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.MatMult)
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)
Function = ast.FunctionDef | ast.AsyncFunctionDef
# Part of the standard library, and a fair name for a module of our own inside a package.
OWN_NAMES = {"__init__"}


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


def _importers(of: set[str], among: Callable[[str], bool] = lambda module: True) -> list[str]:
    return [module for module, tree in MODULES.items() if among(module) and _roots(tree) & of]


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
    return module.startswith("flows/") and module != "flows/cli.py"


def _is_worker(module: str) -> bool:
    return module.startswith("tasks/workers/")


def test_flows_import_no_torch_mlflow_or_pandas() -> None:
    heavy = {"torch", "mlflow", "pandas", "transformers", "datasets", "accelerate", "numpy"}
    assert _importers(heavy, lambda module: module.startswith("flows/")) == []


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


def test_only_the_registry_and_the_runs_beside_it_import_mlflow() -> None:
    # system_metrics.py reads the machine with MLflow's own classes, and talks to no store.
    importers = ["checkpoints", "client", "points", "runs", "system_metrics"]
    assert _importers({"mlflow"}) == [f"tasks/registry/{name}.py" for name in importers]


def test_nothing_unpickles() -> None:
    assert _importers({"pickle", "cloudpickle", "dill", "shelve", "joblib"}) == []
    loads = [
        f"{module}:{node.lineno}"
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _name(node.func) == "torch.load"
    ]
    assert loads == []


def test_only_launch_starts_processes() -> None:
    assert _importers(PROCESS_MODULES) == ["tasks/runtime/processes.py"]
    for module, tree in MODULES.items():
        calls = {_name(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not calls & {"os.fork", "os.system", "os.popen", "os.posix_spawn"}, module
        assert not any(call.startswith(("os.spawn", "os.exec")) for call in calls), module


def test_the_algorithm_imports_the_standard_library_and_itself_only() -> None:
    for module, tree in MODULES.items():
        if module.startswith("tasks/algorithm/"):
            others = _roots(tree) - set(sys.stdlib_module_names) - {"tasks"}
            ours = {name for name in _imports(tree) if name.startswith("tasks")}
            foreign = {n for n in ours if not n.startswith(("tasks.algorithm.", "tasks.errors."))}
            assert (others, foreign) == (set(), set()), module


def test_workers_import_neither_prefect_nor_mlflow_nor_a_flow() -> None:
    assert _importers({"prefect", "mlflow", "flows"}, _is_worker) == []


def test_only_workers_import_torch() -> None:
    assert _importers({"torch"}, lambda module: not _is_worker(module)) == []


def test_the_stages_import_no_flow() -> None:
    assert _importers({"flows"}, lambda module: module.startswith("tasks/")) == []


def test_no_module_outside_the_workers_imports_one_that_imports_torch() -> None:
    with_torch = {
        module.removesuffix(".py").replace("/", ".")
        for module, tree in MODULES.items()
        if "torch" in _roots(tree)
    }
    for module, tree in MODULES.items():
        if not _is_worker(module):
            assert not [name for name in _imports(tree) if name.startswith(tuple(with_torch))], module


def test_no_module_bears_the_name_of_a_package_we_use() -> None:
    used = set().union(*(_roots(tree) for tree in MODULES.values())) - {"flows", "tasks"}
    used |= {"evaluate", "torch", "mlflow", "datasets", "transformers", "prefect", "accelerate", "tokenizers"}
    stems = {Path(module).stem for module in MODULES} - OWN_NAMES
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


def test_no_module_keeps_a_global_variable() -> None:
    assert [m for m, tree in MODULES.items() if any(isinstance(n, ast.Global) for n in ast.walk(tree))] == []


def test_below_the_search_nothing_is_read_from_the_environment() -> None:
    # A worker inherits it, sees the GPUs that it names, and a worker learns from it who started it.
    may_read = {"tasks/runtime/gpus.py", "tasks/runtime/processes.py", "tasks/workers/supervisor.py"}
    for module, tree in MODULES.items():
        nodes = list(ast.walk(tree))
        sets = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr == "setdefault"]
        reads = [node for node in nodes if _name(node) in ("os.environ", "os.getenv")]
        reads = [node for node in reads if node not in [setter.value for setter in sets]]
        assert not reads or module in may_read, f"{module}:{reads[0].lineno}"


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
