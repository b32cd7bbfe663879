"""Limits on what a video may do to the process that decodes it.

Videos from the internet may be damaged or hostile. A decoder may see the bytes of the video and
nothing else, and may use as much memory as a video of the largest allowed size needs.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ctp.video.encoded import DecodingError

DEFAULT_MAX_MEGAPIXELS = 36.0
"""Enough for 8K, whose largest size has 8192x4320 pixels."""
BYTES_PER_PIXEL = 48
"""Memory for a pixel of the picture size: a decoder holds up to 16 reference pictures and some that
wait for their turn, 1.5 bytes per pixel each, or 3 with 10 bits."""
OTHER_DECODING_BYTES = 512 * 2**20
"""Memory for all that does not depend on the picture size, above all the index of the file."""
PAGE_BYTES = resource.getpagesize()
STATUS = "/proc/self/statm"
"""The file in which Linux describes this process's memory."""
NO_LIMIT = resource.getrlimit(resource.RLIMIT_DATA)
"""The soft and the hard limit that the process was started with."""

FORMATS = (
    # files of cameras, players and web pages
    *("apng", "asf", "asf_o", "avi", "dhav", "dv", "flv", "gif", "gxf", "hxvs", "ifv", "ivf"),
    *("iv8", "ivr", "jpegxl_anim", "kux", "live_flv", "luodat", "lxf", "matroska,webm", "mlv"),
    *("mov,mp4,m4a,3gp,3g2,mj2", "mpeg", "mpegts", "mpegtsraw", "mpjpeg", "msnwctcp", "mtv", "mxf"),
    *("mxg", "nc", "nsv", "nut", "nuv", "ogg", "pmp", "pva", "r3d", "rm", "ser", "smjpeg", "swf"),
    *("ty", "vividas", "vivo", "wtv", "xmv", "yuv4mpegpipe", "cine", "filmstrip"),
    # streams of one codec
    *("apv", "av1", "avs2", "avs3", "cavsvideo", "dirac", "dnxhd", "evc", "h261", "h263", "h264"),
    *("hevc", "ingenient", "ipu", "m4v", "mjpeg", "mjpeg_2000", "mpegvideo", "obu", "vc1"),
    *("vc1test", "vvc"),
    # video of games and of old computers
    *("4xm", "anm", "avs", "bethsoftvid", "bfi", "bink", "bmv", "c93", "cdxl", "dfa", "dsicin"),
    *("dxa", "ea", "film_cpk", "flic", "gdv", "hnm", "idcin", "ipmovie", "iss", "jv", "lmlm4"),
    *("lvf", "mgsts", "mm", "mods", "moflex", "mv", "mvi", "paf", "pdv", "psxstr", "rl2", "roq"),
    *("rpl", "sga", "siff", "simbiosis_imx", "smk", "smush", "thp", "tiertexseq", "tmv", "usm"),
    *("vmd", "wc3movie", "wsvqa", "yop"),
)
"""FFmpeg's names of the containers that a video may have: all that hold their video themselves.
Playlists, scripts and descriptions of network streams are missing, since they make FFmpeg open
other files and sockets; so are sound, subtitles, text and single pictures."""
OPEN_OPTIONS = {
    "format_whitelist": ",".join(FORMATS),
    "protocol_whitelist": "none",  # which no protocol is called
}


@dataclass(frozen=True)
class DecodingLimits:
    """The limits on the decoding of a video.

    Attributes:
        max_megapixels: greatest size of its pictures, in millions of pixels.
    """

    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS

    @property
    def max_pixels(self) -> int:
        """Return the greatest number of pixels of a picture."""
        return int(self.max_megapixels * 1_000_000)

    @property
    def memory_bytes(self) -> int:
        """Return the most memory that decoding may allocate."""
        return OTHER_DECODING_BYTES + BYTES_PER_PIXEL * self.max_pixels

    @property
    def codec_options(self) -> dict[str, str]:
        """Return FFmpeg's options of a decoder, which refuses larger pictures unallocated."""
        # FFmpeg compares the size that it allocates, which is padded to whole blocks
        return {"max_pixels": str(self.max_pixels + self.max_pixels // 8 + 2**16)}

    @property
    def open_options(self) -> dict[str, str]:
        """Return FFmpeg's options to open a file: its own bytes, in one of `FORMATS`."""
        # the decoders that examine the streams have the codec's options, too
        return OPEN_OPTIONS | self.codec_options

    @property
    def size_options(self) -> dict[str, str]:
        """Return options that read the size of pictures without decoding any."""
        return OPEN_OPTIONS | {"skip_frame": "all"}

    def check_size(self, width: int, height: int) -> None:
        """Check the size of a picture in pixels.

        Raises:
            DecodingError: it is too large.
        """
        if width * height > self.max_pixels:
            raise DecodingError(
                f"has {width}x{height} pixels, {width * height / 1e6:.4g} megapixels; "
                f"{self.describe()}"
            )

    def describe(self) -> str:
        """Return the limit on the size and its option, for messages."""
        return f"at most {self.max_megapixels:g} megapixels are allowed (data.max_megapixels)"


DEFAULT_LIMITS = DecodingLimits()


@contextmanager
def limited_memory(limit_bytes: int) -> Iterator[None]:
    """Let this process allocate at most `limit_bytes` inside the block, besides what it has.

    The limit is the kernel's for the whole process, so only one thread at a time may use it. An
    allocation that exceeds it fails, and the process can continue. Without a limit, the kernel
    would kill a process when the machine's memory is used up, and not always this one.

    Raises:
        DecodingError: the memory did not suffice.
    """
    with suppress(FileNotFoundError):  # other systems than Linux have no such limit
        _set_soft_limit(_allocated_bytes() + limit_bytes)
    try:
        yield
    except MemoryError as error:
        raise DecodingError(
            f"needs more than {limit_bytes / 2**20:.0f} MiB of memory to be decoded; "
            "data.max_megapixels raises this limit, too"
        ) from error
    finally:
        # the limit of the process, not that from before: blocks of threads may overlap
        resource.setrlimit(resource.RLIMIT_DATA, NO_LIMIT)


def _set_soft_limit(limit_bytes: int) -> None:
    soft, hard = NO_LIMIT
    others = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    # not RLIMIT_AS: it also counts what is mapped, such as Ray's object store and libraries
    resource.setrlimit(resource.RLIMIT_DATA, (min([limit_bytes, *others]), hard))


def _allocated_bytes() -> int:
    """Return what the kernel counts for RLIMIT_DATA: writable private memory of this process."""
    with open(STATUS, "rb") as file:
        return int(file.read().split()[5]) * PAGE_BYTES
