"""The trials of a sweep, and which sweeps are refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctp import recipes
from ctp.run_names import PRETRAINED
from ctp.sweeps.plan import Plan
from ctp.sweeps.recipes import SWEEP, TABLES

MakePlan = Callable[..., Plan]


def test_all_combinations_with_all_seeds(plan_of: MakePlan, tmp_path: Path) -> None:
    plan = plan_of(
        grid=("task.num_patches=1,2", "task.sigma=[.8,.8,.04,.04],[1,1,.05,.05]"),
        set=("schedule.length=7",),
        seeds=2,
    )
    assert len(plan.settings) == 4
    assert [trial.seed for trial in plan.trials] == [0] * 4 + [1] * 4
    names = [trial.name for trial in plan.trials]
    assert len(set(names)) == 8
    first, last = plan.trials[0], plan.trials[-1]
    assert first.setting.name == "num_patches = 1, sigma = 0.8, 0.8, 0.04, 0.04"
    assert last.config == recipes.tiny().replace(
        name=last.name,
        storage=str(tmp_path / "mine" / "runs"),
        seed=1,
        task=recipes.tiny().task.replace(num_patches=2, sigma=(1, 1, 0.05, 0.05)),
        schedule=recipes.tiny().schedule.replace(length=7),
    )


def test_rows_of_your_own_are_compared_with_the_base_run(plan_of: MakePlan) -> None:
    rows = ("task.num_patches=1", "task.labels=cycle task.sigma=[1, 1, .05, .05]")
    plan = plan_of(row=rows, set=("task.num_patches=2",), seeds=2)
    first, second, third = (trial.config.task for trial in plan.trials[:3])
    assert [each.name for each in plan.settings] == [
        "base run",
        "num_patches = 1",
        "labels = cycle, sigma = 1, 1, 0.05, 0.05",
    ]
    assert first == recipes.tiny().task.replace(num_patches=2)
    assert second == first.replace(num_patches=1)
    assert third == first.replace(labels="cycle", sigma=(1, 1, 0.05, 0.05))
    assert len({trial.name for trial in plan.trials}) == len(plan.trials) == 6


def test_rows_of_your_own_beside_those_of_a_table_and_with_a_grid(plan_of: MakePlan) -> None:
    plan = plan_of(
        table="table2a",
        row=("task.num_patches=3 task.hidden_prob=.5",),
        grid=("optimizer.learning_rate=.001,.01",),
    )
    assert len(plan.settings) == 2 * (4 + 1)
    last = plan.trials[-1].config
    assert (last.task.hidden_prob, last.optimizer.learning_rate) == (0.5, 0.01)


def test_names_stay_when_values_are_added(plan_of: MakePlan) -> None:
    few = plan_of(grid=("optimizer.learning_rate=0.1,1e-3",))
    more = plan_of(grid=("optimizer.learning_rate=1,0.1,.001",), seeds=3)
    assert [t.name for t in few.trials] == ["learning_rate-0.1-seed0", "learning_rate-0.001-seed0"]
    assert {t.name: t.config for t in few.trials}.items() <= {
        t.name: t.config for t in more.trials
    }.items()


def test_values_that_are_no_file_names_have_different_names(plan_of: MakePlan) -> None:
    plan = plan_of(grid=("data.uri=s3://a/b c,s3://a/b_c,[s3://a/b,c]",))
    names = [trial.name for trial in plan.trials]
    assert len(set(names)) == 3
    assert all("/" not in name and " " not in name for name in names)


def test_a_plan_can_be_pickled(plan_of: MakePlan) -> None:
    plan = plan_of(table="table2a")
    assert pickle.loads(pickle.dumps(plan)).trials == plan.trials


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_every_table_has_valid_runs(plan_of: MakePlan, name: str, scale: str) -> None:
    plan = plan_of(table=name, scale=scale)
    assert len(plan.settings) == sum(scale in row.scales for row in TABLES[name].rows)
    assert SWEEP[name]().table == name
    assert SWEEP[name].__doc__


def test_table_2a_at_the_papers_size(plan_of: MakePlan) -> None:
    """Its row K = 3 is that of Table 2b with MRM off: no patch is hidden."""
    plan = plan_of(table="table2a", scale="paper")
    values = [trial.config.flatten() for trial in plan.trials]
    assert [each["task.num_patches"] for each in values] == [1, 2, 3, 4]
    assert {each["task.hidden_prob"] for each in values} == {0.0}
    assert {each["data.share"] for each in values} == {0.25}  # of Kinetics-400
    assert plan.trials[0].config.schedule.length == 90  # Kinetics-400's
    assert [score.name for score in plan.scores] == ["finetune-ucf101", "finetune-hmdb51"]


def test_table_2b_varies_encoder_and_hiding(plan_of: MakePlan) -> None:
    plan = plan_of(table="table2b")
    values = [trial.config.flatten() for trial in plan.trials]
    varied = [(each["encoder.name"], each["task.hidden_prob"]) for each in values]
    assert varied == [("r3d", 0), ("r3d", 0.2), ("r2plus1d", 0), ("r2plus1d", 0.2)]
    assert {each["encoder.width"] for each in values} == {recipes.tiny().flatten()["encoder.width"]}


def test_the_curriculum_against_either_end_of_it(plan_of: MakePlan) -> None:
    plan = plan_of(table="curriculum", scale="paper")
    values = [trial.config.flatten() for trial in plan.trials]
    assert [(each["task.curriculum"], each["task.patch_source"]) for each in values] == [
        (None, "trajectory"),
        (None, "other_clip"),
        ([0.35, 0.65], "trajectory"),
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "nothing is varied"),
        ({"table": "table2"}, r"there is no table 'table2' \(did you mean table2"),
        ({"grid": ("task.num_patchs=1,2",)}, r"task.num_patchs \(did you mean task.num_patches\?"),
        ({"grid": ("task.num_patches=1,many",)}, "task.num_patches: .*integer.*'many'"),
        ({"grid": ("task.num_patches=0,1",)}, "task.num_patches: .*greater than or equal to 1"),
        ({"grid": ("task.num_patches",)}, "expected OPTION=VALUE"),
        ({"grid": ("task.num_patches=",)}, "there is no value after the ="),
        ({"grid": ("task.num_patches=[1",)}, "the values cannot be read"),
        ({"grid": ("task.sigma=1,1",)}, "--grid task.sigma: task.sigma"),
        ({"grid": ("task.num_patches=1", "task.num_patches=2")}, "names task.num_patches twice"),
        ({"grid": ("task.sigma=[1,1,1,1],[1.0,1,1,1]",)}, "1, 1, 1, 1 is given twice"),
        ({"grid": ("seed=1,2",)}, "--grid seed: give --seeds"),
        ({"grid": ("linear.data.uri=a,b",)}, "only options of pretraining can be varied"),
        ({"row": ("task.num_patchs=1",)}, r"--row .*did you mean task.num_patches\?"),
        ({"row": ("task.num_patches=1 task.num_patches=2",)}, "names task.num_patches twice"),
        ({"row": ("task.num_patches=3", "task.num_patches=3.0")}, "another row once more"),
        ({"row": ("optimizer.learning_rate=.01",), "set": ("optimizer.learning_rate=1e-2",)},
         "the base run once more"),
        ({"row": ("linear.data.uri=a",)}, "only options of pretraining can be varied"),
        ({"row": ("task.num_patches=1",), "grid": ("task.num_patches=3",)}, "--grid and --row"),
        ({"table": "table2a", "grid": ("task.num_patches=1",)}, "the table varies this option"),
        ({"table": "table2a", "set": ("task.num_patches=1",)}, "the table varies this option"),
        ({"table": "table2b", "grid": ("encoder.width=8",)}, "is a part of"),
        ({"grid": ("compute.total_batch=1",), "set": ("compute.total_batch=2",)}, "both --grid"),
        ({"table": "table9", "set": ("schedule.lenght=3",)}, "did you mean schedule.length"),
        ({"table": "table9", "set": ("name=x",)}, "--set name: trials are named by"),
        ({"table": "table9", "seeds": 17}, "4 rows × 17 seeds: 68 trials are more than --max"),
        ({"table": "table9", "scores": ("retreival",)}, "did you mean retrieval"),
        ({"table": "table9", "set": ("finetune.data.uri=x",)}, "no chosen score has this option"),
        ({"table": "table9", "scale": "paper", "scores": ("task",)}, "needs held-out videos"),
        ({"table": "table9", "asha": {"metric": "knn_top1"}}, "knn_top1 needs labelled videos"),
        ({"table": "table9", "asha": {"time": "step", "grace": 600}}, "none would be stopped"),
    ],
)  # fmt: skip
def test_what_is_refused(plan_of: MakePlan, fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        plan_of(**fields)


def test_a_resumed_sweep_may_have_more_trials(plan_of: MakePlan) -> None:
    assert len(plan_of(table="table9", seeds=17, max_trials=68).trials) == 68


def test_more_rows_are_no_other_sweep(plan_of: MakePlan) -> None:
    before = plan_of(row=("task.num_patches=1",))
    after = plan_of(row=("task.num_patches=3", "task.num_patches=1"))
    assert after.differences(before) == []
    assert before.differences(after) == ["num_patches = 3 was part of the sweep, and is not now"]


def test_more_seeds_and_values_are_no_other_sweep(plan_of: MakePlan) -> None:
    before = plan_of(grid=("task.num_patches=1,2",))
    after = plan_of(grid=("task.num_patches=1,2,3",), seeds=2, max_failures=5, trials_at_once=1,
                    set=("scaling.num_actors=2",))  # fmt: skip
    assert after.differences(before) == []
    assert before.differences(after) == ["num_patches = 3 was part of the sweep, and is not now",
                                         "seeds was 2, is 1"]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"table": "table2a", "grid": ()}, "table was , is table2a"),
        ({"scale": "small"}, "scale was tiny, is small"),
        ({"grid": ("task.num_patches=1", "task.head.squeeze=true")}, "what --grid varies was"),
        ({"scores": ("task",)}, "scores was task, retrieval, linear, is task"),
        ({"asha": {"grace": 2}}, "asha was none, is metric task, time epoch, grace 2"),
        ({"set": ("task.sigma=1,1,1,1",)}, "task.sigma was "),
        ({"set": ("linear.schedule.length=3",)}, "linear: schedule.length was 10, is 3"),
        ({"set": ("embed.data.test_share=0.5",)}, "retrieval: data.test_share was 0.25, is 0.5"),
    ],
)
def test_differences_of_another_sweep(
    plan_of: MakePlan, fields: dict[str, Any], expected: str
) -> None:
    before = plan_of(grid=("task.num_patches=1",))
    after = plan_of(**{"grid": ("task.num_patches=1",)} | fields)
    assert any(line.startswith(expected) for line in after.differences(before))


def test_a_plan_names_the_videos_of_all_its_runs(plan_of: MakePlan) -> None:
    plan = plan_of(
        grid=("task.num_patches=1,2",),
        set=("data.uri=/a", "embed.data.uri=/b", "linear.data.test_uri=/c"),
        scores=("retrieval", "linear"),
    )
    assert {"/a", "/b", "/c"} <= set(plan.locations())


def test_initial_weights_are_named_as_in_a_pretraining(plan_of: MakePlan) -> None:
    small = (PRETRAINED / "ctp-small" / "encoder.safetensors").as_posix()
    plan = plan_of(grid=("task.num_patches=1,2",), set=("initial_encoder=ctp-small",))
    assert {trial.config.initial_encoder for trial in plan.trials} == {small}
    assert small in plan.locations()
    # the results of a sweep can be read after a run that it started from was deleted
    plan = plan_of(grid=("initial_encoder=ctp-small,deleted",))
    assert [trial.config.initial_encoder for trial in plan.trials] == [small, "deleted"]
