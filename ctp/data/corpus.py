"""The embedded default corpus: small H.264 videos that the project renders from name and seed.

Pretraining runs on a fresh machine without a download, and evaluation (retrieval, linear probe)
has labelled videos. Each video is rendered and encoded (libx264 in MP4, through PyAV) from its name
and a seed: a tiled floor with things on it, seen by a moving camera, and one to three objects that
move by themselves, such as striped balls and stars. The label is the kind of motion (`MOTIONS`).

Two rules shape the code:

* **Only motion shows the class.** Textures, colours, and the objects' shape, size and number come
  from a generator that is independent of the class. Zoom, roll and object position at a moment have
  the same distribution in every class, so that a single frame does not show the class.
* **The same (name, seed) gives the same bytes.** One generator per video, integer sampling,
  no colour conversion by a library, one encoder thread.

Scenes are bright and rich in contrast and edges: patches are cut from them, and patches of dark or
flat videos would be invisible.

A rendered video is kept in the cache folder: to render takes 30 ms, to read almost none.
"""

from __future__ import annotations

import hashlib
import io
import re
from contextlib import suppress
from fractions import Fraction
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctp.data.cache_folder import cache_folder
from ctp.storage import Storage, StorageError
from ctp.text import near_miss

SCHEME = "corpus:"
"""Start of the URI of a video of the corpus, and of the source `corpus:NUMBER`."""
CORPUS_SEED = 0
MOTIONS: tuple[str, ...] = (
    "pan-left",
    "pan-right",
    "tilt-up",
    "tilt-down",
    "zoom-in",
    "zoom-out",
    "rotate",
    "shake",
    "bounce",
    "orbit",
)
"""The classes. Pans and tilts are named by the direction in which the camera turns, so the scene
moves in the opposite direction on screen. `rotate` rolls the camera in either direction. In
`bounce` and `orbit` the camera is still and the objects hop or circle."""

WIDTH, HEIGHT, NUM_FRAMES, FRAMES_PER_SECOND = 128, 96, 40, 24
GOP_FRAMES = 12
MAX_VIDEOS = 100_000 * len(MOTIONS)
KEPT_BOXES = 1024
"""Videos whose boxes a process keeps, 2 kB each; drawing them takes as long as rendering."""

_SCENE_TEXELS = 512
_OBJECT_TEXELS = 64
_SHADOW_ALPHA = 127  # the most that a shadow has
# Half a cutout's side, in radii of the object; the ring outside 1 holds the shadow.
_CUTOUT_RADII = 1.25
# More texels than pixels, so that nearest-texel sampling shows motion of less than a pixel.
_TEXELS_PER_PIXEL = 1.7
_FIXED_BITS = 16
_NAME = re.compile(r"([a-z-]+)/([0-9]{5})")

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bytes = NDArray[np.uint8]


class MotionPath(NamedTuple):
    """The path of the camera or of an object: every field float64 [NUM_FRAMES].

    For the camera, x and y are the scene point (pixels at scale 1) at the frame's centre; for an
    object, its centre on screen (pixels). `scale` is magnification, `roll` is in radians.
    """

    x: Doubles
    y: Doubles
    scale: Doubles
    roll: Doubles


class _Object(NamedTuple):
    """An object: its texture in its outline, its path, and its size where the scale is 1."""

    cutout: NDArray[np.uint32]
    path: MotionPath
    radius_px: float


def video_names(num_videos: int) -> tuple[str, ...]:
    """Return the names of the first `num_videos` videos, such as "pan-left/00012".

    Names cycle over `MOTIONS`, so that class sizes differ by at most one.

    Raises:
        ValueError: `num_videos` is negative or above `MAX_VIDEOS`.
    """
    if not 0 <= num_videos <= MAX_VIDEOS:
        raise ValueError(f"num_videos is {num_videos}, expected a number from 0 to {MAX_VIDEOS}")
    kinds = len(MOTIONS)
    return tuple(f"{MOTIONS[i % kinds]}/{i // kinds:05d}" for i in range(num_videos))


def label_of(name: str) -> str:
    """Return the kind of motion of a video, one of `MOTIONS`.

    Raises:
        ValueError: `name` is not a name of this corpus.
    """
    match = _NAME.fullmatch(name)
    if match is None or match[1] not in MOTIONS:
        hint = near_miss(name.partition("/")[0], MOTIONS)
        raise ValueError(
            f"{name!r} is not a video of the embedded corpus{hint}. Expected LABEL/NNNNN (five "
            f"digits), with LABEL one of {', '.join(MOTIONS)}"
        )
    return match[1]


def read_video(name: str) -> bytes:
    """Return the bytes of a video of the corpus, from the cache or rendered and added to it.

    Raises:
        ValueError: `name` is not a name of this corpus.
    """
    path = cache_folder() / f"corpus-{_version()}-seed{CORPUS_SEED}" / f"{name}.mp4"
    with suppress(OSError):
        return path.read_bytes()
    data = render_video(name, seed=CORPUS_SEED)
    with suppress(StorageError):  # the cache is optional
        Storage.from_uri(path).write_bytes(data)
    return data


@cache
def _version() -> str:
    """Return a short hash of what determines the bytes: this module and the encoder."""
    import av  # only what renders needs it

    code = Path(__file__).read_bytes()
    return hashlib.blake2b(code + av.__version__.encode(), digest_size=4).hexdigest()


def render_video(name: str, *, seed: int) -> bytes:
    """Render and encode one video.

    Args:
        name: one of `video_names`; its label determines the motion.
        seed: any integer; each gives another corpus.

    Returns:
        an MP4 file: H.264 yuv420p, 128x96, 40 frames at 24 frames/s, a key frame every 12 frames,
        no B-frames. The same arguments always give the same bytes.

    Raises:
        ValueError: `name` is not a name of this corpus.
    """
    camera, scene, objects = _draw_contents(name, seed)
    planes = _sample_scene(scene, camera)
    for cutout, path, radius_px in objects:
        _paste(planes, cutout, path, radius_px)
    return _encode(planes)


@lru_cache(KEPT_BOXES)
def object_boxes(name: str, *, seed: int = CORPUS_SEED) -> NDArray[np.float32]:
    """Return the boxes of the objects of a video; those of hidden parts count, too.

    Returns:
        float32 [K, NUM_FRAMES, 4], xyxy pixels, K from 1 to 3. Boxes may reach over the edge of the
        picture, or be outside of it.

    Raises:
        ValueError: `name` is not a name of this corpus.
    """
    _, _, objects = _draw_contents(name, seed)
    boxes = [_boxes(cutout, path, radius_px) for cutout, path, radius_px in objects]
    return np.stack(boxes).astype(np.float32)


def _draw_contents(name: str, seed: int) -> tuple[MotionPath, NDArray[np.uint32], list[_Object]]:
    """Draw the camera's path, the scene's texture and the objects, the lowest first."""
    motion = label_of(name)
    look_rng, motion_rng = _generators(name, seed)
    camera = _camera_path(motion, motion_rng)
    scene, objects = _scene(look_rng), []
    for number in range(int(look_rng.integers(1, 4))):
        cutout = _cutout(look_rng)
        radius_px = float(look_rng.uniform(9, 16))
        path = _object_path(motion, camera, radius_px, motion_rng, first=number == 0)
        objects.append(_Object(cutout, path, radius_px))
    return camera, scene, objects


def _boxes(cutout: NDArray[np.uint32], path: MotionPath, radius_px: float) -> Doubles:
    """Return the box of what is seen of an object without its shadow, float64 [NUM_FRAMES, 4]."""
    rows, cols = np.nonzero(cutout.view(np.uint8).reshape(*cutout.shape, 4)[..., 3] > _SHADOW_ALPHA)
    points = (cols + 1j * rows + (0.5 + 0.5j) - (1 + 1j) * _OBJECT_TEXELS / 2) / _OBJECT_TEXELS
    reach = 2 * _CUTOUT_RADII * radius_px * path.scale * np.exp(1j * path.roll)
    on_screen = points * reach[:, None]
    # a pixel shows what is at its index, and its centre is half a pixel on
    x, y = (on_screen.real.T + path.x + 0.5).T, (on_screen.imag.T + path.y + 0.5).T
    return np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], axis=1)


def _generators(name: str, seed: int) -> list[np.random.Generator]:
    """Return two independent generators: for the appearance and for the motion."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=32).digest()
    root = np.random.SeedSequence(int.from_bytes(digest, "little"))
    return [np.random.default_rng(child) for child in root.spawn(2)]


# ---- appearance: textures as uint32 texels, whose four bytes are Y, U, V and alpha --------------


def _scene(rng: np.random.Generator) -> NDArray[np.uint32]:
    """Draw the background: a periodic texture (512, 512) of a tiled floor on which things lie.

    It is drawn at half of the size: what moves is sharper than what is behind it. On a background
    that is as sharp, an object or a pasted patch would be camouflaged.
    """
    size = _SCENE_TEXELS // 2
    floor = _floor(size, rng)
    for _ in range(int(rng.integers(14, 26))):
        thing = _thing(2 * int(rng.integers(12, 36)), rng, contrast=0.7)
        corner = rng.integers(0, size, 2)
        place = np.ix_(*((corner[:, None] + np.arange(len(thing))) % size))
        floor[place] += (thing[..., :3] - floor[place]) * thing[..., 3:]
    channels = [_double(_double(floor[..., i]).T).T for i in range(3)]
    return _texels(np.stack([*channels, np.ones_like(channels[0])], axis=-1))


def _floor(size: int, rng: np.random.Generator) -> Floats:
    """Draw tiles, bricks or planks of two colours with joints, float32 (size, size, Y U V)."""
    num_rows, num_cols = 2 * int(rng.integers(2, 6)), int(rng.integers(3, 9))
    at = np.arange(size, dtype=np.float32) / np.float32(size)
    down = np.broadcast_to((at * np.float32(num_rows))[:, None], (size, size))
    row = down.astype(np.int64)
    across = at * np.float32(num_cols) + np.float32(rng.choice([0, 0.5])) * (row % 2)
    tone = rng.random((num_rows, num_cols), dtype=np.float32)[row, across.astype(int) % num_cols]
    # in texels from the nearest joint
    far = np.minimum(
        np.abs(down - np.rint(down)) / num_rows, np.abs(across - np.rint(across)) / num_cols
    )
    light = np.float32(0.72) + np.float32(0.28) * np.clip(far * size - 1, 0, 1)
    luma = rng.uniform(90, 165) + rng.permutation([-26.0, 26.0])
    first, second = (_colour(float(y), rng) for y in luma)
    floor: Floats = first + (second - first) * tone[..., None]
    grain = _fractal(size, 16, 64, rng) * np.float32(rng.uniform(5, 12))
    floor[..., 0] = floor[..., 0] * light + grain
    return floor


def _cutout(rng: np.random.Generator) -> NDArray[np.uint32]:
    """Draw an object that moves by itself, (64, 64)."""
    return _texels(_thing(_OBJECT_TEXELS, rng, contrast=1.0))


def _thing(size: int, rng: np.random.Generator, *, contrast: float) -> Floats:
    """Draw a thing of two colours with a dark rim, a lit side and a shadow.

    Returns:
        float32 (size, size, 4): Y, U, V from 0 to 255 and alpha from 0 to 1. It is centred, and its
        radius is `size` / 2 / `_CUTOUT_RADII`.
    """
    axis = np.linspace(-_CUTOUT_RADII, _CUTOUT_RADII, size, dtype=np.float32)
    reach = _shape_reach(axis, rng)
    apart = contrast * rng.uniform(70, 110) / 2 * rng.choice([-1, 1])
    middle = rng.uniform(105, 150)
    first, second = _colour(middle - apart, rng), _colour(middle + apart, rng)
    share = np.float32(0.5) + np.float32(0.5) * _pattern(axis, rng)
    thing = first + (second - first) * share[..., None]
    # round, lit from the upper left, with a dark rim against a similar background
    light = np.float32(1.1) - np.float32(0.18) * (axis + axis[:, None]) - np.float32(0.2) * reach**4
    rim = np.float32(contrast) * np.clip((reach - np.float32(0.8)) * 9, 0, 1)
    thing[..., 0] *= np.clip(light, 0, 1.4) * (1 - np.float32(0.75) * rim)
    outside = reach > 1.04
    thing[outside] = 20, 128, 128
    shadow = np.clip((_CUTOUT_RADII - 0.03 - reach) * 2, 0, 0.4)
    solid = np.clip((1.04 - reach) * 14, 0, 1)
    return np.concatenate([thing, np.maximum(shadow, solid)[..., None]], -1, dtype=np.float32)


def _pattern(axis: Floats, rng: np.random.Generator) -> Floats:
    """Draw a bold pattern (n, n) in [-1, 1]: stripes, checks, dots, rings or sectors."""
    turn = rng.uniform(0, np.pi)
    u = axis * np.float32(np.cos(turn)) + axis[:, None] * np.float32(np.sin(turn))
    v = axis[:, None] * np.float32(np.cos(turn)) - axis * np.float32(np.sin(turn))
    cycles = np.float32(rng.uniform(0.8, 1.6))
    match int(rng.integers(5)):
        case 0:
            wave = _triangle(u * cycles)
        case 1:
            wave = 2 * _triangle(u * cycles) * _triangle(v * cycles)
        case 2:
            wave = _triangle(u * cycles) + _triangle(v * cycles) - np.float32(0.3)
        case 3:
            wave = _triangle(np.hypot(u, v) * cycles)
        case _:
            wave = 4 * u * v * (u + v) * (u - v)
            wave = np.float32(4) * wave / (np.hypot(u, v) + np.float32(0.1)) ** 3
    result: Floats = np.clip(np.float32(4) * wave, -1, 1)
    return result


def _triangle(phase: Floats) -> Floats:
    """Return the triangle wave of period 1, from -1 to 1."""
    result: Floats = np.float32(4) * np.abs(phase - np.rint(phase)) - np.float32(1)
    return result


def _shape_reach(axis: Floats, rng: np.random.Generator) -> Floats:
    """Draw an outline; return each point's distance from the centre, (n, n), 1 on the line.

    The outline is an ellipse, a rectangle, a cross, a star or a polygon.
    """
    u, v = axis[None, :], axis[:, None]
    flatness = rng.uniform(1.0, 1.6)
    match int(rng.integers(5)):
        case 0:
            reach = np.hypot(u, v * flatness)
        case 1:
            reach = np.maximum(np.abs(u), np.abs(v) * flatness) / 0.85
        case 2:
            reach = np.maximum(
                np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v)) * 2.4
            )
        case 3:
            # a point of a star is inside of all sides of a pentagon except one
            reach = np.sort(_beyond_sides(u, v, 5), axis=0)[-2] / np.cos(2 * np.pi / 5)
        case _:
            num_sides = int(rng.integers(3, 8))
            reach = _beyond_sides(u, v, num_sides).max(axis=0) / np.cos(np.pi / num_sides)
    return np.asarray(reach, dtype=np.float32)


def _beyond_sides(u: Floats, v: Floats, num_sides: int) -> Doubles:
    """Return how far each point is in the direction of each side of a polygon, (sides, n, n)."""
    angles = np.arange(num_sides) * (2 * np.pi / num_sides)
    return np.stack([u * np.cos(a) + v * np.sin(a) for a in angles])


def _colour(luma: float, rng: np.random.Generator) -> Floats:
    """Draw a colour of this luma, float32 (Y, U, V)."""
    hue = rng.uniform(0, 2 * np.pi)
    # saturated at medium luma, paler where a strong colour would leave the RGB cube
    strength = rng.uniform(20, 62) * (1 - (abs(luma - 125) / 130) ** 2)
    colour = [luma, 128 + strength * np.cos(hue), 128 + strength * np.sin(hue)]
    return np.array(colour, dtype=np.float32)


def _texels(channels: Floats) -> NDArray[np.uint32]:
    """Convert (n, n, 4), Y U V from 0 to 255 and alpha from 0 to 1, to texels (n, n)."""
    bytes_ = np.rint(channels * np.array([1, 1, 1, 255], np.float32)).clip(16, 240)
    bytes_[..., 3] = np.rint(channels[..., 3] * 255)
    texels: NDArray[np.uint32] = bytes_.astype(np.uint8).view(np.uint32)[..., 0]
    return texels


def _fractal(size: int, coarsest: int, finest: int, rng: np.random.Generator) -> Floats:
    """Return periodic noise (size, size) of mean 0 and deviation 1.

    It is a sum over lattices of `coarsest` to `finest` points per side, powers of two.
    """
    field = rng.standard_normal((coarsest, coarsest), dtype=np.float32)
    amplitude = np.float32(1)
    while len(field) < size:
        # transposed each time: noise has no direction, and the result stays C-contiguous
        field = _double(_double(field).T)
        amplitude *= np.float32(0.62)
        if len(field) <= finest:
            field += amplitude * rng.standard_normal(field.shape, dtype=np.float32)
    result: Floats = (field - field.mean()) / field.std()
    return result


def _double(field: Floats) -> Floats:
    """Double the rows by periodic linear interpolation: (n, m) to (2n, m)."""
    near, result = np.float32(0.75) * field, np.empty((2 * len(field), field.shape[1]), np.float32)
    far = np.float32(0.25) * field
    np.add(near, np.roll(far, 1, axis=0), out=result[0::2])
    np.add(near, np.roll(far, -1, axis=0), out=result[1::2])
    return result


# ---- motion -------------------------------------------------------------------------------------


def _progress(rng: np.random.Generator) -> Doubles:
    """Draw a rise from -0.5 to 0.5 over the video, at a speed that varies smoothly."""
    turn = np.arange(NUM_FRAMES) / NUM_FRAMES * rng.uniform(0.5, 2.0) + rng.random()
    steps = np.cumsum(1 + rng.uniform(0, 0.4) * np.sin(2 * np.pi * turn))
    result: Doubles = (steps - steps[0]) / (steps[-1] - steps[0]) - 0.5
    return result


def _camera_path(motion: str, rng: np.random.Generator) -> MotionPath:
    progress = _progress(rng)
    travel_px = rng.uniform(70, 140)
    sideways_px = rng.uniform(-0.15, 0.15) * travel_px
    log_zoom = rng.uniform(0.7, 1.0)
    turn = rng.choice([-1.0, 1.0]) * rng.uniform(1.1, 2.4)
    shake = [_shake(rng), _shake(rng)]
    # a single frame must not show the class, so every camera has a zoom
    zoom_at = np.full(NUM_FRAMES, rng.uniform(-0.5, 0.5) * log_zoom)
    x = y = roll = np.zeros(NUM_FRAMES)
    match motion:
        case "pan-left":
            x, y = -progress * travel_px, progress * sideways_px
        case "pan-right":
            x, y = progress * travel_px, progress * sideways_px
        case "tilt-up":
            x, y = progress * sideways_px, -progress * travel_px
        case "tilt-down":
            x, y = progress * sideways_px, progress * travel_px
        case "zoom-in":
            zoom_at = progress * log_zoom
        case "zoom-out":
            zoom_at = -progress * log_zoom
        case "rotate":
            roll = progress * turn
        case "shake":
            x, y = shake
    # from screen pixels to the scene, which is rotated by the roll and scaled by the zoom
    scale = np.exp(zoom_at + rng.uniform(-0.2, 0.2))
    roll = roll + rng.uniform(0, 2 * np.pi)
    start_x, start_y = rng.uniform(0, 300, 2)
    cos, sin = np.cos(roll), np.sin(roll)
    return MotionPath(
        start_x + (x * cos - y * sin) / scale, start_y + (x * sin + y * cos) / scale, scale, roll
    )


def _shake(rng: np.random.Generator) -> Doubles:
    """Draw the shake of a hand, in pixels: three waves of 2 to 6 Hz, without net travel."""
    seconds = np.arange(NUM_FRAMES)[:, None] / FRAMES_PER_SECOND
    waves = np.sin(2 * np.pi * (seconds * rng.uniform(2, 6, 3) + rng.random(3)))
    result: Doubles = (waves * rng.uniform(1.2, 3.5, 3)).sum(axis=1)
    return result


def _object_path(
    motion: str, camera: MotionPath, radius_px: float, rng: np.random.Generator, *, first: bool
) -> MotionPath:
    """Draw an object's path on screen; the first object's is the longest visible one of four."""
    tries = 4 if first else 1
    paths = [_one_object_path(motion, camera, radius_px, rng) for _ in range(tries)]
    return max(paths, key=_num_visible_frames)


def _num_visible_frames(path: MotionPath) -> int:
    inside = (path.x > 0) & (path.x < WIDTH) & (path.y > 0) & (path.y < HEIGHT)
    return int(inside.sum())


def _one_object_path(
    motion: str, camera: MotionPath, radius_px: float, rng: np.random.Generator
) -> MotionPath:
    """Draw a path that passes, at a random moment, a uniformly random place of the frame."""
    frame = np.arange(NUM_FRAMES)
    moment = int(rng.integers(NUM_FRAMES))
    at_x, at_y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
    match motion:
        case "bounce":
            x, y = _hop(frame, rng)
        case "orbit":
            x, y = _circle(frame, rng)
        case _:
            drift_x, drift_y = rng.uniform(-0.6, 0.6, 2)
            x, y = _carried(camera, moment, at_x, at_y)
            x, y = x + drift_x * frame, y + drift_y * frame
    # an object that leaves on one side comes back on the other, invisible in between
    margin_px = 1.4 * radius_px * float(camera.scale.max())
    x = (x - x[moment] + at_x + margin_px) % (WIDTH + 2 * margin_px) - margin_px
    y = (y - y[moment] + at_y + margin_px) % (HEIGHT + 2 * margin_px) - margin_px
    spin = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.04, 0.04) * frame
    return MotionPath(x, y, camera.scale, spin - camera.roll)


def _carried(camera: MotionPath, moment: int, at_x: float, at_y: float) -> tuple[Doubles, Doubles]:
    """Return the screen path of the scene point that is at (at_x, at_y) at `moment`."""
    offset = complex(at_x - WIDTH / 2, at_y - HEIGHT / 2)
    view = np.exp(1j * camera.roll) / camera.scale
    centre = camera.x + 1j * camera.y
    on_screen = (offset * view[moment] + centre[moment] - centre) / view
    return on_screen.real, on_screen.imag


def _hop(frame: NDArray[np.int64], rng: np.random.Generator) -> tuple[Doubles, Doubles]:
    """Draw the hops of a ball: parabolas of 10 to 18 frames, moving sideways."""
    phase = (frame / rng.uniform(10, 18) + rng.random()) % 1.0
    height_px = rng.uniform(22, 48)
    speed = rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 1.5)
    return speed * frame, -4 * height_px * phase * (1 - phase)


def _circle(frame: NDArray[np.int64], rng: np.random.Generator) -> tuple[Doubles, Doubles]:
    """Draw a circle of radius 12 to 26 px in 14 to 26 frames, in either direction."""
    direction = rng.choice([-1.0, 1.0])
    angle = 2 * np.pi * (direction * frame / rng.uniform(14, 26) + rng.random())
    radius_px = rng.uniform(12, 26)
    return radius_px * np.cos(angle), radius_px * np.sin(angle)


# ---- drawing ------------------------------------------------------------------------------------


class _Planes(NamedTuple):
    """The video in yuv420p, uint8: y (frames, 96, 128); u and v (frames, 48, 64)."""

    y: Bytes
    u: Bytes
    v: Bytes


def _fixed(values: Doubles) -> NDArray[np.int64]:
    """Convert to fixed-point integers: integer sampling is the same on every machine."""
    return np.rint(values * (1 << _FIXED_BITS)).astype(np.int64)


def _texel_grids(
    centre_x: Doubles, centre_y: Doubles, step: NDArray[np.complex128], cols: Doubles, rows: Doubles
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return texel columns and rows, fixed-point int32 (frames, rows, cols), of a view.

    `cols` and `rows` (frames, n) are pixels from the centre. `step` (frames,) is the texels per
    pixel along a row, as a complex number: the view's scale and rotation.
    """
    cos, sin = step.real[:, None], step.imag[:, None]
    x_by_col, x_by_row = _fixed(cols * cos + centre_x[:, None]), _fixed(rows * sin)
    y_by_col, y_by_row = _fixed(cols * sin + centre_y[:, None]), _fixed(rows * cos)
    narrow = [a.astype(np.int32) for a in (x_by_col, x_by_row, y_by_col, y_by_row)]
    return (
        narrow[0][:, None, :] - narrow[1][:, :, None],
        narrow[2][:, None, :] + narrow[3][:, :, None],
    )


def _sample_scene(texture: NDArray[np.uint32], camera: MotionPath) -> _Planes:
    cols = np.tile(np.arange(WIDTH) - WIDTH / 2, (NUM_FRAMES, 1))
    rows = np.tile(np.arange(HEIGHT) - HEIGHT / 2, (NUM_FRAMES, 1))
    step = _TEXELS_PER_PIXEL * np.exp(1j * camera.roll) / camera.scale
    centre_x, centre_y = camera.x * _TEXELS_PER_PIXEL, camera.y * _TEXELS_PER_PIXEL
    x, y = _texel_grids(centre_x, centre_y, step, cols, rows)
    # the texture is periodic and its side a power of two, so a mask wraps the index
    x >>= _FIXED_BITS
    x &= _SCENE_TEXELS - 1
    y >>= _FIXED_BITS - 9
    y &= (_SCENE_TEXELS - 1) << 9
    x |= y
    seen = texture.reshape(-1).take(x).view(np.uint8).reshape(NUM_FRAMES, HEIGHT, WIDTH, 4)
    return _Planes(_centred(seen[..., 0]), seen[:, ::2, ::2, 1].copy(), seen[:, ::2, ::2, 2].copy())


def _centred(luma: Bytes) -> Bytes:
    """Move the mean towards mid grey and raise a low contrast: a camera may show only a dark or an
    even part of the scene."""
    mean, gain = luma.mean(), np.clip(36 / luma.std(), 1, 2)
    centred = mean + 0.6 * (126 - mean) + gain * (np.arange(256) - mean)
    result: Bytes = np.clip(np.rint(centred), 16, 235).astype(np.uint8).take(luma)
    return result


def _paste(planes: _Planes, cutout: NDArray[np.uint32], path: MotionPath, radius_px: float) -> None:
    """Blend an object into every frame, in place."""
    half = int(np.ceil(radius_px * path.scale.max() * 1.3 / 2)) * 2
    # even corners, so that chroma, at half the resolution, is on the same grid
    left = (np.floor(path.x / 2) * 2).astype(np.int64) - half
    top = (np.floor(path.y / 2) * 2).astype(np.int64) - half
    side = np.arange(2 * half)
    cols, rows = left[:, None] + side - path.x[:, None], top[:, None] + side - path.y[:, None]
    per_px = _OBJECT_TEXELS / (2 * _CUTOUT_RADII * radius_px * path.scale)
    middle = np.full(NUM_FRAMES, _OBJECT_TEXELS / 2)
    x, y = _texel_grids(middle, middle, per_px * np.exp(-1j * path.roll), cols, rows)
    # outside of its square an object is transparent, as the texels at the edge are
    x = np.clip(x >> _FIXED_BITS, 0, _OBJECT_TEXELS - 1)
    y = np.clip(y >> _FIXED_BITS, 0, _OBJECT_TEXELS - 1)
    seen = cutout.reshape(-1).take(y * _OBJECT_TEXELS + x).view(np.uint8)
    texels = seen.reshape(NUM_FRAMES, 2 * half, 2 * half, 4).astype(np.int16)
    for frame in range(NUM_FRAMES):
        corner = int(top[frame]), int(left[frame])
        small = corner[0] // 2, corner[1] // 2
        _blend(planes.y[frame], texels[frame], 0, corner)
        _blend(planes.u[frame], texels[frame, ::2, ::2], 1, small)
        _blend(planes.v[frame], texels[frame, ::2, ::2], 2, small)


def _blend(plane: Bytes, texels: NDArray[np.int16], channel: int, corner: tuple[int, int]) -> None:
    """Blend one channel of `texels` (h, w, 4) over `plane`, its top left at `corner` (row, col)."""
    top, left = corner
    first_row, first_col = max(0, -top), max(0, -left)
    target = plane[max(0, top) : max(0, top + len(texels)), max(0, left) :]
    source = texels[first_row : first_row + len(target), first_col:]
    target = target[:, : source.shape[1]]
    source = source[:, : target.shape[1]]
    # 7 bits of alpha, because the product of two bytes would exceed int16
    share = (source[..., 3] + 1) >> 1
    # a negative change wraps as a byte, and so does the sum, to the right value
    target += (((source[..., channel] - target) * share) >> 7).astype(np.uint8)


# ---- encoding -----------------------------------------------------------------------------------

_X264_OPTIONS = {
    "preset": "veryfast",
    "crf": "25",
    "threads": "1",
    "x264-params": f"keyint={GOP_FRAMES}:min-keyint={GOP_FRAMES}:scenecut=0:bframes=0",
}


def _encode(planes: _Planes) -> bytes:
    import av
    from av.video.stream import VideoStream

    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        rate = Fraction(FRAMES_PER_SECOND)
        stream: Any = container.add_stream("libx264", rate=rate, options=dict(_X264_OPTIONS))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = 1 / rate
        # no conversion, because a library's may differ between machines
        chroma = (NUM_FRAMES, HEIGHT // 4, WIDTH)
        pictures = np.concatenate(
            [planes.y, planes.u.reshape(chroma), planes.v.reshape(chroma)], axis=1
        )
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()
