"""A training step on a device that is not the CPU: what the host sends, and that it never waits.

The device is "meta". It computes shapes alone, so that it needs no GPU, and it raises an error
where the host would read a value from a GPU, for which it would have to wait.
"""

from __future__ import annotations

import collections
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ctp import recipes
from ctp.data.stream import Batch, load_here
from ctp.downstream.classification import open_finetuning
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.training.config import OptimizerConfig
from ctp.training.distributed import Worker
from ctp.training.step import LossTerms, build_optimizer, train_step
from ctp.training.trainer import Learner, TrainingSpec
from ctp.training.transfer import plan_places, to_device, unpack

META = torch.device("meta")
TASKS = {
    **{name: recipes.PRETRAIN[f"ucf101-{name}"] for name in ("memdpc", "moco", "rotation", "vcop")},
    "ctp": recipes.PRETRAIN["ucf101-r3d18"],
    "ctp-cycle": recipes.PRETRAIN["ucf101-r3d18-cycle"],
    "ctp-other-clip": lambda: recipes.ucf101_r3d18().replace(
        task=recipes.ucf101_r3d18().task.replace(patch_source="other_clip")
    ),
    "ctp-official": recipes.PRETRAIN["ucf101-r3d18-official"],
    "speed": recipes.PRETRAIN["ucf101-speed"],
}
"""Name -> a recipe of its task."""


class Operations(TorchDispatchMode):
    """Counts operations by name, while it is active.

    Attributes:
        names: how often there was which operation.
        copies: for each copy to the device, whether the host does not wait for it.
        constants: tensors that were made of Python numbers, which are sent to the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: collections.Counter[str] = collections.Counter()
        self.copies: list[bool] = []
        self.constants = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        result = func(*args, **kwargs)
        self.names[name] += 1
        if name == "lift_fresh" and result.device == META:
            self.constants += 1
        if name == "_to_copy" and args[0].device != result.device:
            self.copies.append(bool(kwargs.get("non_blocking")))
        return result


def small_pretraining(name: str) -> PretrainConfig:
    """Return a run of a task, with a narrow encoder."""
    run = TASKS[name]()
    return run.replace(
        data=run.data.replace(uri="corpus:8", heldout_share=0.0),
        encoder=recipes.SMALL_ENCODER,
        compute=run.compute.replace(precision="fp32", compile=False),
    )


LEARNERS = (*TASKS, "finetune", "attentive")
COMPILED = tuple(each for each in LEARNERS if "-" not in each)
"""Those that are compiled: a minute less of tests."""


def make_spec(name: str) -> TrainingSpec[Any]:
    """Return a run."""
    if name in TASKS:
        return open_pretraining(small_pretraining(name))
    run = recipes.finetune_small()
    run = run.replace(data=run.data.replace(uri="corpus:20"))
    if name == "attentive":
        run = recipes.attentive_probe(run)
    return open_finetuning(run)


def make_learner(spec: TrainingSpec[Any]) -> Learner[Any]:
    """Return the learner of a run on the device."""
    return spec.learner(spec, Worker(device=META), load_here)


def arrays_of(spec: TrainingSpec[Any], learner: Learner[Any], number: int) -> Any:
    """Return what a step needs of `number` samples, whose arrays are zeros."""
    fields = spec.stream.drawer.fields()
    stacked = type(fields)(*(np.zeros((number, *each.shape), each.dtype) for each in fields))
    return learner.inputs(Batch(np.arange(number), stacked, [], []))


class Step:
    """Steps of a learner on the device."""

    def __init__(self, spec: TrainingSpec[Any], number: int):
        self.learner = learner = make_learner(spec)
        self.arrays = arrays_of(spec, learner, number)
        self.parameters = [each for each in learner.model.parameters() if each.requires_grad]
        self.optimizer = build_optimizer(OptimizerConfig(), learner.model)
        self.step = 0

    def loss(self, inputs: Any) -> LossTerms:
        return self.learner.loss(self.learner.model, inputs)

    def __call__(self) -> Operations:
        self.step += 1
        with Operations() as operations:
            inputs = to_device(self.arrays, META)
            train_step(partial(self.loss, inputs), self.parameters, self.optimizer, 0.1)
            self.learner.after_step(self.step)
        return operations


@pytest.mark.parametrize("name", LEARNERS)
def test_a_step_sends_one_buffer_and_the_host_never_waits(name: str) -> None:
    step = Step(make_spec(name), 2)
    step()  # constants are sent once
    operations = step()  # raises an error where the host would wait
    assert operations.copies == [True]
    assert operations.constants == 0
    assert operations.names["convolution"] > 0  # it counts


@pytest.mark.parametrize("name", LEARNERS)
def test_the_number_of_operations_does_not_depend_on_the_number_of_samples(name: str) -> None:
    spec = make_spec(name)
    few, many = Step(spec, 2), Step(spec, 4)
    for step in (few, many):
        step()
    assert few().names == many().names


def test_a_value_that_is_read_and_a_constant_that_is_sent_are_found() -> None:
    with Operations() as operations:
        torch.tensor([1.0], device=META)
    assert operations.constants == 1
    with pytest.raises(RuntimeError), Operations():
        torch.zeros(1, device=META).item()


@pytest.mark.parametrize("name", COMPILED)
def test_the_loss_is_one_graph(name: str) -> None:
    graphs: list[int] = []

    def count(graph: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    torch.compiler.reset()
    step = Step(make_spec(name), 2)
    compiled = torch.compile(step.learner.loss, backend=count, fullgraph=True)
    loss = compiled(step.learner.model, to_device(step.arrays, META))
    assert len(graphs) == 1
    assert loss.total.requires_grad


def test_packed_arrays_are_unpacked_unchanged() -> None:
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 256, (2, 5), np.uint8),
        rng.random((2, 3)) < 0.5,
        rng.random((2, 3), np.float32),
        np.zeros((2, 0, 7), np.uint8),
        rng.random(2),
        np.arange(2),
    ]
    places, size = plan_places(arrays)
    buffer = torch.zeros(size, dtype=torch.uint8)
    for view, array in zip(unpack(buffer, places), arrays, strict=True):
        view.numpy()[...] = array
    for view, array in zip(unpack(buffer.clone(), places), arrays, strict=True):
        assert view.numpy().dtype == array.dtype
        np.testing.assert_array_equal(view.numpy(), array)
