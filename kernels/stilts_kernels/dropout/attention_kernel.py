"""The Triton kernels of attention over packed rows with dropout of its probabilities, which never reach memory.

Forward with a running maximum and sum, backward from the saved logarithm of the sum (Dao, "FlashAttention-2", 2023);
the masks are hashed again wherever probabilities are. Legend: rows one after the other, h heads, d size of a head;
programs own BM queries or BN keys of one row and head, and walk over the other side.
"""

from __future__ import annotations

import triton
import triton.language as tl

from stilts_kernels.dropout.kernel import fold_key, keep

NOTHING = tl.constexpr(-1.0e38)  # a score beyond the row's end


@triton.jit
def load_tile(
    source: tl.tensor,
    first: tl.tensor,
    position: tl.tensor,
    length: tl.tensor,
    heads: tl.tensor,
    head: tl.tensor,
    size: tl.tensor,
    BD: tl.constexpr,
) -> tl.tensor:
    """Vectors of the tokens at `position` [n] in a row: [n, BD], zero beyond the row and the head's size."""
    column = tl.arange(0, BD)
    at = ((first + position) * heads + head)[:, None] * size + column[None, :]
    return tl.load(source + at, mask=(position < length)[:, None] & (column < size)[None, :], other=0.0)


@triton.jit
def store_tile(
    target: tl.tensor,
    values: tl.tensor,
    first: tl.tensor,
    position: tl.tensor,
    length: tl.tensor,
    heads: tl.tensor,
    head: tl.tensor,
    size: tl.tensor,
    BD: tl.constexpr,
) -> None:
    """What `load_tile` reads, written."""
    column = tl.arange(0, BD)
    at = ((first + position) * heads + head)[:, None] * size + column[None, :]
    inside = (position < length)[:, None] & (column < size)[None, :]
    tl.store(target + at, values.to(target.dtype.element_ty), mask=inside)


@triton.jit
def keep_tile(
    key: tl.tensor, words: tl.tensor, stride: tl.tensor, i: tl.tensor, j: tl.tensor, length: tl.tensor, least: tl.tensor
) -> tl.tensor:
    """Which probabilities of queries i [m] and keys j [n] stay: [m, n]."""
    inside = (i < length)[:, None] & (j < length)[None, :]
    word = tl.load(words + i[:, None] * stride + (j // 2)[None, :], mask=inside, other=0)
    return keep(key[:, None], word.to(tl.uint32, bitcast=True), j[None, :], least)


@triton.jit
def row_of(offsets: tl.tensor, keys: tl.tensor, heads: tl.tensor, site: tl.tensor) -> tuple[tl.tensor, ...]:
    """(first token, length, head, key [1]) of this program's row and head."""
    number = tl.program_id(1)
    # int64, as tokens times channels pass 2^31; the length of one row does not.
    first = tl.load(offsets + number // heads)
    length = (tl.load(offsets + number // heads + 1) - first).to(tl.int32)
    key = tl.load(keys + number + tl.arange(0, 1)).to(tl.uint64, bitcast=True)
    return first, length, number % heads, fold_key(key, tl.full([1], 0, tl.uint64) + site)


@triton.jit(do_not_specialize=["site", "least"])
def forward_kernel(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, out: tl.tensor, logs: tl.tensor, offsets: tl.tensor, keys: tl.tensor,
    words: tl.tensor, heads: tl.tensor, size: tl.tensor, stride: tl.tensor, site: tl.tensor, least: tl.tensor,
    scale: tl.tensor, factor: tl.tensor, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
) -> None:  # fmt: skip
    """out [T, h, d] and the logarithms of the sums of exponentials [T, h]."""
    first, length, head, key = row_of(offsets, keys, heads, site)
    begin = tl.program_id(0) * BM
    if begin < length:
        i = begin + tl.arange(0, BM)
        queries = load_tile(q, first, i, length, heads, head, size, BD)
        top = tl.full([BM], NOTHING, tl.float32)
        total = tl.zeros([BM], tl.float32)
        sums = tl.zeros([BM, BD], tl.float32)
        for start in range(0, length, BN):
            j = start + tl.arange(0, BN)
            scores = tl.dot(
                queries, tl.trans(load_tile(k, first, j, length, heads, head, size, BD)), input_precision="ieee"
            )
            scores = tl.where((j < length)[None, :], scores * scale, NOTHING)
            higher = tl.maximum(top, tl.max(scores, 1))
            weights = tl.exp(scores - higher[:, None])
            # What was summed under the old maximum is brought to the new one.
            shrink = tl.exp(top - higher)
            # The sum is over all probabilities: what is dropped is so after the softmax.
            total = total * shrink + tl.sum(weights, 1)
            weights = tl.where(keep_tile(key, words, stride, i, j, length, least), weights, 0.0)
            values = load_tile(v, first, j, length, heads, head, size, BD)
            sums = sums * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
            top = higher
        store_tile(out, sums / total[:, None] * factor, first, i, length, heads, head, size, BD)
        tl.store(logs + (first + i) * heads + head, top + tl.log(total), mask=i < length)


@triton.jit
def probabilities_and_gradients(
    queries: tl.tensor,
    keys_: tl.tensor,
    values: tl.tensor,
    gradient: tl.tensor,
    log: tl.tensor,
    delta: tl.tensor,
    kept: tl.tensor,
    inside: tl.tensor,
    scale: tl.tensor,
    factor: tl.tensor,
) -> tuple[tl.tensor, ...]:
    """(probabilities after dropout, gradients of the scores before they are scaled), [m, n] each."""
    scores = tl.dot(queries, tl.trans(keys_), input_precision="ieee") * scale
    weights = tl.where(inside, tl.exp(scores - log[:, None]), 0.0)
    # `delta` stands for the sum over a row that the gradient of a softmax needs, so one pass is enough.
    of_weights = tl.dot(gradient, tl.trans(values), input_precision="ieee")
    of_weights = tl.where(kept, of_weights * factor, 0.0)
    return tl.where(kept, weights * factor, 0.0), weights * (of_weights - delta[:, None])


@triton.jit(do_not_specialize=["site", "least"])
def query_gradient_kernel(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, gradient: tl.tensor, logs: tl.tensor, deltas: tl.tensor, dq: tl.tensor,
    offsets: tl.tensor, keys: tl.tensor, words: tl.tensor, heads: tl.tensor, size: tl.tensor, stride: tl.tensor,
    site: tl.tensor, least: tl.tensor, scale: tl.tensor, factor: tl.tensor, BM: tl.constexpr, BN: tl.constexpr,
    BD: tl.constexpr,
) -> None:  # fmt: skip
    """Gradient of BM queries, over all keys of their row."""
    first, length, head, key = row_of(offsets, keys, heads, site)
    begin = tl.program_id(0) * BM
    # Rows are of different lengths and the grid is that of the longest: programs beyond a row's end have nothing to do.
    if begin < length:
        i = begin + tl.arange(0, BM)
        queries = load_tile(q, first, i, length, heads, head, size, BD)
        upper = load_tile(gradient, first, i, length, heads, head, size, BD)
        log = tl.load(logs + (first + i) * heads + head, mask=i < length, other=0.0)
        delta = tl.load(deltas + (first + i) * heads + head, mask=i < length, other=0.0)
        sums = tl.zeros([BM, BD], tl.float32)
        for start in range(0, length, BN):
            j = start + tl.arange(0, BN)
            keys_ = load_tile(k, first, j, length, heads, head, size, BD)
            values = load_tile(v, first, j, length, heads, head, size, BD)
            kept = keep_tile(key, words, stride, i, j, length, least)
            inside = (i < length)[:, None] & (j < length)[None, :]
            _, of_scores = probabilities_and_gradients(
                queries, keys_, values, upper, log, delta, kept, inside, scale, factor
            )
            sums += tl.dot(of_scores.to(keys_.dtype), keys_, input_precision="ieee")
        store_tile(dq, sums * scale, first, i, length, heads, head, size, BD)


@triton.jit(do_not_specialize=["site", "least"])
def key_gradient_kernel(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, gradient: tl.tensor, logs: tl.tensor, deltas: tl.tensor, dk: tl.tensor,
    dv: tl.tensor, offsets: tl.tensor, keys: tl.tensor, words: tl.tensor, heads: tl.tensor, size: tl.tensor,
    stride: tl.tensor, site: tl.tensor, least: tl.tensor, scale: tl.tensor, factor: tl.tensor, BM: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr,
) -> None:  # fmt: skip
    """Gradients of BN keys and values, over all queries of their row."""
    first, length, head, key = row_of(offsets, keys, heads, site)
    begin = tl.program_id(0) * BN
    if begin < length:
        j = begin + tl.arange(0, BN)
        keys_ = load_tile(k, first, j, length, heads, head, size, BD)
        values = load_tile(v, first, j, length, heads, head, size, BD)
        of_keys = tl.zeros([BN, BD], tl.float32)
        of_values = tl.zeros([BN, BD], tl.float32)
        for start in range(0, length, BM):
            i = start + tl.arange(0, BM)
            queries = load_tile(q, first, i, length, heads, head, size, BD)
            upper = load_tile(gradient, first, i, length, heads, head, size, BD)
            log = tl.load(logs + (first + i) * heads + head, mask=i < length, other=0.0)
            delta = tl.load(deltas + (first + i) * heads + head, mask=i < length, other=0.0)
            kept = keep_tile(key, words, stride, i, j, length, least)
            inside = (i < length)[:, None] & (j < length)[None, :]
            weights, of_scores = probabilities_and_gradients(
                queries, keys_, values, upper, log, delta, kept, inside, scale, factor
            )
            of_values += tl.dot(tl.trans(weights.to(upper.dtype)), upper, input_precision="ieee")
            of_keys += tl.dot(tl.trans(of_scores.to(queries.dtype)), queries, input_precision="ieee")
        store_tile(dk, of_keys * scale, first, j, length, heads, head, size, BD)
        store_tile(dv, of_values, first, j, length, heads, head, size, BD)
