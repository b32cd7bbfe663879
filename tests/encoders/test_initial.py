"""Initial weights, held to the nets that they were made for."""

import io
import urllib.request
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.video import r2plus1d_18, r3d_18

from ctp.encoders.config import R2plus1dConfig, R3dConfig
from ctp.encoders.initial import load_initial_weights, with_norm_eps_of
from ctp.encoders.registry import build_encoder
from ctp.encoders.resnet3d import R3d
from ctp.encoders.weights import encoder_bytes
from ctp.storage import Storage, StorageError

SMALL = R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1))
SMALL_2PLUS1 = R2plus1dConfig(width=4, blocks_per_stage=(1, 1, 1, 1))
KINETICS = {
    "r3d": (r3d_18, "r3d_18-b3b3357e.pth"),
    "r2plus1d": (r2plus1d_18, "r2plus1d_18-91a641e6.pth"),
}
IMAGES = "resnet18-f37072fd.pth"


def per_convolution(block, inside, outside):
    """Middle channels as the authors and the paper of R(2+1)D reckon them."""
    return 27 * inside * outside // (9 * inside + 3 * outside)


def per_block(block, inside, outside):
    """Middle channels as torchvision reckons them."""
    return per_convolution(block, *block)


class TheirConv(nn.Sequential):
    """A convolution of the authors' nets under their names."""

    def __init__(self, inside, outside, middle, kernel, stride):
        def conv(inside, outside, kernel, stride):
            padding = [side // 2 for side in kernel]
            return nn.Conv3d(inside, outside, kernel, stride, padding, bias=False)

        if middle is None:
            parts = {"conv": conv(inside, outside, kernel, stride)}
        else:
            parts = {
                "conv_s": conv(inside, middle, (1, *kernel[1:]), (1, *stride[1:])),
                "bn_s": nn.BatchNorm3d(middle, eps=1e-3),
                "relu_s": nn.ReLU(),
                "conv_t": conv(middle, outside, (kernel[0], 1, 1), (stride[0], 1, 1)),
            }
        super().__init__(OrderedDict(parts))


class TheirBlock(nn.Module):
    def __init__(self, inside, outside, stride, middle_rule):
        super().__init__()
        middle = middle_rule or (lambda *_: None)
        block, cube = (inside, outside), (3, 3, 3)
        self.conv1 = TheirConv(inside, outside, middle(block, inside, outside), cube, stride)
        self.bn1 = nn.BatchNorm3d(outside, eps=1e-3)
        self.conv2 = TheirConv(outside, outside, middle(block, outside, outside), cube, (1, 1, 1))
        self.bn2 = nn.BatchNorm3d(outside, eps=1e-3)
        if inside != outside:
            self.downsample = TheirConv(inside, outside, None, (1, 1, 1), stride)
            self.downsample_bn = nn.BatchNorm3d(outside, eps=1e-3)
        else:
            self.downsample = None

    def forward(self, x):
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (
            out + (x if self.downsample is None else self.downsample_bn(self.downsample(x)))
        ).relu()


class TheirNet(nn.Module):
    """The authors' backbone as they pretrain it, its stages of one block each."""

    def __init__(self, middle_rule=None, width=4):
        super().__init__()
        stem = TheirConv(3, width, 45 * width // 64 if middle_rule else None, (3, 7, 7), (1, 2, 2))
        stem.add_module("bn_t" if middle_rule else "bn", nn.BatchNorm3d(width, eps=1e-3))
        stem.add_module("relu", nn.ReLU())
        self.stem = stem
        self.layer1 = nn.Sequential(TheirBlock(width, width, (1, 1, 1), middle_rule))
        self.layer2 = nn.Sequential(TheirBlock(width, 2 * width, (2, 2, 2), middle_rule))
        self.layer3 = nn.Sequential(TheirBlock(2 * width, 4 * width, (2, 2, 2), middle_rule))
        self.layer4 = nn.Sequential(TheirBlock(4 * width, 8 * width, (2, 1, 1), middle_rule))

    def forward(self, x):
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))


def trained(net, seed=0):
    """The net with every weight and statistic as a training might leave it, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d):
            for name, low, high in (
                ("weight", 0.5, 1.5), ("bias", -0.5, 0.5),
                ("running_mean", -0.1, 0.1), ("running_var", 0.001, 0.02),
            ):  # fmt: skip
                getattr(part, name).data.uniform_(low, high, generator=generator)
    return net.eval()


def build(config=SMALL, seed=1):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(config)


def clips(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def assert_alike(encoder, net, shape=(2, 3, 8, 32, 32)):
    expected = net(clips(*shape))
    features = encoder.eval()(clips(*shape))
    assert expected.std() > 0.1
    torch.testing.assert_close(features, expected.view_as(features), rtol=1e-4, atol=1e-4)


def checkpoint(backbone, *, prefix="backbone.", legacy=False):
    """A file as mmcv saves a model of the authors, with their head and the optimiser."""
    state = OrderedDict((prefix + key, value) for key, value in backbone.state_dict().items())
    for name in ("temporal_conv", "fc1", "pred_head"):
        state[prefix.removesuffix("backbone.") + f"head.{name}.weight"] = torch.zeros(2)
        state[prefix.removesuffix("backbone.") + f"head.{name}.bias"] = torch.zeros(2)
    file = io.BytesIO()
    torch.save(
        {
            "meta": {"epoch": 300, "iter": 89_400, "mmcv_version": "1.2.4"},
            "state_dict": state,
            "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": []},
        },
        file,
        _use_new_zipfile_serialization=not legacy,
    )
    return file.getvalue()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch.hub's folder of weights, empty, on a machine without network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def image_net_of(encoder):
    """A state dict like that of a 2D net of the encoder's width and depth."""
    names = {"stem.0": "conv1", "stem.1": "bn1"}
    names |= {f".conv{i}.0": f".conv{i}" for i in (1, 2)}
    names |= {f".conv{i}.1": f".bn{i}" for i in (1, 2)}
    state = {}
    for key, value in encoder.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        state[key] = value[:, :, 0] if value.ndim == 5 else value
    return state


def test_random_changes_nothing():
    encoder = build()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    assert load_initial_weights(encoder, "random") == "random weights"
    assert encoder.config == with_norm_eps_of("random", SMALL) == SMALL
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("stride", [8, 16])
def test_of_a_run_with_its_epsilon(tmp_path, stride):
    saved = trained(build(SMALL.replace(norm_eps=1e-5, spatial_stride=8)))
    (tmp_path / "encoder.safetensors").write_bytes(encoder_bytes(saved, {}))
    uri = str(tmp_path / "encoder.safetensors")
    config = SMALL.replace(spatial_stride=stride)
    encoder = build(config, seed=2)
    message = load_initial_weights(encoder, uri)
    assert message == f"{uri}: 72 tensors, ε of batch normalisation 1e-05"
    assert encoder.config == with_norm_eps_of(uri, config) == config.replace(norm_eps=1e-5)
    expected = R3d(encoder.config).eval()
    expected.load_state_dict(saved.state_dict())
    assert_alike(encoder, expected)


def test_of_a_run_on_s3(s3_bucket):
    saved = trained(build())
    place = Storage.from_uri(s3_bucket).join("runs", "a", "encoder.safetensors")
    place.write_bytes(encoder_bytes(saved, {}))
    encoder = build(seed=2)
    assert place.uri in load_initial_weights(encoder, place.uri)
    assert_alike(encoder, saved)


@pytest.mark.parametrize("prefix", ["backbone.", "module.backbone.", "", "module."])
@pytest.mark.parametrize("legacy", [True, False])
def test_of_the_authors(tmp_path, prefix, legacy):
    theirs = trained(TheirNet())
    (tmp_path / "epoch_300.pth").write_bytes(checkpoint(theirs, prefix=prefix, legacy=legacy))
    uri = str(tmp_path / "epoch_300.pth")
    encoder = build(SMALL.replace(norm_eps=1e-5))
    message = load_initial_weights(encoder, uri)
    assert message == (
        f"{uri} of the authors' code: 72 tensors, ε of batch normalisation 0.001; "
        "left out: head.fc1, head.pred_head, head.temporal_conv"
    )
    assert encoder.config == SMALL == with_norm_eps_of(uri, SMALL.replace(norm_eps=1e-5))
    assert_alike(encoder, theirs)


@pytest.mark.parametrize(
    ("rule", "middle_channels"), [(per_block, "block"), (per_convolution, "convolution")]
)
def test_r2plus1d_of_the_authors(tmp_path, rule, middle_channels):
    theirs = trained(TheirNet(rule))
    (tmp_path / "theirs.pth").write_bytes(checkpoint(theirs))
    encoder = build(SMALL_2PLUS1.replace(middle_channels=middle_channels))
    load_initial_weights(encoder, str(tmp_path / "theirs.pth"))
    assert_alike(encoder, theirs)


def test_the_authors_r2plus1d_is_wider_and_each_key_is_named(tmp_path):
    (tmp_path / "theirs.pth").write_bytes(checkpoint(TheirNet(per_convolution)))
    encoder = build(SMALL_2PLUS1)
    with pytest.raises(ValueError, match="with middle_channels convolution") as error:
        load_initial_weights(encoder, str(tmp_path / "theirs.pth"))
    lines = str(error.value).splitlines()[1:]
    assert (
        lines[0] == "  layer2.0.conv2.0.0.weight: (18, 8, 1, 3, 3) where (14, 8, 1, 3, 3) is needed"
    )
    assert [line.split(":")[0].strip() for line in lines] == [
        f"layer{stage}.0.conv2.0.{name}"
        for stage in (2, 3, 4)
        for name in (
            "0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var", "3.weight"
        )
    ]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("arch", ["r3d", "r2plus1d"])
def test_kinetics_by_name_and_by_path(hub, arch):
    make, file = KINETICS[arch]
    theirs = trained(make(weights=None))
    torch.save(theirs.state_dict(), hub / file)
    theirs.avgpool, theirs.fc = nn.Identity(), nn.Identity()
    config = (R3dConfig if arch == "r3d" else R2plus1dConfig)(spatial_stride=16)
    encoder = build(config).eval()
    message = load_initial_weights(encoder, "kinetics400")
    assert str(hub / file) in message
    assert message.endswith("ε of batch normalisation 1e-05; left out: fc")
    assert (
        encoder.config == with_norm_eps_of("kinetics400", config) == config.replace(norm_eps=1e-5)
    )
    picture = clips(1, 3, 8, 32, 32)
    features = encoder(picture)
    torch.testing.assert_close(features.flatten(1), theirs(picture), rtol=1e-4, atol=1e-4)

    for part in encoder.modules():
        if isinstance(part, nn.Conv3d):
            part.weight.zero_()
        elif isinstance(part, nn.BatchNorm3d):
            part.eps = 1e-3
    load_initial_weights(encoder, str(hub / file))
    assert torch.equal(encoder(picture), features)

    for part in encoder.modules():
        if isinstance(part, nn.BatchNorm3d):
            part.eps = 1e-3  # another ε makes other features
    assert (encoder(picture) - features).abs().max() > 0.05 * features.abs().max()


@torch.no_grad()
def test_imagenet_inflated_is_the_image_net_without_its_pool_on_a_still_clip(hub):
    images = trained(resnet18(weights=None))
    state = images.state_dict()
    # files of that age lack the counters
    torch.save({key: state[key] for key in state if "num_batches" not in key}, hub / IMAGES)
    config = R3dConfig(spatial_stride=16)
    encoder = build(config)
    message = load_initial_weights(encoder, "imagenet")
    assert str(hub / IMAGES) in message
    assert message.endswith(": 100 tensors, ε of batch normalisation 1e-05; left out: fc")
    assert encoder.config == with_norm_eps_of("imagenet", config) == config.replace(norm_eps=1e-5)

    images.maxpool, images.avgpool, images.fc = nn.Identity(), nn.Identity(), nn.Identity()
    # in double precision: these random weights make features of up to 1e12
    picture = clips(1, 3, 16, 16).double()
    expected = images.double()(picture)
    # 54 frames to either side reach a feature; beyond the clip's ends there is nothing
    features = encoder.double().eval()(picture[:, :, None].expand(-1, -1, 128, -1, -1))
    torch.testing.assert_close(features[:, :, 8].flatten(1), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(features[:, :, 0].flatten(1), expected, rtol=0.1, atol=0.1)


def test_imagenet_does_not_fit_r2plus1d():
    with pytest.raises(ValueError, match=r"imagenet weights do not fit r2plus1d.*kinetics400"):
        load_initial_weights(build(SMALL_2PLUS1), "imagenet")
    with pytest.raises(ValueError, match="imagenet weights do not fit r2plus1d"):
        with_norm_eps_of("imagenet", SMALL_2PLUS1)


@pytest.mark.parametrize(
    "changes",
    [{"width": 8}, {"blocks_per_stage": (1, 1, 1, 2)}, {"blocks_per_stage": (1, 2, 1, 1)}],
)
@pytest.mark.parametrize("source", ["kinetics400", "imagenet"])
def test_another_width_or_depth_is_refused_and_nothing_changes(hub, source, changes):
    held, encoder = build(), build(SMALL.replace(**changes))
    torch.save(held.state_dict(), hub / KINETICS["r3d"][1])
    torch.save(image_net_of(held), hub / IMAGES)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=f"^{source} .* does not fit the encoder r3d") as error:
        load_initial_weights(encoder, source)
    wanted = {key: tuple(value.shape) for key, value in before.items()}
    came = {key: tuple(value.shape) for key, value in held.state_dict().items()}
    differ = {key for key in wanted | came if wanted.get(key) != came.get(key)}
    # a counter that the source lacks is no fault
    differ -= {key for key in wanted if key.endswith("tracked") and key not in came}
    assert {line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]} == differ
    assert encoder.config == SMALL.replace(**changes)
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize(
    ("source", "file"), [("kinetics400", KINETICS["r3d"][1]), ("imagenet", IMAGES)]
)
def test_without_network_it_says_where_to_put_the_file(hub, source, file, free_port, monkeypatch):
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxy it was made with
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{free_port}")
    with pytest.raises(ValueError, match=f"^cannot get the {source} weights: .*refused") as error:
        load_initial_weights(build(R3dConfig()), source)
    assert f"put https://download.pytorch.org/models/{file} at {hub / file}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_file_in_the_hub_is_named(hub):
    file = hub / KINETICS["r3d"][1]
    torch.save(R3d(SMALL).state_dict(), file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=r"cannot be read: RuntimeError.*Delete that file"
    ) as error:
        load_initial_weights(build(R3dConfig()), "kinetics400")
    assert str(file) in str(error.value)


@pytest.mark.parametrize("source", ["imagnet", "", "runs/my-run", "s3://bucket/weights.bin"])
def test_an_unknown_source_names_those_there_are(source):
    with pytest.raises(ValueError, match=r"expected random, kinetics400, imagenet, or an encoder"):
        load_initial_weights(build(), source)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"no\.pth"):
        load_initial_weights(build(), str(tmp_path / "no.pth"))


def test_a_checkpoint_with_numpy_scalars_beside_its_state_dict(tmp_path):
    held = trained(build())
    scores = {"best_acc1": np.float32(71.3), "epoch": np.int64(3), "is_best": np.bool_(True)}
    torch.save({"state_dict": held.state_dict(), **scores}, tmp_path / "best.pth")
    encoder = build(seed=2)
    load_initial_weights(encoder, str(tmp_path / "best.pth"))
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, held.state_dict()[key]), key


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read as a file of tensors.*EOFError"),
        (b"<html>not found</html>", "cannot be read as a file of tensors"),
        (saved({"state_dict": {}})[:-50], "cannot be read as a file of tensors"),
        (saved(Path("a")), "UnpicklingError: Unsupported global: .*Path"),
        (saved(torch.zeros(3)), "holds no state_dict of tensors, but Tensor"),
        (saved({"epoch": 3, "net": {}}), "holds no state_dict of tensors, but entries epoch, net"),
        (saved({"state_dict": torch.zeros(3)}), "holds no state_dict of tensors, but entries sta"),
        (saved({}), "holds no encoder .*but nothing"),
        (saved({"fc.weight": torch.zeros(3), 7: torch.zeros(2)}), "holds no encoder .*but 7, fc"),
    ],
)  # fmt: skip
def test_what_is_no_checkpoint(tmp_path, data, message):
    path = Path(tmp_path / "theirs.pth")
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        load_initial_weights(build(), str(path))
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
