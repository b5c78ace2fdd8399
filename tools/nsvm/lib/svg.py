# SPDX-License-Identifier: GPL-2.0
"""A picture as SVG: texts and boxes"""
from dataclasses import dataclass, field
from typing import Iterable
from xml.sax.saxutils import escape

COLOURS = ('#2b5d9b', '#2f8f9d', '#c8452f', '#8a5a9e', '#6b6b6b', '#b36a00', '#2a7f4f', '#444444')
Names = dict[str, str]		# a value -> what a picture calls it
FONT = 'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="13"'


def colours_of(values: Iterable[str]) -> dict[str, str]:
    """A colour for each value, in this order."""
    return {v: COLOURS[i % len(COLOURS)] for i, v in enumerate(dict.fromkeys(values))}


@dataclass
class Picture:
    """Sizes and places are pixels, from the upper left"""
    title: str
    width: int
    height: int
    shapes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.box(0, 0, self.width, self.height, '#fff')

    def text(self, x: float, y: int, text: object, style: str) -> None:
        self.shapes.append(f'<text x="{int(x)}" y="{y}" {style}>{escape(str(text))}</text>')

    def box(self, x: float, y: int, width: int, height: int, fill: str, style: str = '') -> None:
        self.shapes.append(
            f'<rect x="{int(x)}" y="{y}" width="{width}" height="{height}" fill="{fill}" {style}/>')

    def cell(self, x: float, y: int, width: int, height: int, label: object, fill: str,
             style: str = '', text_style: str = 'fill="#fff"') -> None:
        """A box, and a label in its middle."""
        self.box(x, y, width, height, fill, style)
        self.text(x + width / 2, y + height // 2 + 4, label,
                  f'text-anchor="middle" font-size="12" {text_style}')

    def heading(self, title: str, text: str) -> None:
        """The title of the whole, and a line that says what there is to see."""
        self.text(16, 28, title, 'font-size="17" font-weight="bold" fill="#222"')
        self.text(16, 48, text, 'fill="#555"')

    def legend(self, y: int, colours: dict[str, str], names: Names) -> None:
        """What each colour stands for: a value, and its name if it has one."""
        x: float = 16
        for value, colour in colours.items():
            label = f'{value} {names.get(value, "")}'.strip()
            self.box(x, y, 14, 14, colour)
            self.text(x + 20, y + 12, label, 'fill="#222" font-size="12"')
            x += 40 + 7.6 * len(label)

    def __str__(self) -> str:
        return '\n'.join([
            '<!-- SPDX-License-Identifier: GPL-2.0 -->', '<svg xmlns="http://www.w3.org/2000/svg" '
            f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}" '
            f'{FONT}>', f'<title>{escape(self.title)}</title>', *self.shapes, '</svg>', ''])
