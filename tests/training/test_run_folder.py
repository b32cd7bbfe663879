"""A run folder whose config was written by another version of ctp."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import yaml

from ctp.cli import CommandLine
from ctp.pretext.config import PretrainConfig
from ctp.recipes import PRETRAIN
from ctp.storage import Storage
from ctp.training.checkpoint import TrainState
from ctp.training.run_folder import (
    CONFIG,
    checkpoint_store,
    create_or_resume,
    folder_of,
    is_finished,
    read_config,
    with_stored_defaults,
)
from ctp.versions import FORMAT_VERSION, written_by

WRITER = {"ctp": "0.9.1", "commit": "abc1234", "torch": "3.1", "ray": "2.99"}


@pytest.fixture
def begun(small_run: PretrainConfig) -> PretrainConfig:
    """A run with a checkpoint, of the recipe tiny."""
    config = small_run.replace(recipe="tiny")
    create_or_resume(config)
    store = checkpoint_store(config)
    store.save(TrainState(2, {}, {}, "{}", ""))
    store.close()
    return config


def change_file(config: PretrainConfig, change: Callable[[dict[str, Any]], object]) -> Storage:
    """Change the values in a run's config.yaml, as if another version had written it."""
    place = folder_of(config).join(CONFIG)
    values = yaml.safe_load(place.read_bytes()) | {"written_by": WRITER}
    change(values)
    place.write_bytes(yaml.safe_dump(values).encode())
    return place


def test_the_config_names_its_format_and_the_versions_that_wrote_it(
    begun: PretrainConfig,
) -> None:
    values: Mapping[str, Any] = yaml.safe_load(folder_of(begun).join(CONFIG).read_bytes())
    assert values["format_version"] == FORMAT_VERSION
    assert values["written_by"] == written_by()
    assert read_config(folder_of(begun), PretrainConfig) == begun


def test_a_config_of_before_there_were_versions_resumes(begun: PretrainConfig) -> None:
    def drop(values: dict[str, Any]) -> None:
        for name in ("format_version", "written_by", "recipe"):
            del values[name]

    change_file(begun, drop)
    assert create_or_resume(begun) is True


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda v: v["task"].update(patches=3), ["task.patches"]),
        (lambda v: v.update(speed=2), ["speed"]),
        (lambda v: v["optimizer"].pop("weight_decay"), ["optimizer.weight_decay"]),
        (
            lambda v: v["task"].update(num_patchs=v["task"].pop("num_patches")),
            ["task.num_patchs", "did you mean task.num_patches", "no value of task.num_patches"],
        ),
        (lambda v: v.pop("schedule"), ["schedule.length", "schedule.unit"]),
        (lambda v: v.update(format_version=99), ["99"]),
    ],
    ids=["unknown", "unknown at the top", "missing", "renamed", "a section", "a later format"],
)
def test_fields_of_another_version_are_one_error_that_names_them(
    begun: PretrainConfig, change: Callable[[dict[str, Any]], object], expected: list[str]
) -> None:
    place = change_file(begun, change)
    for use in (create_or_resume, lambda c: with_stored_defaults(c, ())):
        with pytest.raises(ValueError, match="written by") as error:
            use(begun)
        for part in (place.uri, "ctp 0.9.1 (commit abc1234)", *expected):
            assert part in str(error.value)
        assert "\n" not in str(error.value)


def test_a_reader_that_does_not_continue_takes_defaults_for_what_is_missing(
    begun: PretrainConfig,
) -> None:
    change_file(begun, lambda values: values["optimizer"].pop("weight_decay"))
    assert read_config(folder_of(begun), PretrainConfig, may_lack=True) == begun
    change_file(begun, lambda values: values.update(speed=2))
    with pytest.raises(ValueError, match=r"no option speed.*ctp 0\.9\.1"):
        read_config(folder_of(begun), PretrainConfig, may_lack=True)


def test_an_option_that_never_shaped_the_result_may_have_gone(begun: PretrainConfig) -> None:
    def change(values: dict[str, Any]) -> None:
        values["scaling"]["threads"] = 4
        values["scaling"]["num_actors"] = 3

    change_file(begun, change)
    stored = read_config(folder_of(begun), PretrainConfig)
    assert stored == begun.replace(scaling=begun.scaling.replace(num_actors=3))
    change_file(begun, lambda values: values["optimizer"].update(momentum=0.8))
    with pytest.raises(ValueError, match=r"no option optimizer\.momentum") as error:
        read_config(folder_of(begun), PretrainConfig)
    assert "threads" not in str(error.value)


class TestChangedDefault:
    """The run was started when weight_decay and the task's number of patches had other defaults."""

    @pytest.fixture
    def before(self, begun: PretrainConfig) -> PretrainConfig:
        def change(values: dict[str, Any]) -> None:
            values["optimizer"]["weight_decay"] = 0.25
            values["task"]["num_patches"] = 1
            values["log_every_steps"] = 77

        change_file(begun, change)
        return read_config(folder_of(begun), PretrainConfig)

    def test_the_same_command_resumes_with_the_stored_values_and_says_so(
        self, begun: PretrainConfig, before: PretrainConfig, capsys: pytest.CaptureFixture[str]
    ) -> None:
        resumed = with_stored_defaults(begun, ["data.uri", "schedule.length"])
        assert resumed == before.replace(log_every_steps=begun.log_every_steps)
        assert create_or_resume(resumed) is True
        said = capsys.readouterr().out
        assert "optimizer.weight_decay stays 0.25" in said
        assert "task.num_patches stays 1" in said
        assert len(said.splitlines()) == 2

    @pytest.mark.parametrize("given", ["optimizer.weight_decay", "optimizer"])
    def test_a_value_that_the_user_gave_is_refused(
        self, begun: PretrainConfig, before: PretrainConfig, given: str
    ) -> None:
        resumed = with_stored_defaults(begun, [given])
        with pytest.raises(ValueError, match=r"weight_decay was 0\.25, is 0\.0001") as error:
            create_or_resume(resumed)
        assert "num_patches" not in str(error.value)

    def test_another_recipe_is_refused(self, begun: PretrainConfig, before: PretrainConfig) -> None:
        other = begun.replace(recipe="small")
        with pytest.raises(ValueError, match=r"num_patches was 1, is 2"):
            create_or_resume(with_stored_defaults(other, []))

    def test_a_run_of_a_new_name_has_the_new_defaults(
        self, begun: PretrainConfig, before: PretrainConfig
    ) -> None:
        other = begun.replace(name="other")
        assert with_stored_defaults(other, []) == other

    def test_a_finished_run_is_finished(
        self, begun: PretrainConfig, before: PretrainConfig
    ) -> None:
        folder_of(begun).join(begun.RESULT).write_bytes(b"the encoder")
        assert is_finished(with_stored_defaults(begun, []))
        with pytest.raises(ValueError, match=r"seed was 0, is 3"):
            is_finished(with_stored_defaults(begun.replace(seed=3), ["seed"]))


def test_another_task_by_name_is_refused_with_its_name(begun: PretrainConfig) -> None:
    change_file(begun, lambda values: values["optimizer"].update(weight_decay=0.25))
    command = CommandLine(PRETRAIN, "tiny", "")
    _, config = command.parse(["--encoder=r2plus1d", f"--storage={begun.storage}", "--name=run"])
    assert command.given == {"encoder.name", "storage", "name"}
    resumed = with_stored_defaults(config.replace(recipe="tiny"), command.given)
    with pytest.raises(ValueError, match=r"encoder\.name was 'r3d', is 'r2plus1d'"):
        create_or_resume(resumed)


def test_a_manifest_without_its_state_is_skipped_with_a_warning(
    begun: PretrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    store = checkpoint_store(begun)
    store.save(TrainState(4, {}, {}, "{}", ""))
    store.close()
    folder_of(begun).join("checkpoints", "step-000000004", "state.pt").delete_file()
    assert create_or_resume(begun) is True
    said = capsys.readouterr().out
    assert "warning" in said
    assert "step-000000004" in said
    assert checkpoint_store(begun).newest() == "step-000000002"
