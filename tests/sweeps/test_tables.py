"""The paper's tables as sweeps: their rows, their numbers, and how each row is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ctp import recipes
from ctp.config import merge, unflatten
from ctp.encoders.registry import build_encoder
from ctp.encoders.weights import read_encoder
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.sweeps.folder import Sweep, TrialResult
from ctp.sweeps.plan import Plan
from ctp.sweeps.scores import RetrievalConfig, ScoreRunner
from ctp.sweeps.table import table_markdown
from ctp.training.trainer import TrainingSpec

MakePlan = Callable[..., Plan]
Finished = Callable[..., TrialResult]

PAPER: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "table1": {
        "random weights": (65.0, 30.9),
        "KCF teacher, UCF-101": (70.6, 44.4),
        "cycle consistency, UCF-101": (81.1, 53.3),
        "pre-set ×3, UCF-101": (83.9, 53.6),
        "real annotation, GOT-10k": (77.0, 51.4),
        "pre-set ×1, GOT-10k": (80.4, 49.4),
        "pre-set ×3, GOT-10k": (85.9, 55.7),
    },
    "table2a": {
        "K = 1": (81.7, 49.1), "K = 2": (83.0, 51.9), "K = 3": (82.8, 53.2), "K = 4": (82.2, 54.1),
    },
    "table2b": {
        "R3D-18, MRM off": (82.8, 53.2),
        "R3D-18, MRM on": (84.0, 55.3),
        "R(2+1)D-18, MRM off": (85.1, 55.9),
        "R(2+1)D-18, MRM on": (87.2, 57.8),
    },
    "table3": {
        "R3D-18, random weights": (65.0, 30.9, 39.2),
        "R3D-18, ImageNet, supervised": (79.5, 40.0, 42.9),
        "R3D-18, Kinetics-400, supervised": (91.6, 60.5, 43.3),
        "R3D-18, CtP": (86.2, 57.0, 44.2),
        "R(2+1)D-18, random weights": (67.0, 29.5, 40.6),
        "R(2+1)D-18, Kinetics-400, supervised": (92.7, 64.5, 43.9),
        "R(2+1)D-18, CtP": (88.4, 61.7, 48.3),
    },
    "table4": {
        "random weights": (65.0, 30.9),  # of Table 3
        "MoCo, Kinetics-400": (77.0, 43.4),
        "VCOP, Kinetics-400": (73.3, 41.4),
        "3DRotNet, Kinetics-400": (77.5, 41.4),
        "MemDPC, Kinetics-400": (75.3, 41.2),
        "SpeedNet, Kinetics-400": (83.5, 50.6),
        "CtP, Kinetics-400": (86.2, 57.0),
        "CtP, UCF-101": (83.9, 53.6),
        "CtP, R(2+1)D-18, UCF-101": (86.2, 57.1),
        "CtP, R(2+1)D-18, Kinetics-400": (88.4, 61.7),
    },
    "table5": {
        "CtP, UCF-101": (23.4, 40.9, 11.4, 30.2),
        "CtP, Kinetics-400": (29.0, 47.3, 11.8, 30.1),
    },
    "table6": {"random weights": (64.1, 85.3), "CtP, Kinetics-400": (65.0, 85.7)},
    "table7": {"stride 16": (83.5, 52.5), "stride 8": (83.9, 53.6)},
    "table8": {"no squeeze": (82.9, 52.3), "squeeze": (83.9, 53.6)},
    "table9": {
        "σ .8, .04": (83.9, 53.6), "σ .8, .08": (83.3, 52.9),
        "σ .8, .02": (83.6, 55.0), "σ 1.0, .05": (83.2, 54.8),
    },
    "table10": {
        "speed 1 px": (80.6, 48.6),
        "speed 3 px": (83.9, 53.6),
        "speed 5 px": (83.4, 54.0),
        "speed 15 px": (80.6, 49.3),
        "scale .010": (83.3, 54.3),
        "scale .040": (83.5, 53.2),
        "scale .100": (84.3, 54.2),
    },
}  # fmt: skip
"""Table -> row -> the paper's numbers: UCF-101 and HMDB-51 top-1; of Table 3 also those of
Something-Something-V1; of Table 5 top-1 and top-5 of both; of Table 6 those of Kinetics-400."""


def changed(recipe: str, **options: Any) -> PretrainConfig:
    """Return a recipe with other values of some options, whose dots are written as __."""
    config = recipes.PRETRAIN[recipe]()
    changes = unflatten({name.replace("__", "."): value for name, value in options.items()})
    return config.from_values(merge(type(config), config.model_dump(), changes))


GOT10K = "data/got10k/train"
RUNS: Mapping[str, Mapping[str, PretrainConfig]] = {
    "table1": {
        "KCF teacher, UCF-101": changed("ucf101-r3d18-kcf"),
        "cycle consistency, UCF-101": changed("ucf101-r3d18-cycle"),
        "pre-set ×3, UCF-101": changed("ucf101-r3d18"),
        "real annotation, GOT-10k": changed("got10k-r3d18-annotated"),
        "pre-set ×1, GOT-10k": changed("ucf101-r3d18", data__uri=GOT10K, task__num_patches=1),
        "pre-set ×3, GOT-10k": changed("ucf101-r3d18", data__uri=GOT10K),
    },
    "table2b": {
        f"{title}, MRM {state}": changed(recipe, data__share=0.25, task__hidden_prob=prob)
        for title, recipe in (
            ("R3D-18", "kinetics400-r3d18"),
            ("R(2+1)D-18", "kinetics400-r2plus1d18"),
        )
        for state, prob in (("off", 0.0), ("on", 0.2))
    },
    "table3": {
        "R3D-18, CtP": changed("kinetics400-r3d18"),
        "R(2+1)D-18, CtP": changed("kinetics400-r2plus1d18"),
    },
    "table4": {
        "MoCo, Kinetics-400": changed("kinetics400-moco"),
        "VCOP, Kinetics-400": changed("kinetics400-vcop"),
        "3DRotNet, Kinetics-400": changed("kinetics400-rotation"),
        "MemDPC, Kinetics-400": changed("kinetics400-memdpc"),
        "SpeedNet, Kinetics-400": changed("kinetics400-speed"),
        "CtP, Kinetics-400": changed("kinetics400-r3d18"),
        "CtP, UCF-101": changed("ucf101-r3d18"),
        "CtP, R(2+1)D-18, UCF-101": changed("ucf101-r2plus1d18"),
        "CtP, R(2+1)D-18, Kinetics-400": changed("kinetics400-r2plus1d18"),
    },
    "table5": {
        "CtP, UCF-101": changed("ucf101-r3d18"),
        "CtP, Kinetics-400": changed("kinetics400-r3d18"),
    },
    "table6": {"CtP, Kinetics-400": changed("kinetics400-r3d18")},
}
"""Table -> row that is pretrained -> the paper's run."""


@pytest.mark.parametrize("name", PAPER)
def test_every_row_has_the_papers_numbers(plan_of: MakePlan, name: str) -> None:
    plan = plan_of(table=name, scale="paper")
    columns = plan.ablation.columns.values()
    found = {s.name: tuple(s.paper_percent(*each) for each in columns) for s in plan.settings}
    if name == "table5":  # the paper has no such row
        assert found.pop("random weights") == (None,) * 4
    assert found == PAPER[name]


@pytest.mark.parametrize("name", RUNS)
def test_at_scale_paper_each_row_is_the_papers_run(plan_of: MakePlan, name: str) -> None:
    plan = plan_of(table=name, scale="paper", data="data")
    runs = {setting.name: plan.config_of(setting) for setting in plan.pretrained}
    assert runs.keys() == RUNS[name].keys()
    for row, expected in RUNS[name].items():
        assert str(runs[row].data.uri).endswith(f"/{expected.data.uri}"), row
        assert runs[row].replace(data=expected.data) == expected, row


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("scale", ["tiny", "small"])
def test_at_small_scales_rows_have_the_numbers_of_the_papers(
    plan_of: MakePlan, name: str, scale: str
) -> None:
    """All rows have the same videos; those of KCF are in shards with its boxes."""
    plan = plan_of(table=name, scale=scale)
    numbers = set(PAPER[name].values())
    for setting in plan.settings:
        found = tuple(setting.paper_percent(*each) for each in plan.ablation.columns.values())
        assert found in numbers or not setting.source, setting.name
    sources = {plan.config_of(s).data.uri for s in plan.settings if not s.small_build}
    assert sources == {recipes.PRETRAIN[scale]().data.uri}
    assert {build.source for build in plan.builds} <= sources


@pytest.mark.parametrize("scale", ["tiny", "small"])
def test_the_six_tasks_of_table_4_are_trained_alike(plan_of: MakePlan, scale: str) -> None:
    plan = plan_of(table="table4", scale=scale)
    configs = {setting.key: plan.config_of(setting) for setting in plan.pretrained}
    tasks = {config.task.name for config in configs.values()}
    assert tasks == {"ctp", "moco", "vcop", "rotation", "memdpc", "speed"}
    first = configs["ctp-kinetics400"]
    assert first == recipes.PRETRAIN[scale]().replace(storage=first.storage)
    for key, config in configs.items():
        assert config.replace(task=first.task) == first, key
        assert config.task.augment.frame_size_px == first.task.augment.frame_size_px
        frames = 4 if key == "memdpc" else first.task.sampling.num_frames
        assert config.task.sampling.num_frames == frames


@pytest.mark.parametrize("name", ["table1", "table4"])
def test_every_row_draws_samples_of_generated_videos(plan_of: MakePlan, name: str) -> None:
    """They are long enough for all tasks, and have boxes; those of KCF come with shards."""
    plan = plan_of(table=name, set=("data.uri=corpus:24",))
    for trial in plan.trials:
        if trial.setting.small_build:
            continue
        batch = next(open_pretraining(trial.config).stream.batches(0, 0, 1))
        assert (batch.quarantined, batch.errors) == ([], []), trial.name
        assert len(batch.positions) == 16


def test_table_1_labels_the_videos_of_the_user_by_kcf(plan_of: MakePlan, tmp_path: Path) -> None:
    plan = plan_of(table="table1", set=("data.uri=/videos",))
    (build,) = plan.builds
    assert (build.source, build.teacher) == ("/videos", "kcf")
    runs = {setting.key: plan.config_of(setting) for setting in plan.settings}
    assert runs["kcf"].data.uri == build.out == str(tmp_path / "mine" / "shards" / "kcf")
    others = {run.data.uri for key, run in runs.items() if key != "kcf"}
    assert others == {"/videos"}
    assert plan_of(table="table1", scale="paper").builds == ()
    with pytest.raises(ValueError, match="names 2 sources"):
        plan_of(table="table1", set=("data.uri=/a,/b",))


class KeepEncoder(ScoreRunner):
    """Keeps what is to be scored."""

    def train(self, phase: str, spec: TrainingSpec[Any]) -> None:
        raise AssertionError("retrieval trains nothing")

    def retrieve(self, phase: str, encoder: bytes, config: RetrievalConfig) -> dict[str, float]:
        self.encoder = encoder
        return {}


def test_random_weights_are_scored_without_pretraining(plan_of: MakePlan) -> None:
    """They are of the encoder of the other rows, and each seed has its own."""
    plan = plan_of(table="table4", scores=("retrieval", "finetune"), seeds=2)
    finetune, retrieval = sorted(plan.scores, key=lambda score: score.kind)
    files = []
    for trial in plan.trials:
        if trial.setting.initial:
            runner = KeepEncoder()
            retrieval.compute(trial.encoder, runner)
            files.append(runner.encoder)
            assert trial.encoder.architecture == recipes.tiny().encoder
            assert trial.encoder.source == "random"
    first, second = (read_encoder(each, "random") for each in files)
    weights = {name: value.shape for name, value in first.state_dict().items()}
    own = build_encoder(recipes.tiny().encoder).state_dict()
    assert weights == {name: value.shape for name, value in own.items()}
    key = next(iter(weights))
    assert not first.state_dict()[key].equal(second.state_dict()[key])
    assert finetune.config.encoder is None


def test_supervised_weights_are_of_the_encoder_that_torchvision_has(plan_of: MakePlan) -> None:
    plan = plan_of(table="table3", scale="paper")
    named = {t.name: t.encoder for t in plan.trials if t.encoder.source == "kinetics400"}
    channels = {n: getattr(e.architecture, "middle_channels", "") for n, e in named.items()}
    assert channels == {"r3d-kinetics400-seed0": "", "r2plus1d-kinetics400-seed0": "block"}


def test_the_data_sets_of_all_rows_may_be_in_a_bucket(plan_of: MakePlan) -> None:
    plan = plan_of(table="table1", scale="paper", data="s3://bucket/sets")
    uris = {str(plan.config_of(setting).data.uri) for setting in plan.pretrained}
    names = ("ucf101-kcf", "ucf101", "got10k")
    assert uris == {f"s3://bucket/sets/{name}/train" for name in names}
    assert plan.scores[0].config.data.test_uri == "s3://bucket/sets/ucf101/test"
    with pytest.raises(ValueError, match=r"--set data.uri: the table varies .* by --data"):
        plan_of(table="table1", scale="paper", set=("data.uri=s3://bucket/k400",))


def test_scores_of_different_tasks_are_named(plan_of: MakePlan, finished: Finished) -> None:
    plan = plan_of(table="table4", scores=("task",))
    results = {
        "moco-seed0": finished(retrieved=0.25, chance=0.1),
        "ctp-kinetics400-seed0": finished(iou=0.5, still_iou=0.4),
        "random-seed0": finished(),
    }
    steps = {trial.name: 0 for trial in plan.trials if trial.name not in results}
    text = table_markdown(Sweep(plan, results, steps))
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    cells = {row[1]: row[2:4] for row in rows if len(row) > 3}
    assert cells["MoCo"] == ["1", "clips retrieved 25.0% (10.0%)"]
    assert cells["CtP"] == ["1", "tracking IoU 0.500 (0.400)"]
    assert cells["random weights"] == ["1", ""]
    assert "of MoCo: queue size: 64 here, 65536 in the paper" in text
    assert "pretraining: augment, frame size in px: 48 here, 112 in the paper" in text


def test_different_tasks_cannot_be_compared_while_they_run(plan_of: MakePlan) -> None:
    with pytest.raises(ValueError, match="cannot compare different tasks"):
        plan_of(table="table4", asha={})


def test_top_5_is_beside_the_papers(plan_of: MakePlan, finished: Finished) -> None:
    plan = plan_of(table="table5")
    scores = {"top1": 0.3, "top5": 0.6, "chance1": 0.1, "chance5": 0.4}
    result = finished(**{f"retrieval__{name}": value for name, value in scores.items()})
    text = table_markdown(Sweep(plan, {"ctp-kinetics400-seed0": result}, {}))
    assert "| CtP | 1 | 30.0% (10.0%) | 60.0% (40.0%) | 29.0% | 47.3% | 11.8% | 30.1% |" in text
