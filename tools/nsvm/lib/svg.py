# SPDX-License-Identifier: GPL-2.0
"""A picture as SVG: texts and boxes"""
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

COLOURS = ('#2b5d9b', '#2f8f9d', '#c8452f', '#8a5a9e', '#6b6b6b', '#b36a00', '#2a7f4f', '#444444')
Names = dict[str, str]		# a value -> what a picture calls it
FONT = 'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="13"'


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

    def __str__(self) -> str:
        return '\n'.join([
            '<!-- SPDX-License-Identifier: GPL-2.0 -->', '<svg xmlns="http://www.w3.org/2000/svg" '
            f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}" '
            f'{FONT}>', f'<title>{escape(self.title)}</title>', *self.shapes, '</svg>', ''])
