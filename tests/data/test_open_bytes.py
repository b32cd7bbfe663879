"""The bytes of a video are read as they are needed, wherever they are."""

import io
import tarfile
from dataclasses import replace

import pytest

from ctp.data.catalog import VideoEntry
from ctp.data.sources import open_catalog
from ctp.storage import Storage
from ctp.video.encoded import VideoError
from ctp.video.file_bytes import open_bytes
from ctp.video.sequence import open_sequence


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    """The URI of a folder."""
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_bucket")


def test_a_file_is_read_in_pieces(folder, encode_video):
    data = encode_video(60)
    place = Storage.from_uri(folder).join("video.mp4")
    place.write_bytes(data)
    # of unknown size, so that it is not read at once
    stored = VideoEntry("v", place.uri).open_bytes()
    assert not isinstance(stored, bytes)
    assert stored[10:] == data[10:]
    with open_sequence(open_bytes(stored)) as sequence:
        assert len(list(sequence.frames())) == 60


def test_a_member_of_a_tar_is_a_file(folder, encode_video):
    data, sink = encode_video(60), io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name in ("a.mp4", "b.mp4"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    place = Storage.from_uri(folder).join("videos.tar")
    place.write_bytes(sink.getvalue())
    for entry in open_catalog(place.uri):
        assert replace(entry, checksum=None).open_bytes()[:] == data


@pytest.mark.parametrize("size", [40 * 2**20, 3])
def test_a_file_that_has_changed_is_refused(tmp_path, size):
    (tmp_path / "video.mp4").write_bytes(bytes(4))
    entry = VideoEntry("v", str(tmp_path / "video.mp4"), size=size)
    with pytest.raises(VideoError, match="has changed since it was catalogued"):
        entry.open_bytes()


def test_a_missing_file_is_refused(folder):
    entry = VideoEntry("v", Storage.from_uri(folder).join("none.mp4").uri)
    with pytest.raises(VideoError, match="cannot be read"):
        entry.open_bytes()
