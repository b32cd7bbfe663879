"""Raw videos are read in pieces, wherever they are."""

import io
import tarfile

import pytest

from ctp.curation.source_file import open_source
from ctp.data.catalog import VideoEntry
from ctp.data.sources import open_catalog
from ctp.storage import OpenFile, Storage, StorageError
from ctp.video.encoded import VideoError
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
    with open_source(VideoEntry("v", place.uri)) as file, open_sequence(file) as sequence:
        assert len(list(sequence.frames())) == 60
        file.seek(10)
        assert file.read() == data[10:]


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
        with open_source(entry) as file:
            assert file.read() == data


@pytest.mark.parametrize("size", [40 * 2**20, 3])
def test_a_file_that_has_changed_is_refused(tmp_path, size):
    (tmp_path / "video.mp4").write_bytes(bytes(4))
    entry = VideoEntry("v", str(tmp_path / "video.mp4"), size=size)
    with pytest.raises(VideoError, match="has changed since it was catalogued"), open_source(entry):
        pass


def test_a_missing_file_is_refused(folder):
    entry = VideoEntry("v", Storage.from_uri(folder).join("none.mp4").uri)
    with pytest.raises(VideoError, match="cannot be read"), open_source(entry):
        pass


def test_a_failing_storage_is_not_the_fault_of_the_video(tmp_path, encode_video, monkeypatch):
    """A decoder turns what a file raises into its own error."""
    (tmp_path / "video.mp4").write_bytes(encode_video(60))
    with pytest.raises(StorageError, match="disk"):
        decode_while_the_disk_fails(VideoEntry("v", str(tmp_path / "video.mp4")), monkeypatch)


def decode_while_the_disk_fails(entry, monkeypatch):
    def fail(*_):
        raise StorageError("the disk is gone")

    with open_source(entry) as file:
        monkeypatch.setattr(OpenFile, "read", fail)
        with open_sequence(file) as sequence:
            list(sequence.frames())
