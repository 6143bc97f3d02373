"""`make guards`: take out each guard against hostile input and insecure settings in turn, and see that a test fails.

A guard is an `if` that ends in `raise` or returns a refusal, or a statement that calls a checking function. The tests
of its module run on a copy of the tree without it. Prints the guards that no test misses; exit status 1 if any.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ROOT = Path(__file__).resolve().parents[1]
SECURITY, FILES = "tests/unit/security", "tests/unit/test_files_input.py"
AUDIO, WIRE, TEACHER = "tests/unit/test_audio_input.py", "tests/unit/test_wire.py", "tests/unit/test_teacher_parts.py"
GUARDED: dict[str, tuple[str, ...]] = {
    "xopd/data/audio.py": (AUDIO, "tests/unit/test_data.py"),
    "xopd/data/places.py": (AUDIO, FILES, "tests/unit/test_data.py"),
    "xopd/data/items.py": ("tests/unit/test_data.py", AUDIO, FILES),
    "xopd/jsonl.py": ("tests/unit/test_json_and_text.py",),
    "xopd/files.py": ("tests/unit/test_json_and_text.py",),
    "xopd/evals/bounds.py": ("tests/unit/test_user_files.py",),
    "xopd/families/checkpoint_files.py": ("tests/unit/test_checkpoint_files.py",),
    "xopd/streams/memory.py": ("tests/integration/test_eviction.py",),
    "xopd/wire/messages.py": (WIRE,),
    "xopd/weights/contents.py": ("tests/unit/test_weights.py",),
    "xopd/weights/store.py": ("tests/unit/test_weights.py",),
    "xopd/scoring/answers.py": (TEACHER,),
    "xopd/scoring/replicas.py": ("tests/integration/test_teacher_replicas.py",),
    "xopd/security/credentials.py": (SECURITY,),
    "xopd/security/tls.py": (SECURITY,),
    "xopd/security/token.py": (SECURITY,),
    "xopd/config/security.py": (SECURITY, "tests/unit/test_config.py"),
    "xopd/config/secrets.py": (SECURITY, "tests/unit/test_config.py"),
    "xopd/config/yaml12.py": ("tests/unit/test_yaml12.py",),
    "xopd/config/environment.py": ("tests/unit/test_config_values.py", "tests/unit/test_config.py"),
    "xopd/config/section.py": ("tests/unit/test_config_values.py",),
    "services/teacher/xopd_teacher/validation.py": (TEACHER,),
    "services/rollout/xopd_rollout/prompt_check.py": ("tests/unit/test_prompt_check.py",),
    "services/trainer/xopd_trainer/dispatch/judgement.py": ("tests/unit/trainer/test_judgement.py",),
}
"""Modules with guards, and the tests that must miss them."""
CHECKS = {"_need", "_need_at_most", "_need_ids", "_need_uri", "_need_sha256", "_need_file"}
CHECKS |= {"_at_most", "_check_protocol", "check_header", "check_certificate"}
CHECKS |= {"refuse_other_encodings", "_refuse_pointer", "_refuse_cut", "_check_index"}
"""Functions that raise where something is wrong, and give nothing that is used."""
COPIED = (
    "xopd",
    "services",
    "tests",
    "tools",
    "docs",
    "protos",
    "requirements",
    "examples/tiny/demo.yaml",
    "pyproject.toml",
)
LIMIT_S = 180.0


@dataclass(frozen=True)
class Guard:
    """One guard: where it stands, how it reads, and its module without it."""

    path: str
    line: int
    text: str
    without: str


def guards_of(path: str, source: str) -> Iterator[Guard]:
    """Each guard of a module."""
    for index in range(len(_guards(ast.parse(source)))):
        tree = ast.parse(source)
        guard = _guards(tree)[index]
        if isinstance(guard, ast.If):
            text, guard.test = ast.unparse(guard.test), ast.Constant(False)
        else:
            text, guard.value = ast.unparse(guard), ast.Constant(None)
        yield Guard(path, guard.lineno, text, ast.unparse(tree))


def _guards(tree: ast.Module) -> list[ast.If | ast.Expr]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.If | ast.Expr) and _is_guard(node)]


def _is_guard(node: ast.If | ast.Expr) -> bool:
    if isinstance(node, ast.If):
        end = node.body[-1]
        refusal = isinstance(end, ast.Return) and isinstance(end.value, ast.JoinedStr)
        return isinstance(end, ast.Raise) or refusal
    call = node.value
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in CHECKS


def run_tests(folder: Path, tests: tuple[str, ...]) -> int:
    """Exit status of pytest in the copy of the tree; a hang counts as a failure."""
    places = [folder, *(folder / "services" / role for role in ("rollout", "teacher", "trainer"))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        return subprocess.run(  # noqa: S603 (a fixed command)
            command, cwd=folder, env=environment, capture_output=True, timeout=LIMIT_S, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return 1


def main() -> None:
    """Take out each guard of the modules named on the command line, or of all."""
    console = Console(highlight=False, soft_wrap=True)
    if unknown := sorted(set(sys.argv[1:]) - set(GUARDED)):
        raise SystemExit(f"guards: {unknown[0]} is not among the modules with guards: {', '.join(GUARDED)}.")
    chosen = {path: tests for path, tests in GUARDED.items() if not sys.argv[1:] or path in sys.argv[1:]}
    guards = [guard for path in chosen for guard in guards_of(path, (ROOT / path).read_text(encoding="utf-8"))]
    unmissed: list[Guard] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with tempfile.TemporaryDirectory() as name, Progress(*columns, console=console) as progress:
        folder = Path(name)
        for part in COPIED:
            here = ROOT / part
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(here, folder / part) if here.is_dir() else shutil.copy(here, folder / part)
        task = progress.add_task("guards taken out", total=len(guards))
        for path, tests in chosen.items():
            if status := run_tests(folder, tests):
                raise SystemExit(f"guards: {' '.join(tests)} fails as it is (status {status}); make it pass first.")
            for guard in (one for one in guards if one.path == path):
                (folder / path).write_text(guard.without, encoding="utf-8")
                if run_tests(folder, tests) == 0:
                    unmissed.append(guard)
                    progress.console.print(f"{path}:{guard.line}: no test misses `{guard.text}`")
                progress.advance(task)
            shutil.copy(ROOT / path, folder / path)
    console.print(f"{len(guards)} guards in {len(chosen)} files, {len(unmissed)} that no test misses")
    raise SystemExit(bool(unmissed))


if __name__ == "__main__":
    main()
