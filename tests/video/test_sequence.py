"""A video is decoded from start to end, and damage costs only what is broken."""

import io

import av
import numpy as np
import pytest

from ctp.video.decode import VideoReader
from ctp.video.encoded import DecodingError, EncodedVideo
from ctp.video.limits import DecodingLimits
from ctp.video.sequence import open_sequence


def decode_all(data, limits=None):
    """Return (numbers, seconds, pictures, damaged, damage) of all frames."""
    with open_sequence(io.BytesIO(data), *([limits] if limits else [])) as sequence:
        frames = [(f.number, f.seconds, f.frame.to_ndarray(format="rgb24"), f.is_damaged)
                  for f in sequence.frames()]  # fmt: skip
        return (*zip(*frames, strict=True), sequence.damage)


@pytest.mark.parametrize(
    ("format", "codec", "options"),
    [
        ("mp4", "libx264", {"bf": "2"}),
        ("matroska", "libx264", {"g": "12"}),
        ("avi", "mpeg4", {"g": "5"}),
        ("avi", "mpeg4", {"bf": "2"}),
        ("mpegts", "mpeg2video", {}),
        ("webm", "libvpx", {}),
        ("h264", "libx264", {}),
    ],
)
def test_frames_are_those_that_a_reader_finds(encode_video, read_numbers, format, codec, options):
    data = encode_video(60, format=format, codec=codec, options=options)
    numbers, seconds, pictures, damaged, damage = decode_all(data)
    with VideoReader(EncodedVideo("v", "/v", data)) as reader:
        assert list(numbers) == list(range(reader.num_frames))
    assert read_numbers(np.stack(pictures)) == list(range(60))
    # AVI with B-frames stores times of decoding only
    assert np.array(seconds) == pytest.approx(np.arange(60) / 25, abs=0.081)
    assert (np.diff(seconds) > 0).all()
    assert not any(damaged)
    assert damage == []


def test_a_variable_rate_gives_the_times_of_the_file(encode_video):
    times = [0, 1, 2, 10, 11, 40]
    assert decode_all(encode_video(6, times=times))[1] == pytest.approx([t / 25 for t in times])


def test_damage_ends_at_the_next_key_frame(encode_damaged, read_numbers):
    numbers, _, pictures, damaged, [damage] = decode_all(encode_damaged(60, 23))
    good = np.stack([pictures[n] for n in numbers if not damaged[n]])
    assert read_numbers(good) == [*range(23), *range(30, 60)]
    assert damage.startswith("cannot be decoded")
    assert damage.endswith("at 0.92 s")


def test_each_stretch_of_damage_is_reported_once(encode_damaged, read_numbers):
    numbers, _, pictures, damaged, damage = decode_all(encode_damaged(60, 23, 25, 41))
    good = np.stack([picture for picture, bad in zip(pictures, damaged, strict=True) if not bad])
    assert read_numbers(good) == [*range(23), *range(30, 41), *range(50, 60)]
    assert [each.rpartition(" at ")[2] for each in damage] == ["0.92 s", "1.64 s"]
    assert len(numbers) < 60


def test_a_cut_file_is_decoded_up_to_its_end(encode_video, read_numbers):
    data = encode_video(60, format="matroska", options={"bf": "0", "tune": "zerolatency"})
    _, _, pictures, damaged, _ = decode_all(data[: len(data) // 2])
    good = np.stack([p for p, bad in zip(pictures, damaged, strict=True) if not bad])
    assert 10 < len(good) < 60
    assert read_numbers(good[:-1]) == list(range(len(good) - 1))


def test_a_turned_video_keeps_its_orientation(encode_video):
    with open_sequence(io.BytesIO(encode_video(3, rotation=90))) as sequence:
        assert all(f.frame.opaque.matrix is not None for f in sequence.frames())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"this is text", "cannot be opened"),
        (b"", "cannot be opened"),
    ],
)
def test_what_is_no_video_is_refused(data, reason):
    with pytest.raises(DecodingError, match=reason), open_sequence(io.BytesIO(data)):
        pass


def test_sound_alone_is_refused():
    sink = io.BytesIO()
    with av.open(sink, "w", format="matroska") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    sink.seek(0)
    with pytest.raises(DecodingError, match="no video stream"), open_sequence(sink):
        pass


def test_a_picture_that_is_too_large_is_refused(encode_video):
    with pytest.raises(DecodingError, match="megapixels"):
        decode_all(encode_video(2, width=96, height=64), DecodingLimits(0.005))
