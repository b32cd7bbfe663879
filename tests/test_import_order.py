"""Imports point one way: the folder tree is the architecture."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from ctp.encoders.registry import ENCODERS
from ctp.pretext.registry import TASKS

ROOT = Path(__file__).parents[1]
TIERS = (
    {
        "config",
        "constant",
        "first_box",
        "geometry",
        "keyframes",
        "machine",
        "option_hints",
        "progress",
        "rng",
        "score",
        "text",
        "versions",
    },
    {"storage"},
    {"lease", "run_names"},
    {"cli", "video"},
    {"encoders"},
    {"data"},
    {"build", "training"},
    {"curation", "pretext"},
    {"downstream", "bench"},
    {"recipes"},
    {"report"},
    {"sweeps", "watch"},
    {"cluster"},
    {"commands"},
    {"__main__"},
)
"""Each tier may import those before it; the parts of a tier do not import each other."""
MAY_IMPORT_EACH_OTHER = {0}


def imported(path: Path) -> set[str]:
    """Return the dotted names of all modules that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "ctp").parts[0].removesuffix(".py")


def tier_of(part: str) -> int:
    return next(i for i, tier in enumerate(TIERS) if part in tier)


SOURCES = sorted(set((ROOT / "ctp").rglob("*.py")) - {ROOT / "ctp" / "__init__.py"})


def violations(part: str, names: set[str]) -> list[str]:
    """Return the imports of a part of ctp that point the wrong way."""
    here = tier_of(part)
    wrong = []
    for name in sorted(names):
        pieces = name.split(".")
        if pieces[0] == "ray" and part != "cluster":
            wrong.append(f"{name} outside cluster")
        if pieces[0] == "jobs":
            wrong.append(name)
        if pieces[0] != "ctp" or len(pieces) < 2 or pieces[1] == part:
            continue
        there = tier_of(pieces[1])
        if there > here or (there == here and here not in MAY_IMPORT_EACH_OTHER):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    assert violations(part_of(path), imported(path)) == []


def test_every_part_belongs_to_a_tier() -> None:
    parts = {part_of(path) for path in SOURCES}
    assert parts <= set().union(*TIERS)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("encoders", "ctp.training.step"),
        ("pretext", "ctp.report.preview"),
        ("video", "ctp.encoders"),
        ("training", "ray.train"),
        ("bench", "jobs.pretrain"),
        ("recipes", "ctp.report.runs"),
    ],
)
def test_a_wrong_import_is_caught(part: str, name: str) -> None:
    assert violations(part, {name})


@pytest.mark.parametrize(
    "module",
    [
        *("recipes", "sweeps.recipes", "cluster.coordinator", "cluster.stream"),
        *("cluster.task_worker", "build.build", "curation.measure", "curation.write"),
    ],
)
def test_recipes_and_small_actors_import_no_torch(
    module: str, run_python: Callable[..., str]
) -> None:
    """A run has many such actors, and torch takes 0.3 GB of each."""
    script = f"import sys, ctp.{module}; print('torch' in sys.modules)"
    assert run_python("-c", script).strip() == "False"


def test_options_of_all_tasks_and_encoders_import_no_torch(run_python: Callable[..., str]) -> None:
    """`--help` of each is printed in less than two seconds."""
    script = (
        "import sys; from ctp.pretext import registry as tasks; "
        "from ctp.encoders import registry as encoders; "
        "all = [*tasks.CONFIGS.values(), *encoders.CONFIGS.values()]; "
        "print(len(all), 'torch' in sys.modules)"
    )
    assert run_python("-c", script).split() == [str(len(TASKS) + len(ENCODERS)), "False"]


@pytest.mark.parametrize(
    "statement",
    [
        "import ctp.data.stream",
        "import ctp.downstream.clips",
        "import ctp.downstream.track_clips",
        "import ctp.cluster.launch, ctp.cluster.trial",
        "from ctp.pretext.registry import TASKS; list(TASKS.values())",
    ],
)
def test_what_starts_runs_and_draws_samples_imports_no_compiler(
    statement: str, run_python: Callable[..., str]
) -> None:
    """It takes 0.1 GB and a second; torchvision's models import it as well."""
    heavy = {"torchvision", "torch._dynamo"}
    script = f"import sys; {statement}; print({heavy} & set(sys.modules))"
    assert run_python("-c", script).strip() == "set()"
