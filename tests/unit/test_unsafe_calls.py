"""The source, walked: nothing unpickles, evaluates text, runs a shell line, or executes a checkpoint's own code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("xopd", "services", "examples", "tools", "bench", "requirements")
PICKLERS = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle")
SOURCES = sorted(
    path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts
)


def name_of(node: ast.expr) -> str:
    """`a.b.c` of a name or an attribute; nothing stands for what has no name."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def keywords(call: ast.Call) -> dict[str, object]:
    """Keyword arguments; a value that is no constant counts as itself, not as absent."""
    return {
        each.arg: each.value.value if isinstance(each.value, ast.Constant) else each.value
        for each in call.keywords
        if each.arg is not None
    }


def findings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in PICKLERS:
                    yield node.lineno, f"imports {alias.name}"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLERS:
            yield node.lineno, f"imports {node.module}"
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, text) for text in _wrong_with(node))


def _wrong_with(call: ast.Call) -> Iterator[str]:
    name, given = name_of(call.func), keywords(call)
    if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
        yield f"calls {name}"
    if name.endswith("torch.load") and given.get("weights_only") is not True:
        yield "torch.load without weights_only=True"
    if name in ("np.load", "numpy.load") and given.get("allow_pickle") is not False:
        yield "numpy.load without allow_pickle=False"
    if name in ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all"):
        yield f"{name}, not yaml.safe_load"
    if name in ("yaml.compose", "yaml.parse", "yaml.scan"):
        loader = next((each.value for each in call.keywords if each.arg == "Loader"), None)
        if loader is None or name_of(loader) != "yaml.SafeLoader":
            yield f"{name} without Loader=yaml.SafeLoader"
    if given.get("shell", False) is not False:
        yield "shell="
    if given.get("trust_remote_code", False) is not False:
        yield "trust_remote_code"
    if name.endswith(".from_pretrained") and given.get("local_files_only") is not True:
        yield "from_pretrained without local_files_only=True: it would ask a model hub"
    model = name.removesuffix(".from_pretrained")
    is_model = "ForCausalLM" in model or "ForConditionalGeneration" in model or model.endswith("AutoModel")
    if name.endswith(".from_pretrained") and is_model and given.get("use_safetensors") is not True:
        yield "a model's from_pretrained without use_safetensors=True: it would unpickle a .bin file"
    if (
        name.rpartition(".")[2] in ("AsyncEngineArgs", "EngineArgs", "LLM")
        and given.get("load_format") != "safetensors"
    ):
        yield "vLLM without load_format='safetensors': it would unpickle a .bin file"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_source_has_no_unsafe_call(path: Path) -> None:
    assert list(findings(ast.parse(path.read_text(), str(path)))) == []


def test_there_is_something_to_walk() -> None:
    assert len(SOURCES) > 150


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import torch; torch.load('x')",
        "import torch; torch.load('x', weights_only=False)",
        "import torch; torch.load('x', weights_only=flag)",
        "import numpy as np; np.load('x')",
        "import numpy as np; np.load('x', allow_pickle=True)",
        "eval('1')",
        "exec('1')",
        "import yaml; yaml.load('x', Loader=yaml.Loader)",
        "import yaml; yaml.compose('x')",
        "import subprocess; subprocess.run('ls', shell=True)",
        "import subprocess; subprocess.run('ls', shell=anything)",
        "import os; os.system('ls')",
        "AutoTokenizer.from_pretrained('x', trust_remote_code=True, local_files_only=True)",
        "AutoModelForCausalLM.from_pretrained('x', local_files_only=True)",
        "AutoTokenizer.from_pretrained('x')",
        "vllm.AsyncEngineArgs(model='x')",
    ],
)
def test_each_kind_is_found(line: str) -> None:
    assert list(findings(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "model.eval()",
        "import torch; torch.load('x', weights_only=True)",
        "import yaml; yaml.safe_load('x'); yaml.compose('x', Loader=yaml.SafeLoader)",
        "AutoModelForCausalLM.from_pretrained('x', use_safetensors=True, local_files_only=True)",
        "AutoTokenizer.from_pretrained('x', local_files_only=True)",
    ],
)
def test_safe_calls_are_let_through(line: str) -> None:
    assert not list(findings(ast.parse(line)))
