"""An encoder that is defined and registered here alone works wherever an encoder is taken."""

import io
from typing import Literal

import pytest
import torch
from torch import nn

from ctp.downstream.classification import Classifier
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.gradcam import explain
from ctp.downstream.initial import resolve_encoder
from ctp.downstream.track_config import TrackConfig
from ctp.encoders.config import EncoderConfig
from ctp.encoders.encoder import Encoder
from ctp.encoders.export import export_program
from ctp.encoders.initial import load_initial_weights, with_norm_eps_of
from ctp.encoders.registry import ENCODERS, build_encoder
from ctp.encoders.weights import encoder_bytes, load_encoder, stored_config
from ctp.pretext.config import PretrainConfig
from ctp.pretext.ctp.config import HeadConfig
from ctp.pretext.ctp.head import TrackHead
from ctp.pretext.ctp.tracker import Tracker


class ToyConfig(EncoderConfig):
    name: Literal["toy"] = "toy"
    channels: int = 6


class Toy(Encoder):
    """Two convolutions: T/2, H/8 and W/8, or H/16 and W/16."""

    Config = ToyConfig
    stages = ("front", "back")
    checkpoint_names = ((r"^first\.", "front."),)

    def __init__(self, config):
        super().__init__(config)
        side, channels = config.spatial_stride // 4, config.channels
        self.out_channels, self.stride = channels, (2, config.spatial_stride, config.spatial_stride)
        self.front = nn.Sequential(
            nn.Conv3d(3, 4, (1, 5, 5), (1, 4, 4), (0, 2, 2)), nn.BatchNorm3d(4), nn.ReLU()
        )
        self.back = nn.Conv3d(4, channels, 3, (2, side, side), 1)
        self.set_norm_eps(config.norm_eps)

    def forward(self, clips):
        return self.back(self.front(clips))


CLIPS = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
QUERIES = torch.tensor([[[4.0, 4, 20, 16]], [[8, 2, 30, 28]]])
SIGMA = (0.8, 0.8, 0.04, 0.04)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(ENCODERS, "toy", Toy)


def trained_toy():
    toy = build_encoder(ToyConfig(norm_eps=0.01))
    toy(CLIPS)  # moves the running statistics
    return toy


@pytest.mark.parametrize(
    ("run", "field"),
    [
        (PretrainConfig, "encoder"),
        (FinetuneConfig, "encoder"),
        (TrackConfig, "encoder"),
        (EmbedConfig, "architecture"),
    ],
)
def test_it_is_chosen_by_name_in_every_config(run, field):
    config = run.model_validate({field: {"name": "toy", "channels": 5}})
    assert getattr(config, field) == ToyConfig(channels=5)
    assert run.model_validate_json(config.model_dump_json()) == config
    assert isinstance(build_encoder(getattr(config, field)), Toy)
    with pytest.raises(ValueError, match="width"):
        run.model_validate({field: {"name": "toy", "width": 8}})


@torch.no_grad()
def test_its_file_is_read_back(tmp_path):
    toy = trained_toy()
    data = encoder_bytes(toy, {})
    (tmp_path / "encoder.safetensors").write_bytes(data)
    assert stored_config(data, "it") == toy.config
    loaded = load_encoder(str(tmp_path))
    assert isinstance(loaded, Toy)
    assert torch.equal(loaded(CLIPS), toy.eval()(CLIPS))
    expected = toy.config.replace(spatial_stride=16)
    assert resolve_encoder(None, str(tmp_path / "encoder.safetensors"), 16) == expected


def test_a_checkpoint_under_other_names_is_renamed(tmp_path):
    toy, uri = trained_toy(), str(tmp_path / "theirs.pth")
    state = {key.replace("front.", "first."): value for key, value in toy.state_dict().items()}
    torch.save({f"backbone.{key}": value for key, value in state.items()}, uri)
    loaded = build_encoder(ToyConfig(norm_eps=0.5))
    load_initial_weights(loaded, uri)
    assert loaded.config == with_norm_eps_of(uri, ToyConfig(norm_eps=0.5)) == ToyConfig()
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, toy.state_dict()[key]), key


def test_it_has_no_published_weights():
    with pytest.raises(ValueError, match="kinetics400 weights do not fit toy"):
        load_initial_weights(build_encoder(ToyConfig()), "kinetics400")


def test_the_head_reads_its_sizes():
    toy = build_encoder(ToyConfig())
    head = TrackHead(HeadConfig(hidden_channels=8, squeeze=False), toy, num_frames=7)
    assert head.spatial_scale == 1 / 8
    assert head.mlp[0].in_features == 6 * 4 * 25  # channels, ⌈7/2⌉ frames, cells


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_tracker_trains_the_stages_that_are_not_frozen(number):
    encoder = build_encoder(ToyConfig())
    encoder.freeze_stages(number)
    model = Tracker(encoder, HeadConfig(hidden_channels=8), 8, SIGMA)
    before = {key: value.clone() for key, value in model.encoder.state_dict().items()}
    trained = [each for each in model.parameters() if each.requires_grad]
    (model.train()(CLIPS, QUERIES) - 1).square().sum().backward()
    torch.optim.SGD(trained, lr=1.0).step()
    changed = {
        key.partition(".")[0]
        for key, value in model.encoder.state_dict().items()
        if not torch.equal(value, before[key])
    }
    assert changed == set(Toy.stages[number:])


def test_more_stages_than_it_has_cannot_be_frozen():
    with pytest.raises(ValueError, match="3 frozen stages, but Toy has 2: front, back"):
        build_encoder(ToyConfig()).freeze_stages(3)


def test_grad_cam_explains_its_last_stage():
    model = Classifier(build_encoder(ToyConfig()), num_classes=3)
    explanation = explain(model, CLIPS[:1], target=1)
    assert explanation.cam.shape == (8, 32, 32)


@torch.no_grad()
def test_its_program_gives_its_features():
    toy = trained_toy()
    exported = export_program(toy, (8, 32, 32), "off")
    assert exported.feature_shape == (6, 4, 4, 4)
    program = torch.export.load(io.BytesIO(exported.data)).module()
    torch.testing.assert_close(program(CLIPS), toy.eval()(CLIPS))
