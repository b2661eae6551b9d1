"""Locally shared convolution, forward, in Triton: a rival, no part of the library. mma.sync, on Hopper wgmma."""

import torch
import triton
import triton.language as tl


@triton.jit
def forward(
    x,
    w,
    b,
    out,
    batch,
    height,
    width,
    channels,
    outs,
    out_height,
    out_width,
    cells_y,
    cells_x,
    row_tiles,
    column_tiles,
    x_n,
    x_y,
    x_x,
    out_n,
    out_c,
    out_y,
    out_x,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SY: tl.constexpr,
    SX: tl.constexpr,
    PY: tl.constexpr,
    PX: tl.constexpr,
    DY: tl.constexpr,
    DX: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    CHUNKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    pid = tl.program_id(0)
    column, rest = pid % column_tiles, pid // column_tiles
    tile, cell = rest % row_tiles, rest // row_tiles
    p, q = cell // cells_x, cell % cells_x
    top, left = (p * out_height + cells_y - 1) // cells_y, (q * out_width + cells_x - 1) // cells_x
    h = ((p + 1) * out_height + cells_y - 1) // cells_y - top
    v = ((q + 1) * out_width + cells_x - 1) // cells_x - left
    r = tile * BM + tl.arange(0, BM)
    n, i, j = r // (h * v), r // v % h + top, r % v + left
    if tile * BM < batch * h * v:
        valid = n < batch
        o = column * BN + tl.arange(0, BN)
        k = tl.arange(0, BK)
        y0, x0 = i * SY - PY, j * SX - PX
        source = x + n.to(tl.int64) * x_n
        filters = w + cell.to(tl.int64) * (KH * KW * outs * channels) + o * channels
        sums = tl.zeros((BM, BN), dtype=tl.float32)
        for step in range(KH * KW * CHUNKS):
            tap, c = step // CHUNKS, step % CHUNKS * BK + k
            yy, xx = y0 + tap // KW * DY, x0 + tap % KW * DX
            inside = valid & (yy >= 0) & (yy < height) & (xx >= 0) & (xx < width)
            rows = tl.load(
                source[:, None] + (yy * x_y + xx * x_x)[:, None] + c[None, :],
                mask=inside[:, None] & (c < channels)[None, :],
                other=0.0,
            )
            columns = tl.load(
                filters[None, :] + tap * outs * channels + c[:, None],
                mask=(o < outs)[None, :] & (c < channels)[:, None],
                other=0.0,
            )
            sums = tl.dot(rows, columns, sums, input_precision=PRECISION)
        if b is not None:
            sums += tl.load(b + cell * outs + o, mask=o < outs, other=0.0).to(tl.float32)[None, :]
        to = out + n.to(tl.int64)[:, None] * out_n + (i * out_y + j * out_x)[:, None] + o[None, :] * out_c
        tl.store(to, sums.to(out.dtype.element_ty), mask=valid[:, None] & (o < outs)[None, :])


def locally_shared(x, w, b, BM, BN, BK, warps, stages, precision, stride=(1, 1), padding=(0, 0), dilation=(1, 1)):
    """x channels_last; w as channels_last_filters lays it out."""
    batch, channels, height, width = x.shape
    cells_y, cells_x, outs, _, KH, KW = w.shape
    out_height = (height + 2 * padding[0] - dilation[0] * (KH - 1) - 1) // stride[0] + 1
    out_width = (width + 2 * padding[1] - dilation[1] * (KW - 1) - 1) // stride[1] + 1
    sizes = batch, outs, out_height, out_width
    out = torch.empty(sizes, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    row_tiles = triton.cdiv(batch * -(-out_height // cells_y) * -(-out_width // cells_x), BM)
    column_tiles = triton.cdiv(outs, BN)
    forward[(cells_y * cells_x * row_tiles * column_tiles,)](
        *(x, w, b, out, batch, height, width, channels, outs, out_height, out_width),
        *(cells_y, cells_x, row_tiles, column_tiles, x.stride(0), x.stride(2), x.stride(3)),
        *(out.stride(0), out.stride(1), out.stride(2), out.stride(3), KH, KW, *stride, *padding, *dilation),
        *(BM, BN, BK, triton.cdiv(channels, BK), precision),
        num_warps=warps,
        num_stages=stages,
    )
    return out
