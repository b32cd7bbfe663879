"""What every registered encoder can do, at small sizes."""

import copy
import io
import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet50
from torchvision.models.video import s3d
from torchvision.models.video.swin_transformer import PatchMerging, SwinTransformer3d

from ctp.data.stream import load_here
from ctp.downstream.classification import Classifier, open_finetuning, resolve
from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.gradcam import explain
from ctp.downstream.initial import resolve_encoder
from ctp.downstream.knn import knn_score
from ctp.downstream.labels import LabeledVideos, open_labeled
from ctp.encoders.config import (
    C3dConfig,
    R2plus1dConfig,
    R3dConfig,
    S3dConfig,
    Swin3dConfig,
    TsmConfig,
    VitConfig,
)
from ctp.encoders.export import export_program
from ctp.encoders.initial import load_initial_weights, with_norm_eps_of
from ctp.encoders.registry import ENCODERS, build_encoder
from ctp.encoders.swin3d import DensePatchMerging
from ctp.encoders.weights import encoder_bytes, load_encoder, read_encoder
from ctp.pretext.ctp.config import HeadConfig
from ctp.pretext.ctp.tracker import Tracker
from ctp.pretext.pretraining import open_pretraining
from ctp.training.run_folder import folder_of

SMALL = {
    "r3d": R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1)),
    "r2plus1d": R2plus1dConfig(width=4, blocks_per_stage=(1, 1, 1, 1)),
    "c3d": C3dConfig(width=4),
    "tsm": TsmConfig(width=8),
    "s3d": S3dConfig(),
    "swin3d_t": Swin3dConfig(width=32),
    "vit": VitConfig(size="Ti"),
}
STRIDES = {  # in time, and in space where 8 and where 16 are asked for
    "r3d": (8, 8, 16),
    "r2plus1d": (8, 8, 16),
    "c3d": (8, 8, 16),
    "tsm": (1, 8, 16),
    "s3d": (8, 8, 16),
    "swin3d_t": (2, 8, 16),
    "vit": (2, 16, 16),
}
WITHOUT_BATCH_NORM = {"swin3d_t", "vit"}


def clips(*shape, seed=3):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomised(net, seed=0):
    """The net with every norm's weights and statistics changed, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for part in net.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
            part.bias.data.uniform_(-0.5, 0.5, generator=generator)
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.uniform_(-0.1, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
    return net.eval()


@pytest.fixture(scope="module")
def built():
    """One of each, built once, with running statistics that have moved."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {name: randomised(build_encoder(config)) for name, config in SMALL.items()}


@pytest.fixture
def encoder(built, name):
    """A copy, in evaluation mode."""
    return copy.deepcopy(built[name])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch.hub's folder of weights, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_all_are_here():
    assert SMALL.keys() == STRIDES.keys() == ENCODERS.keys()


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_features_have_the_sizes_it_states_for_any_clip(encoder, name):
    time, *sides = STRIDES[name]
    data = encoder_bytes(encoder, {})
    for asked, side in zip((8, 16), sides, strict=True):
        encoder = read_encoder(data, "it", spatial_stride=asked)
        assert encoder.stride == (time, side, side)
        for size in [(8, 32, 16), (5, 17, 33)]:
            features = encoder(clips(1, 3, *size))
            expected = [-(-n // by) for n, by in zip(size, encoder.stride, strict=True)]
            assert features.shape == (1, encoder.out_channels, *expected)
            assert features.std() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_it_draws_nothing_in_training(encoder, name):
    # else a run would depend on the number of workers, and on where it was interrupted
    before, clip = torch.get_rng_state(), clips(2, 3, 4, 32, 32)
    assert torch.equal(encoder.train()(clip), encoder(clip))
    assert torch.equal(torch.get_rng_state(), before)


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_its_file_holds_all_of_it(encoder, name):
    clip = clips(1, 3, 8, 32, 32)
    assert all(encoder.owns(key) for key in encoder.state_dict())
    loaded = read_encoder(encoder_bytes(encoder, {}), "it")
    assert loaded.config == encoder.config
    assert torch.equal(loaded(clip), encoder(clip))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("number", [1, -1])
def test_a_tracker_trains_the_stages_that_are_not_frozen(encoder, name, number):
    number %= len(encoder.stages)
    encoder.freeze_stages(number)
    model = Tracker(encoder, HeadConfig(hidden_channels=8), 8, (0.8, 0.8, 0.04, 0.04)).train()
    for part in model.head.mlp:  # else nearly no gradient passes it at first
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.1)
    before = {key: value.clone() for key, value in encoder.named_parameters()}
    queries = torch.tensor([[[4.0, 4, 20, 16]], [[8, 2, 30, 28]]])
    (model(clips(2, 3, 8, 32, 32), queries) - 1).square().sum().backward()
    trained = [each for each in model.parameters() if each.requires_grad]
    torch.optim.SGD(trained, lr=0.1).step()
    changed = {key for key, value in encoder.named_parameters() if not value.equal(before[key])}
    frozen = tuple(f"{stage}." for stage in encoder.stages[:number])
    kept = {key for key in before if key.startswith(frozen)}
    assert changed.isdisjoint(kept)
    moved = {
        stage for stage in encoder.stages if any(key.startswith(f"{stage}.") for key in changed)
    }
    assert moved == set(encoder.stages[number:])


@pytest.mark.parametrize("name", SMALL)
def test_grad_cam_and_a_classifier_take_it(encoder, name):
    explanation = explain(Classifier(encoder, num_classes=3), clips(1, 3, 8, 32, 32), 1)
    assert explanation.cam.shape == explanation.guided.shape == (8, 32, 32)
    assert explanation.guided.max() > 0 or explanation.cam.max() == 0


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_its_program_gives_its_features(encoder, name):
    clip = clips(3, 3, 8, 32, 32)
    exported = export_program(encoder, (8, 32, 32), "off")
    program = torch.export.load(io.BytesIO(exported.data)).module()
    torch.testing.assert_close(program(clip), encoder(clip), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_the_epsilon_of_batch_norms_follows_the_config(encoder, name):
    clip = clips(1, 3, 8, 32, 32)
    before = encoder(clip)
    encoder.set_norm_eps(0.5)
    assert encoder.config.norm_eps == 0.5
    assert torch.equal(encoder(clip), before) == (name in WITHOUT_BATCH_NORM)


@pytest.mark.parametrize("name", ["r3d", "r2plus1d", "c3d"])
def test_a_stride_it_cannot_have_is_refused(name):
    with pytest.raises(ValueError, match="spatial_stride"):
        SMALL[name].replace(spatial_stride=32)


def test_a_vit_has_the_stride_of_its_patch():
    fine = VitConfig(size="Ti", patch=8)
    assert resolve_encoder(fine, "random", 16) == fine
    encoder = build_encoder(fine)
    assert encoder.stride == (2, 8, 8)
    assert encoder(clips(1, 3, 4, 16, 16)).shape == (1, 192, 2, 2, 2)


@torch.no_grad()
def test_s3d_is_torchvisions_for_the_same_weights(hub):
    theirs = randomised(s3d(weights=None))
    torch.save(theirs.state_dict(), hub / "s3d-d76dad2f.pth")
    config = S3dConfig(spatial_stride=32, norm_eps=0.1)
    encoder = build_encoder(config)
    assert "left out: classifier" in load_initial_weights(encoder, "kinetics400")
    assert encoder.config == with_norm_eps_of("kinetics400", config)
    clip = clips(1, 3, 16, 64, 64)
    torch.testing.assert_close(encoder.eval()(clip), theirs.features(clip), rtol=1e-4, atol=1e-4)
    # beside it, the same layers with other pools
    theirs.features[13] = nn.MaxPool3d((2, 1, 1))
    dense = read_encoder(encoder_bytes(encoder, {}), "it", spatial_stride=16)
    torch.testing.assert_close(dense(clip), theirs.features(clip), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_swin_is_torchvisions_for_the_same_weights():
    theirs = randomised(
        SwinTransformer3d([2, 4, 4], 32, [2, 2, 6, 2], [1, 2, 4, 8], [8, 7, 7], num_classes=2)
    )
    encoder = build_encoder(Swin3dConfig(width=32, spatial_stride=32)).eval()
    unmatched = encoder.load_state_dict(theirs.state_dict(), strict=False)
    assert unmatched.missing_keys == []
    assert unmatched.unexpected_keys == ["head.weight", "head.bias"]
    clip = clips(2, 3, 8, 64, 96)
    pooled = encoder(clip).mean(dim=(2, 3, 4))
    torch.testing.assert_close(theirs.head(pooled), theirs(clip), rtol=1e-4, atol=1e-4)


def test_swin_t_has_the_weights_that_torchvision_publishes():
    from torchvision.models.video import swin3d_t

    with torch.device("meta"):
        theirs, encoder = swin3d_t(weights=None), build_encoder(Swin3dConfig())
    expected = {key: value.shape for key, value in theirs.state_dict().items()}
    del expected["head.weight"], expected["head.bias"]
    assert {key: value.shape for key, value in encoder.state_dict().items()} == expected


@torch.no_grad()
def test_dense_merging_has_the_sparse_one_at_every_second_patch():
    merging, patches = PatchMerging(4), clips(2, 3, 6, 8, 4)
    dense = DensePatchMerging(4)
    dense.load_state_dict(merging.state_dict())
    merged = dense(patches)
    assert merged.shape == (2, 3, 6, 8, 8)
    torch.testing.assert_close(merged[:, :, ::2, ::2], merging(patches))


def shift_in_frames(frames, clip_length):
    """Shift [B·T, C, H, W] as TSM does, frame by frame and channel by channel."""
    shifted, eighth = frames.clone(), frames.shape[1] // 8
    for index in range(len(frames)):
        moment = index % clip_length
        for channel in range(2 * eighth):
            step = 1 if channel < eighth else -1
            inside = 0 <= moment + step < clip_length
            shifted[index, channel] = frames[index + step, channel] if inside else 0
    return shifted


@torch.no_grad()
@pytest.mark.parametrize(
    ("depth", "make", "file"),
    [(18, resnet18, "resnet18-f37072fd.pth"), (50, resnet50, "resnet50-0676ba61.pth")],
)
def test_tsm_is_the_image_net_on_shifted_frames(hub, depth, make, file):
    theirs = randomised(make(weights=None))
    torch.save(theirs.state_dict(), hub / file)
    encoder = build_encoder(TsmConfig(depth=depth, spatial_stride=32))
    assert "left out: fc" in load_initial_weights(encoder, "imagenet")
    encoder.eval()
    clip = clips(2, 3, 4, 64, 64)
    frames = clip.transpose(1, 2).flatten(0, 1)

    def features_of(net):
        return nn.Sequential(*list(net.children())[:-2])(frames)

    still = features_of(theirs)
    for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        for block in stage:
            block.conv1.register_forward_pre_hook(lambda _, args: shift_in_frames(args[0], 4))
    expected = features_of(theirs)
    assert (expected - still).abs().max() > 0.1 * expected.abs().max()
    features = encoder(clip).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3 * float(expected.max()))


@torch.no_grad()
def test_tsm_of_one_frame_has_no_other_to_look_at():
    encoder = build_encoder(SMALL["tsm"]).eval()
    assert encoder(clips(1, 3, 1, 32, 32)).shape == (1, 64, 1, 4, 4)


class TheirAttention(nn.Module):
    """Attention as VideoMAE's paper and its checkpoints have it."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q_bias, self.v_bias = (nn.Parameter(torch.randn(width) / 10) for _ in range(2))
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x):
        query, key, value = self.qkv(x).chunk(3, dim=2)
        parts = (query + self.q_bias, key, value + self.v_bias)
        heads = zip(*(part.chunk(self.heads, dim=2) for part in parts), strict=True)
        out = [(q @ k.mT / q.shape[2] ** 0.5).softmax(dim=2) @ v for q, k, v in heads]
        return self.proj(torch.cat(out, dim=2))


class TheirVit(nn.Module):
    def __init__(self, width=192, heads=3):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, width, (2, 16, 16), (2, 16, 16))})
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width, eps=1e-6),
                    "attn": TheirAttention(width, heads),
                    "norm2": nn.LayerNorm(width, eps=1e-6),
                    "mlp": nn.ModuleDict(
                        {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
                    ),
                }
            )
            for _ in range(12)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, clip):
        x = self.patch_embed["proj"](clip).flatten(2).mT
        for position in range(x.shape[1]):
            for channel in range(x.shape[2]):
                angle = torch.tensor(position / 10_000 ** (channel // 2 * 2 / x.shape[2]))
                x[:, position, channel] += angle.cos() if channel % 2 else angle.sin()
        for block in self.blocks:
            x = x + block["attn"](block["norm1"](x))
            hidden = nn.functional.gelu(block["mlp"]["fc1"](block["norm2"](x)))
            x = x + block["mlp"]["fc2"](hidden)
        return self.norm(x)


@torch.no_grad()
def test_vit_is_videomaes_for_its_checkpoints(tmp_path):
    theirs = randomised(TheirVit())
    clip = clips(2, 3, 4, 32, 48)
    expected = theirs(clip)
    state = theirs.state_dict()
    pretrained = {f"encoder.{key}": value for key, value in state.items()}
    others = ("mask_token", "encoder_to_decoder.weight", "decoder.norm.bias")
    pretrained |= {key: torch.zeros(1) for key in others}
    tuned = {
        key.replace("norm.", "fc_norm.") if key.startswith("norm.") else key: value
        for key, value in state.items()
    }
    tuned |= {"head.weight": torch.zeros(2), "head.bias": torch.zeros(2)}
    files = {
        "pretrained": {"model": pretrained, "epoch": 1600, "args": Namespace(model="vit", lr=1e-3)},
        "tuned": {"module": tuned},
    }
    for name, held in files.items():
        uri = str(tmp_path / f"{name}.pth")
        torch.save(held, uri)
        encoder = build_encoder(VitConfig(size="Ti"))
        message = load_initial_weights(encoder, uri)
        assert message.endswith(
            "left out: decoder.norm, encoder_to_decoder, mask_token"
            if name == "pretrained"
            else "left out: head"
        )
        features = encoder.eval()(clip)
        assert features.shape == (2, 192, 2, 2, 3)
        torch.testing.assert_close(features.flatten(2).mT, expected, rtol=1e-4, atol=1e-4)


def test_vit_b_has_the_weights_of_videomaes():
    with torch.device("meta"):
        theirs, encoder = TheirVit(768, 12), build_encoder(VitConfig(size="B"))
    expected = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in encoder.state_dict().items()} == expected


@pytest.mark.parametrize("name", SMALL)
def test_it_pretrains_and_its_result_is_fine_tuned_and_embeds(
    name, small_run, finetuning, train_alone
):
    one_step = {"schedule": {"unit": "steps", "length": 1, "decay_at": ()}}
    config = small_run.replace(encoder=SMALL[name], evaluation={"num_clips": 1}, **one_step)
    train_alone(open_pretraining(config))
    pretrained = load_encoder(folder_of(config).uri)
    assert pretrained.config == SMALL[name]

    tuning = resolve(finetuning.replace(initial=folder_of(config).uri, encoder=None, **one_step))
    assert tuning.encoder == SMALL[name].replace(spatial_stride=16)
    spec = open_finetuning(tuning)
    train_alone(spec)
    scores = json.loads(folder_of(tuning).join("scores.json").read_bytes())
    assert scores["tested"] == len(spec.evaluation.catalog)
    tuned = load_encoder(folder_of(tuning).uri)
    moved = [not tuned.get_parameter(key).equal(p) for key, p in pretrained.named_parameters()]
    assert sum(moved) > len(moved) / 2

    videos = open_labeled(finetuning.data, 0)
    train, test = videos.train.select(np.arange(2)), videos.test.select(np.arange(1))
    few = LabeledVideos(videos.classes, train, test)
    embedding = EmbedConfig(views=finetuning.views)
    found = knn_score(encoder_bytes(tuned, {}), embedding, few, 1, load_here)
    assert (found["knn_tested"], found["knn_quarantined"]) == (1, 0)
