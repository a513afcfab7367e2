"""Draws the pages' drawings as SVG, each once for light pages and once for dark ones: python docs/drawings/draw.py

A drawing is a function that fills a `Canvas`: it says where things are, a palette says how they look.
"""

import dataclasses
import html
import pathlib
from collections.abc import Callable

HERE = pathlib.Path(__file__).parent
FONT = "-apple-system, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"
THEMES = {
    "light": {
        "ink": "#1f2328", "soft": "#6a737d", "line": "#b3bac2", "paper": "#ffffff", "none": "none",
        "blue": "#1f6fae", "orange": "#b45f06", "green": "#2c7a3a", "red": "#b3362f", "grey": "#eceff2",
        "pale blue": "#d8e8f5", "pale orange": "#fbe6cc", "pale green": "#d9efdc", "pale red": "#f8dbd9",
    },
    "dark": {
        "ink": "#e3e6ea", "soft": "#9aa4af", "line": "#59626c", "paper": "#131416", "none": "none",
        "blue": "#7db9e8", "orange": "#f0a850", "green": "#79c98a", "red": "#ef8a83", "grey": "#272b30",
        "pale blue": "#1d3a52", "pale orange": "#4d3413", "pale green": "#1c3f25", "pale red": "#4e2422",
    },
}  # fmt: skip


@dataclasses.dataclass
class Canvas:
    """A drawing of some size, in pixels from the upper left corner; colours are names of the palette."""

    width: int
    height: int
    title: str
    parts: list[str] = dataclasses.field(default_factory=list)

    def box(self, x: float, y: float, w: float, h: float, fill: str, line: str = "line", dash: str = "") -> None:
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="3" fill="{{{fill}}}" stroke="{{{line}}}"{dashes}/>'
        )

    def text(
        self, x: float, y: float, said: str, colour: str = "ink", size: int = 14, at: str = "middle", bold: bool = False
    ) -> None:
        """A line of text, whose middle is at height y."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y + size * 0.35:g}" fill="{{{colour}}}" font-size="{size}" text-anchor="{at}"{weight}>'
            f"{html.escape(said)}</text>"
        )

    def label(
        self, x: float, y: float, w: float, h: float, said: str, fill: str, colour: str = "ink", size: int = 13
    ) -> None:
        """A box with its name; each line of it in the middle."""
        self.box(x, y, w, h, fill, colour if colour != "ink" else "line")
        lines = said.split("\n")
        for i, line in enumerate(lines):
            self.text(x + w / 2, y + h / 2 + (i - (len(lines) - 1) / 2) * (size + 4), line, colour, size)

    def line(
        self, x: float, y: float, to_x: float, to_y: float, colour: str = "soft", arrow: bool = False, dash: str = ""
    ) -> None:
        end = f' marker-end="url(#{colour}-head)"' if arrow else ""
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<line x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}" stroke="{{{colour}}}" stroke-width="1.6"{end}{dashes}/>'
        )

    def notes(self, y: float, *lines: str) -> None:
        """Lines of text below a drawing."""
        for i, said in enumerate(lines):
            self.text(20, y + 24 * i, said, "soft", 13, "start")

    def svg(self, theme: str) -> str:
        palette = THEMES[theme]
        body = "\n".join(self.parts)
        heads = "".join(
            f'<marker id="{name}-head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0 8 4 0 8z" fill="{value}"/></marker>'
            for name, value in palette.items()
            if f"url(#{name}-head)" in body
        )
        for name, value in palette.items():
            body = body.replace(f"{{{name}}}", value)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" font-family="{FONT}" role="img">\n<title>{html.escape(self.title)}</title>\n'
            f"<defs>{heads}</defs>\n{body}\n</svg>\n"
        )


def matrix(c: Canvas, x: float, y: float, rows: int, columns: int, fill: str, side: int = 14) -> None:
    for i in range(rows):
        for j in range(columns):
            c.box(x + j * side, y + i * side, side, side, fill)


def shifted() -> Canvas:
    """A convolution of three taps over eight pixels: three matrix products, each of which reads the pixels one row further."""
    c = Canvas(860, 330, "A convolution of three taps is the sum of three matrix products over shifted pixels")
    side, pixels, channels, outputs, top = 14, 8, 5, 4, 76
    names = ("w[0]", "w[1]", "w[2]")
    colours = ("blue", "orange", "green")
    c.text(
        20,
        24,
        "y = x moved by tap 0 @ w[0]  +  x moved by tap 1 @ w[1]  +  x moved by tap 2 @ w[2]",
        at="start",
        bold=True,
    )
    for t, (name, colour) in enumerate(zip(names, colours, strict=True)):
        x = 46 + 210 * t
        for i in range(-1, pixels + 1):
            beyond = i in (-1, pixels)
            inside = t - 1 <= i < t - 1 + pixels
            for j in range(channels):
                fill = "none" if beyond else f"pale {colour}" if inside else "grey"
                c.box(x + j * side, top + (i + 1) * side, side, side, fill, dash="2 2" if beyond else "")
        c.box(x - 4, top + t * side - 1, channels * side + 8, pixels * side + 2, "none", colour)
        c.text(x + channels * side + 22, top + 5 * side, "@", size=16)
        matrix(c, x + channels * side + 40, top + 5 * side - 35, channels, outputs, f"pale {colour}")
        c.text(x + channels * side + 68, top + 5 * side - 50, name, colour, 14, bold=True)
        if t < 2:
            c.text(x + channels * side + 116, top + 5 * side, "+", size=18)
        c.text(x + 35, top - 18, f"x, rows {t - 1:+d}..." if t != 1 else "x, rows 0...", colour, 13)
    c.text(668, top + 5 * side, "=", size=18)
    matrix(c, 696, top + side, pixels, outputs, "grey")
    c.text(724, top - 4, "y", size=14, bold=True)
    c.text(812, top + 5 * side - 9, "8 pixels", "soft", 12)
    c.text(812, top + 5 * side + 9, "4 channels", "soft", 12)
    c.notes(
        252,
        "A row is a pixel, a column a channel. Each product multiplies the rows inside its frame: 8 x 5 by 5 x 4.",
        "Dashed rows are padding. TMA, the tensor memory accelerator, fills them with zeros. There is no padded copy.",
        "The sums stay in registers from the first tap to the last. Two and three dimensions only make the shifts longer.",
    )
    return c


def phases() -> Canvas:
    """A transposed convolution of stride 2 and 3 taps, by phases of its output, and with zeros stuffed into its input."""
    c = Canvas(860, 430, "Phases and taps of a transposed convolution of stride 2 with three taps")
    c.text(20, 22, "As a kernel computes it: every output pixel takes the taps of its phase", at="start", bold=True)
    xs = [120 + 150 * i for i in range(4)]
    for i, x in enumerate(xs):
        c.label(x - 22, 46, 44, 30, f"in[{i}]", "grey")
    for o in range(7):
        x, phase = 120 + 75 * o, o % 2
        colour = ("blue", "orange")[phase]
        taps = [(o // 2, "w[1]")] if phase == 0 else [(o // 2, "w[0]"), (o // 2 + 1, "w[2]")]
        for i, name in taps:
            c.line(xs[i], 77, x, 137, colour, arrow=True)
            along = 0.45 if phase else 0.5
            where, height = xs[i] + (x - xs[i]) * along, 77 + 60 * along
            c.text(where + (15 if name == "w[0]" else -15), height - 5 * phase, name, colour, 11)
        c.label(x - 24, 140, 48, 30, f"out[{o}]", f"pale {colour}", colour)
    c.text(690, 100, "phase 0: one tap", "blue", 13, at="start")
    c.text(690, 124, "phase 1: two taps", "orange", 13, at="start")
    c.text(690, 156, "no zero is multiplied", "ink", 13, at="start")
    c.text(20, 200, "out[2q] = in[q] w[1]", "blue", 13, at="start")
    c.text(220, 200, "out[2q + 1] = in[q] w[0] + in[q + 1] w[2]", "orange", 13, at="start")

    c.text(20, 246, "By the definition: zeros between the pixels, then three taps everywhere", at="start", bold=True)
    for k in range(-1, 8):
        x, real = 120 + 75 * k, k % 2 == 0 and k < 7
        c.label(
            x - 22, 270, 44, 30, f"in[{k // 2}]" if real else "0", "grey" if real else "none", "ink" if real else "soft"
        )
    for o in range(7):
        x = 120 + 75 * o
        for t in range(3):
            k = o + t - 1
            useful = k % 2 == 0
            c.line(120 + 75 * k, 301, x, 351, "green" if useful else "red", dash="" if useful else "3 3")
        c.label(x - 24, 354, 48, 30, f"out[{o}]", "grey")
    c.text(690, 346, "green: useful", "green", 13, at="start")
    c.text(690, 370, "red: times zero", "red", 13, at="start")
    c.notes(412, "In one dimension half of the products are with zeros, in two 3/4, in three 7/8.")
    return c


def pipeline() -> Canvas:
    """The time of one thread block: a producer that loads, and two consumers that multiply."""
    c = Canvas(900, 372, "The pipeline of a thread block: one producer warpgroup, two consumer warpgroups, three slots")
    left, wide, high = 130, 62, 40
    rows = {"producer": 66, "consumer 0": 136, "consumer 1": 206}
    c.text(left, 22, "time", "soft", 13, at="start")
    c.line(left + 34, 22, 880, 22, "soft", arrow=True)
    for name, y in rows.items():
        c.text(20, y + high / 2 - 8, name, at="start", bold=True)
        c.text(20, y + high / 2 + 9, "TMA loads" if name == "producer" else "wgmma", "soft", 12, at="start")
    colours = ("blue", "orange", "green")
    loads = [0, 1, 2, 3.4, 4.4, 5.4, 6.5, 7.5, 8.5]
    for step, at in enumerate(loads):
        slot = step % 3
        c.label(
            left + at * wide, rows["producer"], wide - 4, high, f"slot {slot}", f"pale {colours[slot]}", colours[slot]
        )
    multiplies = [1.15, 2.2, 3.25, 4.55, 5.6, 6.65]
    for step, at in enumerate(multiplies):
        slot = step % 3
        for name in ("consumer 0", "consumer 1"):
            c.label(
                left + at * wide, rows[name], wide - 3, high, f"slot {slot}", f"pale {colours[slot]}", colours[slot]
            )
    for name in ("consumer 0", "consumer 1"):
        c.label(left + 7.75 * wide, rows[name], 2.3 * wide, high, "bias, activation, store", "grey", size=12)
        c.label(left + 10.1 * wide, rows[name], wide - 3, high, "slot 0", "pale blue", "blue")
    c.line(left + 0.95 * wide, rows["producer"] + high, left + 1.25 * wide, rows["consumer 0"] - 2, "blue", arrow=True)
    c.text(left + 0.62 * wide, rows["producer"] + high + 16, "full", "blue", 12)
    c.line(
        left + 2.1 * wide,
        rows["consumer 0"],
        left + 3.45 * wide,
        rows["producer"] + high + 2,
        "blue",
        arrow=True,
        dash="4 3",
    )
    c.text(left + 3.2 * wide, rows["producer"] + high + 18, "empty", "blue", 12)
    c.line(left + 6.4 * wide, 54, left + 6.4 * wide, rows["producer"] + high + 6, "soft", dash="2 4")
    c.text(left + 6.5 * wide, 50, "loads of the next tile", "soft", 12, at="start")
    c.notes(
        278,
        "A slot holds the pixels and the weights of one step: some channels of one tap, or of several taps that share a load.",
        "full (solid): the bytes have arrived, a consumer may multiply. empty (dashed): both consumers have read the slot.",
        "The block is persistent. It goes on to its next tile, whose loads begin while consumers finish this one.",
        "Each consumer keeps the sums of its part of the tile in registers, over all taps and all channels.",
    )
    return c


def fused_backward() -> Canvas:
    """The backward pass of a depthwise layer with an activation, apart and fused: the tensors that move."""
    c = Canvas(
        900,
        478,
        "The backward pass of a depthwise layer: three programs that move seven tensors, or one that moves four",
    )

    def tensor(x: float, y: float, name: str, written: bool = False) -> None:
        colour = "green" if written else "blue"
        c.label(x, y, 74, 30, name, f"pale {colour}", colour)

    def program(x: float, y: float, w: float, h: float, said: str) -> None:
        c.label(x, y, w, h, said, "grey")

    c.text(20, 22, "Apart: 7 tensors move", at="start", bold=True)
    tensor(60, 50, "ct")
    tensor(60, 96, "saved")
    program(190, 62, 150, 52, "XLA\ng = ct * act'(saved)")
    c.line(135, 65, 187, 80, "blue", arrow=True)
    c.line(135, 111, 187, 97, "blue", arrow=True)
    tensor(398, 73, "g", True)
    c.line(341, 88, 395, 88, "green", arrow=True)
    program(560, 46, 150, 40, "input gradient")
    program(560, 108, 150, 40, "weight gradient")
    c.line(473, 82, 557, 66, "blue", arrow=True)
    c.line(473, 94, 557, 120, "blue", arrow=True)
    tensor(398, 130, "x")
    c.line(473, 145, 557, 134, "blue", arrow=True)
    tensor(770, 51, "dx", True)
    c.line(711, 66, 767, 66, "green", arrow=True)
    c.text(807, 128, "dw, db", "green", 14)
    c.line(711, 128, 776, 128, "green", arrow=True)
    c.notes(
        186,
        "read: ct, saved, g twice, x.  written: g, dx.  Weights and their gradients are small, and are not counted.",
    )

    c.line(20, 210, 880, 210, "line")
    c.text(20, 236, "Fused: 4 tensors move", at="start", bold=True)
    for i, name in enumerate(("ct", "saved", "x")):
        tensor(60, 268 + 44 * i, name)
        c.line(135, 283 + 44 * i, 187, 283 + 44 * i, "blue", arrow=True)
    c.box(190, 256, 520, 150, "none", "soft")
    c.text(700, 271, "one kernel, one strip of an image", "soft", 12, "end")
    program(204, 290, 104, 84, "ring of rows\nin shared\nmemory")
    program(342, 304, 134, 56, "g = ct * act'\nas a chunk arrives")
    c.line(309, 332, 339, 332, "soft", arrow=True)
    program(530, 286, 166, 34, "dx += g * w, per tap")
    program(530, 330, 166, 34, "dw += g * x, per tap")
    program(530, 372, 166, 26, "db += g")
    c.line(477, 322, 527, 305, "soft", arrow=True)
    c.line(477, 334, 527, 346, "soft", arrow=True)
    c.line(477, 348, 527, 382, "soft", arrow=True)
    tensor(770, 288, "dx", True)
    c.line(697, 303, 767, 303, "green", arrow=True)
    c.text(807, 362, "dw, db", "green", 14)
    c.line(697, 347, 774, 358, "green", arrow=True)
    c.line(697, 385, 774, 367, "green", arrow=True)
    c.notes(
        432,
        "read: ct, saved, x.  written: dx.  Rows of g are read from shared memory twice, for dx and for dw.",
        "It takes the registers of both kernels, which allows taps up to about 5x5. Larger layers run the two kernels.",
    )
    return c


DRAWINGS: dict[str, Callable[[], Canvas]] = {
    "shifted": shifted,
    "phases": phases,
    "pipeline": pipeline,
    "fused-backward": fused_backward,
}


def files() -> dict[str, str]:
    """The names of all files, and what is in them."""
    return {f"{name}-{theme}.svg": draw().svg(theme) for name, draw in DRAWINGS.items() for theme in THEMES}


if __name__ == "__main__":
    for name, text in files().items():
        (HERE / name).write_text(text, encoding="utf-8")
