"""The embedded default corpus: small H.264 videos that the project makes itself, by name and seed.

Pretraining should run on a fresh machine with nothing to download, and evaluation (retrieval,
linear probe) needs labelled videos. So each video here is rendered and really encoded (libx264 in
MP4, through PyAV) from its name and a seed alone: a textured scene seen by a moving camera, with
one to three textured objects in it. The label is the KIND OF MOTION (`MOTIONS`).

Two rules shape the code:

* **Only motion tells the class.** Textures, colours, and the objects' shape, size and number come
  from a generator that never sees the class. Zoom, roll and object position at a moment are drawn
  alike for every class, so that a single frame does not give the class away.
* **The same (name, seed) gives the same bytes.** One generator per video, integer sampling,
  no colour conversion by a library, one encoder thread.

Scenes are bright and contrasty on purpose: patches are cut from them, and dark or flat videos make
patches that nobody can see.
"""

import difflib
import hashlib
import io
import re
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

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
"""The classes. Pans and tilts name the way the CAMERA turns, so the scene moves the other way on
screen; `rotate` rolls the camera either way; in `bounce` and `orbit` the camera is still and the
objects hop or circle."""

WIDTH, HEIGHT, NUM_FRAMES, FRAMES_PER_SECOND = 128, 96, 40, 24
GOP_FRAMES = 12
MAX_VIDEOS = 100_000 * len(MOTIONS)

_SCENE_TEXELS = 512
_OBJECT_TEXELS = 128
_DEFOCUS = 3  # times the scene is doubled in size
# Half a cutout's side, in radii of the object: what is beyond 1 holds its shadow.
_CUTOUT_RADII = 1.25
# More texels than pixels, so that nearest-texel sampling still moves smoothly by parts of a pixel.
_TEXELS_PER_PIXEL = 1.7
_FIXED_BITS = 16
_NAME = re.compile(r"([a-z-]+)/([0-9]{5})")

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bytes = NDArray[np.uint8]


class Path(NamedTuple):
    """Where something is in each frame: every field float64 of shape (NUM_FRAMES,).

    For the camera: the scene point (pixels at scale 1) at the frame's centre. For an object: its
    centre on screen (pixels). `scale` is magnification, `roll` is in radians.
    """

    x: Doubles
    y: Doubles
    scale: Doubles
    roll: Doubles


def video_names(num_videos: int) -> tuple[str, ...]:
    """Names of the first `num_videos` videos, such as "pan-left/00012".

    Names cycle over `MOTIONS`, so in any prefix class sizes differ by one at most.

    Raises:
        ValueError: `num_videos` is negative or above `MAX_VIDEOS`.
    """
    if not 0 <= num_videos <= MAX_VIDEOS:
        raise ValueError(f"num_videos is {num_videos}; give a number from 0 to {MAX_VIDEOS}")
    kinds = len(MOTIONS)
    return tuple(f"{MOTIONS[i % kinds]}/{i // kinds:05d}" for i in range(num_videos))


def label_of(name: str) -> str:
    """The kind of motion of a video, one of `MOTIONS`.

    Raises:
        ValueError: `name` is not a name of this corpus.
    """
    match = _NAME.fullmatch(name)
    if match is None or match[1] not in MOTIONS:
        raise ValueError(_unknown_name_message(name))
    return match[1]


def render_video(name: str, *, seed: int) -> bytes:
    """Render and encode one video.

    Args:
        name: as given by `video_names`; its label decides the motion.
        seed: chooses among corpora; any integer.

    Returns:
        A complete MP4 file: H.264 yuv420p, 128x96, 40 frames at 24 per second, a key frame every
        12 frames, no B-frames. The same bytes for the same arguments, in any order or process.

    Raises:
        ValueError: `name` is not a name of this corpus.
    """
    motion = label_of(name)
    look_rng, motion_rng = _generators(name, seed)
    camera = _camera_path(motion, motion_rng)
    planes = _sample_scene(_scene(look_rng), camera)
    for number in range(int(look_rng.integers(1, 4))):
        cutout = _cutout(look_rng)
        radius_px = float(look_rng.uniform(9, 16))
        path = _object_path(motion, camera, radius_px, motion_rng, first=number == 0)
        _paste(planes, cutout, path, radius_px)
    return _encode(planes)


def _unknown_name_message(name: str) -> str:
    label, _, number = name.partition("/")
    near = difflib.get_close_matches(label, MOTIONS, n=1)
    number = number if re.fullmatch(r"[0-9]{5}", number) else "00000"
    hint = f"; did you mean {f'{near[0]}/{number}'!r}?" if near else "."
    return (
        f"{name!r} is not a video of the embedded corpus{hint} Valid names are LABEL/NNNNN (five "
        f"digits), with LABEL one of {', '.join(MOTIONS)}"
    )


def _generators(name: str, seed: int) -> list[np.random.Generator]:
    """Two independent generators: for the look, and for the motion."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=32).digest()
    root = np.random.SeedSequence(int.from_bytes(digest, "little"))
    return [np.random.default_rng(child) for child in root.spawn(2)]


# ---- the look: textures as uint32 texels, whose four bytes are Y, U, V and alpha ----------------


def _fractal(size: int, coarsest: int, finest: int, rng: np.random.Generator) -> Floats:
    """Periodic noise (size, size) of mean 0, deviation 1; lattices `coarsest` to `finest`, 2^k."""
    field = rng.standard_normal((coarsest, coarsest), dtype=np.float32)
    amplitude = np.float32(1)
    while len(field) < size:
        # Transposed each time: noise looks alike both ways, and the result stays C-contiguous.
        field = _double(_double(field).T)
        amplitude *= np.float32(0.62)
        if len(field) <= finest:
            field += amplitude * rng.standard_normal(field.shape, dtype=np.float32)
    return _standardised(field)


def _double(field: Floats) -> Floats:
    """Twice the rows, by periodic linear interpolation: (n, m) to (2n, m)."""
    near, result = np.float32(0.75) * field, np.empty((2 * len(field), field.shape[1]), np.float32)
    far = np.float32(0.25) * field
    np.add(near, np.roll(far, 1, axis=0), out=result[0::2])
    np.add(near, np.roll(far, -1, axis=0), out=result[1::2])
    return result


def _standardised(field: Floats) -> Floats:
    result: Floats = (field - field.mean()) / (field.std() + np.float32(1e-6))
    return result


def _triangle(phase: Floats) -> Floats:
    """Triangle wave of period 1, from -1 to 1."""
    result: Floats = np.float32(4) * np.abs(phase - np.rint(phase)) - np.float32(1)
    return result


def _pattern(size: int, warp: Floats, rng: np.random.Generator) -> Floats:
    """A man-made looking pattern (size, size) in -1..1: stripes, checks, dots, or rough ridges."""
    kind = rng.integers(4)
    if kind == 0:
        return np.float32(1) - np.abs(_fractal(size, max(4, size // 64), size // 8, rng))
    # Whole cycles per side keep the texture periodic; large squares need fewer of them.
    most = max(3, size // 26)
    along, across = (int(n) for n in rng.integers(most // 3, most, 2))
    axis = np.arange(size, dtype=np.float32) / np.float32(size)
    bend = warp * np.float32(rng.uniform(0.05, 0.3))
    first = _triangle(axis * np.float32(along) + bend)
    if kind == 1:
        return _triangle(axis * np.float32(along) + (axis * np.float32(across))[:, None] + bend)
    second = _triangle((axis * np.float32(across))[:, None] + bend)
    if kind == 2:
        field = np.float32(6) * first * second
    else:
        field = np.float32(4) * (first + second - np.float32(0.4))
    return field.clip(-1, 1)


def _palette(rng: np.random.Generator) -> NDArray[np.uint32]:
    """256 texels along a gradient of five colours, dark and bright in random order."""
    stops = np.linspace(0, 255, 5)
    luma = rng.permutation(np.linspace(58, 208, 5)) + rng.uniform(-12, 12, 5)
    hue = rng.uniform(0, 2 * np.pi) + rng.uniform(-1.0, 1.0, 5)
    # Saturated in the middle, paler where a strong colour would leave the RGB cube.
    strength = (
        rng.uniform(0.4, 1.0) * rng.uniform(25, 62, 5) * (1 - (np.abs(luma - 125) / 130) ** 2)
    )
    at = np.arange(256)
    y = np.interp(at, stops, luma)
    u = 128 + np.interp(at, stops, strength * np.cos(hue))
    v = 128 + np.interp(at, stops, strength * np.sin(hue))
    channels = np.stack([y, u, v, np.full(256, 255.0)], axis=1)
    texels: NDArray[np.uint32] = np.rint(channels).astype(np.uint8).view(np.uint32)[:, 0]
    return texels


def _texture(size: int, coarsest: int, rng: np.random.Generator) -> NDArray[np.uint32]:
    """A periodic texture (size, size): two or three materials, grain, and light from one side.

    `coarsest` is how many of the largest features fit along a side.
    """
    grain = _fractal(size, coarsest, size // 4, rng)
    large = _fractal(size, coarsest, 2 * coarsest, rng)
    height = np.float32(0.75) * grain + np.float32(rng.uniform(0.5, 1.3)) * _pattern(
        size, large, rng
    )
    level = np.clip(_standardised(height) * np.float32(62) + np.float32(128), 0, 255)
    material = (large > np.float32(0.1)).astype(np.int64)
    if rng.random() < 0.6:
        material += large > np.float32(1.0)
    palettes = np.concatenate([_palette(rng) for _ in range(3)])
    texels: NDArray[np.uint32] = palettes.take(level.astype(np.int64) + 256 * material)
    _add_light(texels, grain, rng)
    return texels


def _scene(rng: np.random.Generator) -> NDArray[np.uint32]:
    """What lies behind the objects: a texture (512, 512), out of focus as behind a subject.

    Against a sharp one, an object or a pasted patch is camouflaged rather than seen.
    """
    coarse = _texture(_SCENE_TEXELS >> _DEFOCUS, 8, rng)
    channels = coarse.view(np.uint8).reshape(*coarse.shape, 4).astype(np.float32)
    planes = [channels[..., i] for i in range(4)]
    for _ in range(_DEFOCUS):
        planes = [_double(_double(plane).T).T for plane in planes]
    texels: NDArray[np.uint32] = np.rint(np.stack(planes, axis=-1)).astype(np.uint8).view(np.uint32)
    return texels[..., 0]


def _add_light(texels: NDArray[np.uint32], height: Floats, rng: np.random.Generator) -> None:
    """Shade slopes as if lit from one side, and centre the brightness, in place."""
    luma = texels.view(np.uint8).reshape(*texels.shape, 4)[..., 0]
    down, right = (int(n) for n in rng.choice([-2, 2], 2))
    relief = (height - np.roll(height, (down, right), (0, 1))) * np.float32(rng.uniform(8, 24))
    lit = luma + relief
    lit += np.float32(rng.uniform(118, 138)) - lit.mean()
    luma[...] = np.clip(lit, 20, 232).astype(np.uint8)


def _cutout(rng: np.random.Generator) -> NDArray[np.uint32]:
    """An object: its own texture (128, 128) in a soft-edged outline, with a shadow around it."""
    texels = _texture(_OBJECT_TEXELS, 2, rng)
    axis = np.linspace(-_CUTOUT_RADII, _CUTOUT_RADII, _OBJECT_TEXELS, dtype=np.float32)
    reach = _shape_reach(axis, rng)
    channels = texels.view(np.uint8).reshape(*texels.shape, 4)
    # Round objects are darker at the rim; it also sets them off against a like background.
    shade = np.clip(1.15 - 0.4 * reach**4, 0, 1.15)
    channels[..., 0] = np.clip(channels[..., 0] * shade, 20, 232).astype(np.uint8)
    outside = reach > 1
    channels[outside, 0], channels[outside, 1:3] = 20, 128
    shadow = np.clip((_CUTOUT_RADII - 0.03 - reach) * 2, 0, 0.5)
    solid = np.clip((1.04 - reach) * 14, 0, 1)
    channels[..., 3] = (np.maximum(shadow, solid) * 255).astype(np.uint8)
    return texels


def _shape_reach(axis: Floats, rng: np.random.Generator) -> Floats:
    """How far out each point is, (n, n): 1 on the outline of an ellipse, rectangle or polygon."""
    u, v = axis[None, :], axis[:, None]
    flatness = rng.uniform(1.0, 1.6)
    kind = rng.integers(3)
    if kind == 0:
        reach = np.hypot(u, v * flatness)
    elif kind == 1:
        reach = np.maximum(np.abs(u), np.abs(v) * flatness) / 0.85
    else:
        sides = int(rng.integers(3, 8))
        angles = np.arange(sides) * (2 * np.pi / sides)
        reach = np.max([u * np.cos(a) + v * np.sin(a) for a in angles], axis=0)
        reach = reach / np.cos(np.pi / sides)
    return np.asarray(reach, dtype=np.float32)


# ---- the motion ---------------------------------------------------------------------------------


def _progress(rng: np.random.Generator) -> Doubles:
    """From -0.5 to 0.5 over the clip, always forward, at a speed that swells and fades."""
    turn = np.arange(NUM_FRAMES) / NUM_FRAMES * rng.uniform(0.5, 2.0) + rng.random()
    steps = np.cumsum(1 + rng.uniform(0, 0.4) * np.sin(2 * np.pi * turn))
    result: Doubles = (steps - steps[0]) / (steps[-1] - steps[0]) - 0.5
    return result


def _camera_path(motion: str, rng: np.random.Generator) -> Path:
    progress = _progress(rng)
    travel_px = rng.uniform(70, 140)
    sideways_px = rng.uniform(-0.15, 0.15) * travel_px
    log_zoom = rng.uniform(0.7, 1.0)
    turn = rng.choice([-1.0, 1.0]) * rng.uniform(1.1, 2.4)
    shake = [_shake(rng), _shake(rng)]
    # At one moment drawn from a zoom or a turn, every camera is like every other.
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
    # Travel is in screen pixels; the scene under it is turned by the roll and shrunk by the zoom.
    scale = np.exp(zoom_at + rng.uniform(-0.2, 0.2))
    roll = roll + rng.uniform(0, 2 * np.pi)
    start_x, start_y = rng.uniform(0, 300, 2)
    cos, sin = np.cos(roll), np.sin(roll)
    return Path(
        start_x + (x * cos - y * sin) / scale, start_y + (x * sin + y * cos) / scale, scale, roll
    )


def _shake(rng: np.random.Generator) -> Doubles:
    """A hand's tremble, pixels: three waves of 2 to 6 per second, with no net travel."""
    seconds = np.arange(NUM_FRAMES)[:, None] / FRAMES_PER_SECOND
    waves = np.sin(2 * np.pi * (seconds * rng.uniform(2, 6, 3) + rng.random(3)))
    result: Doubles = (waves * rng.uniform(1.2, 3.5, 3)).sum(axis=1)
    return result


def _object_path(
    motion: str, camera: Path, radius_px: float, rng: np.random.Generator, *, first: bool
) -> Path:
    """An object's way over the screen; every video's first object stays in sight for long."""
    tries = 4 if first else 1
    paths = [_one_object_path(motion, camera, radius_px, rng) for _ in range(tries)]
    return max(paths, key=_num_frames_in_sight)


def _num_frames_in_sight(path: Path) -> int:
    inside = (path.x > 0) & (path.x < WIDTH) & (path.y > 0) & (path.y < HEIGHT)
    return int(inside.sum())


def _one_object_path(motion: str, camera: Path, radius_px: float, rng: np.random.Generator) -> Path:
    """At a random moment the object is at a uniformly random place of the frame, in any class."""
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
    # What leaves on one side comes back on the other, wholly out of sight in between.
    margin_px = 1.4 * radius_px * float(camera.scale.max())
    x = (x - x[moment] + at_x + margin_px) % (WIDTH + 2 * margin_px) - margin_px
    y = (y - y[moment] + at_y + margin_px) % (HEIGHT + 2 * margin_px) - margin_px
    spin = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.04, 0.04) * frame
    return Path(x, y, camera.scale, spin - camera.roll)


def _carried(camera: Path, moment: int, at_x: float, at_y: float) -> tuple[Doubles, Doubles]:
    """The screen path of a point of the scene, which is at (at_x, at_y) at that moment."""
    offset = complex(at_x - WIDTH / 2, at_y - HEIGHT / 2)
    view = np.exp(1j * camera.roll) / camera.scale
    centre = camera.x + 1j * camera.y
    on_screen = (offset * view[moment] + centre[moment] - centre) / view
    return on_screen.real, on_screen.imag


def _hop(frame: NDArray[np.int64], rng: np.random.Generator) -> tuple[Doubles, Doubles]:
    """A ball's hops: parabolas of 10 to 18 frames, moving on sideways."""
    phase = (frame / rng.uniform(10, 18) + rng.random()) % 1.0
    height_px = rng.uniform(22, 48)
    speed = rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 1.5)
    return speed * frame, -4 * height_px * phase * (1 - phase)


def _circle(frame: NDArray[np.int64], rng: np.random.Generator) -> tuple[Doubles, Doubles]:
    """A circle of radius 12 to 26 px in 14 to 26 frames, either way round."""
    way = rng.choice([-1.0, 1.0])
    angle = 2 * np.pi * (way * frame / rng.uniform(14, 26) + rng.random())
    radius_px = rng.uniform(12, 26)
    return radius_px * np.cos(angle), radius_px * np.sin(angle)


# ---- drawing ------------------------------------------------------------------------------------


class _Planes(NamedTuple):
    """The video in yuv420p, uint8: y (frames, 96, 128); u and v (frames, 48, 64)."""

    y: Bytes
    u: Bytes
    v: Bytes


def _fixed(values: Doubles) -> NDArray[np.int64]:
    """Fixed-point integers: sampling by integers is the same on every machine."""
    return np.rint(values * (1 << _FIXED_BITS)).astype(np.int64)


def _texel_grids(
    centre_x: Doubles, centre_y: Doubles, step: NDArray[np.complex128], cols: Doubles, rows: Doubles
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Texel columns and rows, fixed-point int32 (frames, rows, cols), of a turned, scaled view.

    `cols` and `rows` (frames, n) are pixels from the centre; `step` (frames,) is texels per pixel
    along a row, as a complex number.
    """
    cos, sin = step.real[:, None], step.imag[:, None]
    x_by_col, x_by_row = _fixed(cols * cos + centre_x[:, None]), _fixed(rows * sin)
    y_by_col, y_by_row = _fixed(cols * sin + centre_y[:, None]), _fixed(rows * cos)
    narrow = [a.astype(np.int32) for a in (x_by_col, x_by_row, y_by_col, y_by_row)]
    return (
        narrow[0][:, None, :] - narrow[1][:, :, None],
        narrow[2][:, None, :] + narrow[3][:, :, None],
    )


def _sample_scene(texture: NDArray[np.uint32], camera: Path) -> _Planes:
    cols = np.tile(np.arange(WIDTH) - WIDTH / 2, (NUM_FRAMES, 1))
    rows = np.tile(np.arange(HEIGHT) - HEIGHT / 2, (NUM_FRAMES, 1))
    step = _TEXELS_PER_PIXEL * np.exp(1j * camera.roll) / camera.scale
    centre_x, centre_y = camera.x * _TEXELS_PER_PIXEL, camera.y * _TEXELS_PER_PIXEL
    x, y = _texel_grids(centre_x, centre_y, step, cols, rows)
    # The texture is periodic and its side a power of two: a mask wraps, and makes the index.
    x >>= _FIXED_BITS
    x &= _SCENE_TEXELS - 1
    y >>= _FIXED_BITS - 9
    y &= (_SCENE_TEXELS - 1) << 9
    x |= y
    seen = texture.reshape(-1).take(x).view(np.uint8).reshape(NUM_FRAMES, HEIGHT, WIDTH, 4)
    return _Planes(_centred(seen[..., 0]), seen[:, ::2, ::2, 1].copy(), seen[:, ::2, ::2, 2].copy())


def _centred(luma: Bytes) -> Bytes:
    """Bring the mean most of the way to mid grey: a camera may look at a dark part only."""
    shift = 0.6 * (126 - luma.mean())
    lookup = np.clip(np.rint(np.arange(256) + shift), 16, 235).astype(np.uint8)
    result: Bytes = lookup.take(luma)
    return result


def _paste(planes: _Planes, cutout: NDArray[np.uint32], path: Path, radius_px: float) -> None:
    """Blend an object into every frame, in place."""
    half = int(np.ceil(radius_px * path.scale.max() * 1.3 / 2)) * 2
    # Even corners, so that chroma, at half the resolution, lies on the same grid.
    left = (np.floor(path.x / 2) * 2).astype(np.int64) - half
    top = (np.floor(path.y / 2) * 2).astype(np.int64) - half
    side = np.arange(2 * half)
    cols, rows = left[:, None] + side - path.x[:, None], top[:, None] + side - path.y[:, None]
    per_px = _OBJECT_TEXELS / (2 * _CUTOUT_RADII * radius_px * path.scale)
    middle = np.full(NUM_FRAMES, _OBJECT_TEXELS / 2)
    x, y = _texel_grids(middle, middle, per_px * np.exp(-1j * path.roll), cols, rows)
    # Beyond its square there is nothing of the object: the edge texels are transparent.
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
    # 7 bits of alpha: the product of two bytes would not fit into int16.
    share = (source[..., 3] + 1) >> 1
    # The change may be negative; as a byte it wraps, and so does the sum, to the right value.
    target += (((source[..., channel] - target) * share) >> 7).astype(np.uint8)


# ---- encoding -----------------------------------------------------------------------------------

_X264_OPTIONS = {
    "preset": "veryfast",
    "crf": "25",
    "threads": "1",
    "x264-params": f"keyint={GOP_FRAMES}:min-keyint={GOP_FRAMES}:scenecut=0:bframes=0",
}


def _encode(planes: _Planes) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        rate = Fraction(FRAMES_PER_SECOND)
        stream: Any = container.add_stream("libx264", rate=rate, options=dict(_X264_OPTIONS))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = 1 / rate
        # The planes go in as they are: a library's colour conversion may differ by machine.
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
