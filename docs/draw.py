"""Draws the figures of the documentation: python docs/draw.py [FOLDER], by default this one.

grid.svg: the cells of a locally shared convolution; interweaved.svg: blocks of an interweaved map; peaks.svg: the peaks
that faceattr.ops.find_peaks sees in a map, and the positions that assign_peaks gives to each.
"""

import sys
from pathlib import Path

import torch

from faceattr.ops import assign_peaks, find_peaks

COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#b6992d", "#b07aa1", "#76b7b2")
STEP = 22  # side of a position
INK = "#808080"  # on white and on black


def square(x, y, colour, text="", opacity=0.75, side=STEP):
    shape = f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="{colour}" fill-opacity="{opacity}"'
    shape += f' stroke="{INK}" stroke-width="0.5"/>'
    return shape + (label(x + side / 2, y + side / 2 + 4, text, 10, colour="#202020") if text else "")


def frame(x, y, rows, columns, colour=INK, width=2.0):
    return (
        f'<rect x="{x}" y="{y}" width="{columns * STEP}" height="{rows * STEP}" fill="none" stroke="{colour}" '
        f'stroke-width="{width}"/>'
    )


def label(x, y, text, size=13, colour=INK):
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="middle" fill="{colour}">{text}</text>'


def line(x0, y0, x1, y1):
    return f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="{INK}" stroke-dasharray="3 3"/>'


def svg(width, height, parts):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    head += f'viewBox="0 0 {width} {height}" font-family="sans-serif">'
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def draw_grid():
    """A kernel of 3 x 3 over 9 x 8 positions gives 7 x 6; a grid of 3 x 2 cells lies over those."""
    grid, size, kernel, (row, column) = (3, 2), (7, 6), 3, (4, 1)
    left, top, gap = 20, 40, 110
    parts = [label(left + 4 * STEP, 24, "input 9 x 8"), label(left + 8 * STEP + gap + 3 * STEP, 24, "output 7 x 6")]
    for y in range(size[0] + kernel - 1):
        for x in range(size[1] + kernel - 1):
            parts.append(square(left + x * STEP, top + y * STEP, INK, opacity=0.08))
    right, down = left + 8 * STEP + gap, top + STEP
    for y in range(size[0]):
        for x in range(size[1]):
            cell = y * grid[0] // size[0], x * grid[1] // size[1]
            colour = COLOURS[cell[0] * grid[1] + cell[1]]
            parts.append(square(right + x * STEP, down + y * STEP, colour, f"{cell[0]},{cell[1]}"))
    x, y = left + column * STEP, top + row * STEP
    parts.append(frame(x, y, kernel, kernel, COLOURS[2]))
    parts.append(frame(right + column * STEP, down + row * STEP, 1, 1, "#202020"))
    for corner in (0, kernel):
        end = down + row * STEP + (STEP if corner else 0)
        parts.append(line(x + kernel * STEP, y + corner * STEP, right + column * STEP, end))
    middle = left + 8 * STEP + gap / 2
    parts += [label(middle, top + 2 * STEP, "filters of"), label(middle, top + 3 * STEP, "cell 1,0")]
    return svg(right + size[1] * STEP + 20, top + 9 * STEP + 20, parts)


def draw_interweaved():
    """The maps of 2 x 3 cells, shift 1: block (i, j) of 3 x 3 holds the cells at (i, j), each shifted by its place."""
    grid, blocks, (i, j) = (2, 3), (3, 3), (1, 1)
    left, top, gap = 20, 40, 14
    height, width = blocks[0] + grid[0] - 1, blocks[1] + grid[1] - 1
    parts = [label(left + (3 * width * STEP + 2 * gap) / 2, 24, "maps of 2 x 3 cells, shift 1")]
    for p in range(grid[0]):
        for q in range(grid[1]):
            x0, y0 = left + q * (width * STEP + gap), top + p * (height * STEP + gap)
            for y in range(height):
                for x in range(width):
                    seen = 0 <= y - p < blocks[0] and 0 <= x - q < blocks[1]
                    parts.append(
                        square(x0 + x * STEP, y0 + y * STEP, COLOURS[p * 3 + q], opacity=0.75 if seen else 0.15)
                    )
            parts.append(frame(x0 + (j + q) * STEP, y0 + (i + p) * STEP, 1, 1))
    right = left + 3 * (width * STEP + gap) + 50
    down = top + 30
    parts.append(label(right + blocks[1] * grid[1] * STEP / 2, 24, "interweaved: 3 x 3 blocks"))
    for y in range(blocks[0] * grid[0]):
        for x in range(blocks[1] * grid[1]):
            parts.append(square(right + x * STEP, down + y * STEP, COLOURS[y % grid[0] * 3 + x % grid[1]]))
    for y in range(blocks[0]):
        for x in range(blocks[1]):
            parts.append(frame(right + x * grid[1] * STEP, down + y * grid[0] * STEP, *grid, width=1.5))
    parts.append(frame(right + j * grid[1] * STEP, down + i * grid[0] * STEP, *grid, width=3.5))
    return svg(right + blocks[1] * grid[1] * STEP + 20, top + 2 * (height * STEP + gap) + 10, parts)


def draw_peaks():
    """Two hills and what belongs to each."""
    y, x = torch.meshgrid(torch.arange(13.0), torch.arange(24.0), indexing="ij")
    hills = ((4, 6, 3.0, 1.0), (8, 17, 2.5, 0.7))
    density = sum(h * torch.exp(-((y - r) ** 2 + (x - c) ** 2) / (2 * w * w)) for r, c, w, h in hills)
    peaks = find_peaks(density, threshold=0.08, max_peaks=2, min_distance=1.5)
    owner = assign_peaks(peaks.parent, peaks)
    left, top, side = 20, 20, 18
    parts = []
    for r in range(13):
        for c in range(24):
            one = int(owner[r, c])
            colour, opacity = (INK, 0.08) if one < 0 else (COLOURS[one], round(0.2 + 0.75 * float(density[r, c]), 2))
            parts.append(square(left + c * side, top + r * side, colour, opacity=opacity, side=side))
    for r in range(13):
        for c in range(24):
            parent = int(peaks.parent[r, c])
            if parent >= 0:
                x0, x1 = (left + (column + 0.5) * side for column in (c, parent % 24))
                y0, y1 = (top + (row + 0.5) * side for row in (r, parent // 24))
                parts.append(f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="{INK}" stroke-width="0.8"/>')
    for number, index in enumerate(peaks.index.tolist()):
        x0, y0 = left + (index % 24 + 0.5) * side, top + (index // 24 + 0.5) * side
        parts.append(f'<circle cx="{x0}" cy="{y0}" r="7" fill="{COLOURS[number]}" stroke="white" stroke-width="2"/>')
    return svg(left * 2 + 24 * side, top * 2 + 13 * side, parts)


FIGURES = {"grid.svg": draw_grid, "interweaved.svg": draw_interweaved, "peaks.svg": draw_peaks}

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, draw in FIGURES.items():
        (folder / name).write_text(draw())
