"""Which trials a sweep has, and which it refuses to have."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctp import recipes
from ctp.sweeps.plan import Plan
from ctp.sweeps.recipes import SWEEP
from ctp.sweeps.tables import TABLES

MakePlan = Callable[..., Plan]


def test_all_combinations_with_all_seeds(plan_of: MakePlan, tmp_path: Path) -> None:
    plan = plan_of(
        grid=("game.num_patches=1,2", "sigma=[.8,.8,.04,.04],[1,1,.05,.05]"),
        set=("schedule.length=7",),
        seeds=2,
    )
    assert len(plan.cells) == 4
    assert [trial.seed for trial in plan.trials] == [0] * 4 + [1] * 4
    names = [trial.name for trial in plan.trials]
    assert len(set(names)) == 8
    first, last = plan.trials[0], plan.trials[-1]
    assert first.cell.name == "num_patches = 1, sigma = 0.8, 0.8, 0.04, 0.04"
    assert last.pretrain == recipes.tiny().replace(
        name=last.name,
        storage=str(tmp_path / "mine" / "runs"),
        seed=1,
        game=recipes.tiny().game.replace(num_patches=2),
        sigma=(1, 1, 0.05, 0.05),
        schedule=recipes.tiny().schedule.replace(length=7),
    )


def test_names_stay_when_values_are_added(plan_of: MakePlan) -> None:
    few = plan_of(grid=("optimizer.learning_rate=0.1,1e-3",))
    more = plan_of(grid=("optimizer.learning_rate=1,0.1,.001",), seeds=3)
    assert [t.name for t in few.trials] == ["learning_rate-0.1-seed0", "learning_rate-0.001-seed0"]
    assert {t.name: t.pretrain for t in few.trials}.items() <= {
        t.name: t.pretrain for t in more.trials
    }.items()


def test_values_that_no_file_can_be_named_by_are_told_apart(plan_of: MakePlan) -> None:
    plan = plan_of(grid=("data.uri=s3://a/b c,s3://a/b_c,[s3://a/b,c]",))
    names = [trial.name for trial in plan.trials]
    assert len(set(names)) == 3
    assert all("/" not in name and " " not in name for name in names)


def test_a_plan_reaches_other_processes(plan_of: MakePlan) -> None:
    plan = plan_of(table="table2a")
    assert pickle.loads(pickle.dumps(plan)).trials == plan.trials


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_every_table_is_of_runs_that_are_valid(plan_of: MakePlan, name: str, scale: str) -> None:
    plan = plan_of(table=name, scale=scale)
    assert len(plan.cells) == len(TABLES[name].rows)
    assert SWEEP[name]().table == name
    assert SWEEP[name].__doc__


def test_table_2a_at_the_papers_size(plan_of: MakePlan) -> None:
    """Its row K = 3 is that of Table 2b with MRM off: no patch is hidden."""
    plan = plan_of(table="table2a", scale="paper")
    games = [trial.pretrain.game for trial in plan.trials]
    assert [game.num_patches for game in games] == [1, 2, 3, 4]
    assert {game.hidden_prob for game in games} == {0.0}
    assert plan.trials[0].pretrain.schedule.length == 90  # Kinetics-400's
    assert [score.name for score in plan.scores] == ["finetune-ucf101", "finetune-hmdb51"]


def test_table_2b_varies_encoder_and_hiding(plan_of: MakePlan) -> None:
    plan = plan_of(table="table2b")
    varied = [(t.pretrain.encoder.arch, t.pretrain.game.hidden_prob) for t in plan.trials]
    assert varied == [("r3d", 0), ("r3d", 0.2), ("r2plus1d", 0), ("r2plus1d", 0.2)]


def test_the_curriculum_against_either_end_of_it(plan_of: MakePlan) -> None:
    plan = plan_of(table="curriculum", scale="paper")
    own, other, both = [trial.pretrain for trial in plan.trials]
    assert (own.curriculum, own.game.patch_source) == (None, "trajectory")
    assert (other.curriculum, other.game.patch_source) == (None, "other_clip")
    assert both.curriculum is not None
    assert both.game.patch_source == "trajectory"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "nothing is varied"),
        ({"table": "table2"}, r"there is no table 'table2' \(did you mean table2"),
        ({"grid": ("game.num_patchs=1,2",)}, r"game.num_patchs \(did you mean game.num_patches\?"),
        ({"grid": ("game.num_patches=1,many",)}, "game.num_patches: .*integer.*'many'"),
        ({"grid": ("game.num_patches=0,1",)}, "game.num_patches: .*greater than or equal to 1"),
        ({"grid": ("game.num_patches",)}, "wanted FIELD=VALUE"),
        ({"grid": ("game.num_patches=",)}, "there is no value after the ="),
        ({"grid": ("game.num_patches=[1",)}, "the values cannot be read"),
        ({"grid": ("sigma=1,1",)}, "--grid sigma: sigma"),
        ({"grid": ("game.num_patches=1", "game.num_patches=2")}, "names game.num_patches twice"),
        ({"grid": ("sigma=[1,1,1,1],[1.0,1,1,1]",)}, "1, 1, 1, 1 is there twice"),
        ({"grid": ("seed=1,2",)}, "--grid seed: say --seeds"),
        ({"grid": ("linear.data.uri=a,b",)}, "only fields of pretraining can be varied"),
        ({"table": "table2a", "grid": ("game.num_patches=1",)}, "the table varies this field"),
        ({"table": "table2a", "set": ("game.num_patches=1",)}, "the table varies this field"),
        ({"table": "curriculum", "grid": ("curriculum.own_source_from=.5",)}, "is a part of"),
        ({"grid": ("sigma=[1,1,1,1]",), "set": ("sigma=1,1,1,2",)}, "both --grid and --set"),
        ({"table": "table9", "set": ("schedule.lenght=3",)}, "did you mean schedule.length"),
        ({"table": "table9", "set": ("name=x",)}, "--set name: trials are named by"),
        ({"table": "table9", "seeds": 17}, "4 rows × 17 seeds: 68 trials are more than --max"),
        ({"table": "table9", "scores": ("retreival",)}, "did you mean retrieval"),
        ({"table": "table9", "set": ("finetune.data.uri=x",)}, "no score that is asked for has"),
        ({"table": "table9", "scale": "paper", "scores": ("iou",)}, "no videos are held out"),
        ({"table": "table9", "asha": {"metric": "knn_top1"}}, "knn_top1 needs labelled videos"),
        ({"table": "table9", "asha": {"time": "step", "grace": 300}}, "none would be stopped"),
    ],
)  # fmt: skip
def test_what_is_refused(plan_of: MakePlan, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan_of(**fields)


def test_more_trials_may_be_asked_for(plan_of: MakePlan) -> None:
    assert len(plan_of(table="table9", seeds=17, max_trials=68).trials) == 68


def test_more_seeds_and_values_are_no_other_sweep(plan_of: MakePlan) -> None:
    before = plan_of(grid=("game.num_patches=1,2",))
    after = plan_of(grid=("game.num_patches=1,2,3",), seeds=2, max_failures=5, trials_at_once=1,
                    set=("scaling.num_actors=2",))  # fmt: skip
    assert after.differences(before) == []
    assert before.differences(after) == ["num_patches = 3 was asked for before, and is not now",
                                         "seeds was 2, is 1"]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"table": "table2a", "grid": ()}, "table was , is table2a"),
        ({"scale": "small"}, "scale was tiny, is small"),
        ({"grid": ("game.num_patches=1", "head.squeeze=true")}, "what --grid varies was"),
        ({"scores": ("iou",)}, "scores was iou, retrieval, linear, is iou"),
        ({"asha": {"grace": 2}}, "asha was none, is metric iou, time epoch, grace 2"),
        ({"set": ("sigma=1,1,1,1",)}, "sigma was "),
        ({"set": ("linear.head.dropout=0",)}, "linear: head.dropout was 0.5, is 0.0"),
        ({"set": ("embed.data.test_share=0.5",)}, "retrieval: data was"),
    ],
)
def test_another_sweep_is_told_by_what_differs(
    plan_of: MakePlan, fields: dict[str, Any], said: str
) -> None:
    before = plan_of(grid=("game.num_patches=1",))
    after = plan_of(**{"grid": ("game.num_patches=1",)} | fields)
    assert any(line.startswith(said) for line in after.differences(before))
