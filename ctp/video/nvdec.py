"""Decode H.264 and HEVC by NVDEC, the decoding engine of NVIDIA's GPUs, through PyAV.

PyAV's FFmpeg reads the file and the headers of its pictures as for the CPU; the engine computes the
pixels. So each frame has the same number, time, size, orientation and colours. Both standards
define every pixel exactly, so the pixels are the same, too, unless the video is damaged. The frames
that a clip needs are copied to the host, where they are cut and resized as those of the CPU.
"""

from __future__ import annotations

from fractions import Fraction

import av
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter

from ctp.video.encoded import DecodingError, decoding_errors

CODECS = frozenset({"h264", "hevc"})
"""FFmpeg's names. Decoders of MPEG-2 and MPEG-4 may round differently, so the CPU decodes those."""
OTHER_CODEC = "it is used for H.264 and HEVC alone"
PLANAR = {"nv12": "yuv420p", "p010le": "yuv420p10le"}
"""The engine's formats, in which U and V alternate -> the CPU's with the same values in planes."""
TEST_SIZE_PX = 256
"""Side of the picture that `Nvdec.check` decodes; the engine refuses very small ones."""
DEVICE = "cuda"


class Nvdec:
    """The engine of this process's GPU.

    What it cannot decode is decoded on the CPU: `take_refused` returns what that was.
    """

    def __init__(self) -> None:
        # frames stay on the GPU until `to_host`; the context there is one for all decoders
        self.hwaccel = HWAccel(DEVICE, allow_software_fallback=False, is_hw_owned=True)
        self._reformatter = VideoReformatter()
        self._refused: dict[str, str] = {}
        self._kept: VideoCodecContext | None = None

    def check(self) -> None:
        """Decode a picture that was just encoded. Keep the context on the GPU for all others.

        Raises:
            ValueError: the engine does not work here.
        """
        try:
            if DEVICE not in hwdevices_available():
                raise DecodingError("PyAV was built without it; the wheels of PyPI have it")
            with decoding_errors("FFmpeg says"):
                self._kept = self.new_decoder("h264")
                frames = [frame for each in _test_packets() for frame in self._kept.decode(each)]
                self.to_host(frames[0], self._kept)
        except DecodingError as error:
            raise ValueError(
                f"scaling.decoder gpu: NVDEC cannot be used on this node ({error}). It needs an "
                "NVIDIA GPU and its driver's libraries libcuda.so.1 and libnvcuvid.so.1; a "
                "container gets the second one if NVIDIA_DRIVER_CAPABILITIES includes video. "
                "--scaling.decoder cpu decodes on CPU cores, and the run can be resumed with it"
            ) from error

    def new_decoder(self, codec: str) -> VideoCodecContext:
        """Return a decoder of one of `CODECS`, whose frames are on the GPU."""
        decoder: VideoCodecContext = av.CodecContext.create(codec, "r", self.hwaccel)  # type: ignore[assignment]
        return decoder

    def to_host(self, frame: av.VideoFrame, decoder: VideoCodecContext) -> av.VideoFrame:
        """Return a decoder's frame as the CPU would have decoded it.

        Raises:
            DecodingError: the engine's frame has another format or another part of the picture.
        """
        if (frame.width, frame.height) != (decoder.width, decoder.height):
            # FFmpeg does not cut off the left and upper edge of a picture on the GPU
            raise DecodingError(
                f"has pictures of {decoder.width}x{decoder.height} in {frame.width}x{frame.height}"
            )
        return to_planar(frame, self._reformatter)

    def refuse(self, codec: str, video_id: str, reason: str) -> None:
        """Record that a video is decoded on the CPU, and why."""
        self._refused.setdefault(
            codec,
            f"scaling.decoder gpu: the CPU decodes some videos in {codec}, such as {video_id!r}. "
            f"NVDEC: {reason}",
        )

    def take_refused(self) -> dict[str, str]:
        """Return the codecs of refused videos since the last call, with a line on the first."""
        refused, self._refused = self._refused, {}
        return refused


def to_planar(frame: av.VideoFrame, reformatter: VideoReformatter) -> av.VideoFrame:
    """Return a frame of the engine, on the GPU or not, in the format of the CPU's decoder.

    Raises:
        DecodingError: its format is not one of `PLANAR`.
    """
    name = (frame.sw_format or frame.format).name
    if name not in PLANAR:
        raise DecodingError(f"has pictures in the format {name}")
    with decoding_errors("has frames that cannot be copied from the GPU"):
        return reformatter.reformat(frame, format=PLANAR[name])


def _test_packets() -> list[av.Packet[av.VideoStream] | None]:
    """Return a picture in H.264, and the end of the stream."""
    encoder: VideoCodecContext = av.CodecContext.create("libx264", "w")
    encoder.width = encoder.height = TEST_SIZE_PX
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 25)
    picture = av.VideoFrame(TEST_SIZE_PX, TEST_SIZE_PX, "yuv420p")
    return [*encoder.encode(picture), *encoder.encode(None), None]
