"""The complete config of a curation: how videos are cut, and which segments are kept."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from ctp.build.config import TranscodeConfig
from ctp.config import Config, NotAnOption
from ctp.data.sources import Sources
from ctp.video.config import MaxMegapixels
from ctp.video.limits import DEFAULT_MAX_MEGAPIXELS

Share = Annotated[float, Ge(0), Le(1)]
RuleName = Literal["damaged", "short", "small", "dark", "static", "shaky", "text", "duplicate"]


class CutsConfig(Config):
    """How videos are cut into segments."""

    detector: Literal["adaptive", "content", "off"] = "adaptive"
    """PySceneDetect's detector of cuts: adaptive compares a change with those around it, content
    with a fixed threshold. Both also find fades through black. off: videos have no cuts."""
    threshold: Annotated[float, Gt(0)] | None = None
    """Of the detector; lower values find more cuts. By default PySceneDetect's: 3 for adaptive, 27
    for content."""
    max_seconds: Annotated[float, Gt(0)] = 10.0
    """A longer shot is divided after each this many seconds."""


class RulesConfig(Config):
    """Which segments are dropped. None switches a rule off."""

    min_seconds: Annotated[float, Ge(0)] | None = 1.5
    """Rule short: shortest segment, in seconds."""
    min_short_side_px: Annotated[int, Ge(1)] | None = 112
    """Rule small: least length of the shorter side, without black bars, in pixels."""
    min_brightness: Share | None = 0.04
    """Rule dark: least mean luma, without black bars; 0 is black and 1 is white."""
    min_motion: Annotated[float, Ge(0)] | None = 0.003
    """Rule static: least mean motion, in picture widths per second."""
    max_shake: Annotated[float, Gt(0)] | None = 1.0
    """Rule shaky: greatest mean change of the camera's motion within half a second, in picture
    widths per second."""
    max_text_share: Share | None = 0.08
    """Rule text: greatest share of the picture that lines of text cover, as on slides and in
    credits."""
    max_hash_distance: Annotated[int, Ge(0), Le(64)] | None = 31
    """Rule duplicate: greatest distance between the perceptual hashes of two segments that show the
    same, in bits of 256. The one with the larger picture is kept."""
    only_mark: tuple[RuleName, ...] = ()
    """Rules that do not drop a segment, but name themselves in its column `marks`: damaged, short,
    small, dark, static, shaky, text, duplicate."""


class CurateConfig(Config):
    """A curation of raw videos."""

    recipe: Annotated[str, NotAnOption()] = ""
    """Recipe that the options started from."""
    source: Sources = ()
    """The raw videos: a folder (local or s3://), a glob, a list, tars, or several of them."""
    out: str = ""
    """Folder or URI for the shards, the manifest and the page."""
    cuts: CutsConfig = CutsConfig()
    """How videos are cut."""
    crops_bars: bool = True
    """Cut off black bars."""
    rules: RulesConfig = RulesConfig()
    """Which segments are dropped."""
    transcode: TranscodeConfig = TranscodeConfig()
    """How segments are encoded."""
    segments_per_shard: Annotated[int, Ge(1)] = 256
    """Greatest number of segments in a shard."""
    seed: int = 0
    """Seed for the examples on the page, and for the sample of a dry run."""
    dry_run: bool = False
    """Curate a sample in OUT/_dry_run, draw the page, and estimate size and time of the whole."""
    sample: Annotated[int, Ge(1)] = 20
    """Number of videos of a dry run."""
    num_tasks: Annotated[int, Ge(1)] | None = None
    """Videos decoded at the same time; by default the number of CPUs."""
    video_seconds: Annotated[float, Gt(0)] = 300.0
    """A video that decodes no frame for this long, in seconds, is quarantined."""
    max_megapixels: MaxMegapixels = DEFAULT_MAX_MEGAPIXELS
    """Quarantine a video whose pictures have more pixels than this many million; 36 is enough for
    8K."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the sources, also if there is only one."""
        return (self.source,) if isinstance(self.source, str) else self.source
