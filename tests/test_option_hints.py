"""Names of other programs' options: the error names ours, with the user's value."""

import re

import pytest

from ctp.config import options
from ctp.option_hints import COMMON_NAMES, describe_unknown
from ctp.recipes import BUILD, EMBED, FINETUNE, PRETRAIN, TRACK

RECIPES = {
    "pretrain": PRETRAIN["tiny"],
    "finetune": FINETUNE["ucf101"],
    "track": TRACK["got10k"],
    "embed": EMBED["retrieval"],
    "build_shards": BUILD["training"],
}


def names_of(job: str) -> list[str]:
    config = RECIPES[job]()
    return [f"--{option.name}" for option in options(type(config), config.model_dump())]


@pytest.mark.parametrize(
    ("job", "words", "written"),
    [
        ("pretrain", "--lr 0.1", "--optimizer.learning_rate 0.1"),
        ("pretrain", "--epochs=3", "--schedule.unit epochs --schedule.length 3"),
        ("pretrain", "--batch-size 64", "--compute.total_batch 64"),
        ("pretrain", "--batch_size 64", "--compute.total_batch 64"),
        ("pretrain", "--gpus 4", "--scaling.use_gpu true --scaling.num_workers 4"),
        ("embed", "--gpus 4", "--scaling.use_gpu true --scaling.num_encoders 4"),
        ("pretrain", "--workers 8", "--scaling.num_actors 8"),
        ("embed", "--workers 8", "--scaling.num_readers 8"),
        ("build_shards", "--workers 8", "--num_tasks 8"),
        ("pretrain", "--data my/videos", "--data.uri my/videos"),
        ("build_shards", "--data my/videos", "--source my/videos"),
        ("pretrain", "--output runs/a", "--storage FOLDER --name NAME"),
        ("embed", "--output runs/a", "--out runs/a"),
        ("finetune", "--weights a.pth", "--initial a.pth"),
        ("pretrain", "--weights a.pth", "--initial_encoder a.pth"),
        ("finetune", "--test-uri v", "--data.test_uri v"),
        ("track", "--frozen-stages 2", "--frozen_stages 2"),
        ("pretrain", "--uri v", "--data.uri v or --knn.uri v"),
        ("pretrain", "--lr", "--optimizer.learning_rate VALUE"),
    ],
)
def test_the_option_that_is_meant_is_written_with_its_value(
    job: str, words: str, written: str
) -> None:
    hint = describe_unknown(words.split(), names_of(job))
    option = words.replace("=", " ").split()[0]
    assert hint.startswith(f"there is no option {option} (write {written}")


def test_all_unknown_options_are_reported_at_once() -> None:
    words = ["--lr", "1", "--seed", "3", "--epochs", "4", "--schedule.lenght", "-5", "--zzz"]
    lines = describe_unknown(words, names_of("pretrain")).splitlines()
    assert [line.split()[4] for line in lines] == ["--lr", "--epochs", "--schedule.lenght", "--zzz"]
    assert "did you mean --schedule.length?" in lines[2]


def test_a_section_is_known_with_its_values_only() -> None:
    names, sections = names_of("pretrain"), ["--data"]
    assert not describe_unknown(["--data", '{"uri": "v"}'], names, sections)
    assert describe_unknown(["--data", "v"], names, sections)


def test_every_option_that_a_hint_names_exists_in_some_job() -> None:
    exist = {name for job in RECIPES for name in names_of(job)} | {
        "--use_gpu",  # of retrieve
        "--uri",  # of gradcam
        "--ray.total_batch",  # of bench
        "--step.clips",
    }
    hints = [text for texts in COMMON_NAMES.values() for text in texts]
    assert {name for text in hints for name in re.findall(r"--[\w.]+", text)} <= exist
