// One search of a range of bank rows by all panels of queries, for one instruction set (see tiles.h).

// Which of a row's sums may reach the floor of their query or of the row: one bit a query. `most` is a query's level and
// what the bound allows for rounding, with the largest norm and error of the block in place of the row's own.
#if SCREEN_ISA >= 4
TARGET static uint32_t may_reach(const int32_t* sums, const Bank& x, long row, const float* query_scale,
                                 const float* most, const float* floor, float row_floor) {
  const __m512 scale = _mm512_set1_ps(x.scale[row]), shift = _mm512_set1_ps(x.shift[row]);
  uint32_t hits = 0;
  for (int j = 0; j < PANEL; j += 16) {
    const __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(sums + j)), scale);
    __m512 bound = _mm512_add_ps(shift, _mm512_loadu_ps(most + j));
    bound = _mm512_fmadd_ps(sum, _mm512_loadu_ps(query_scale + j), bound);
    const __m512 least = _mm512_min_ps(_mm512_loadu_ps(floor + j), _mm512_set1_ps(row_floor));
    hits |= (uint32_t)_mm512_cmp_ps_mask(bound, least, _CMP_GE_OQ) << j;
  }
  return hits;
}
#elif SCREEN_ISA >= 2
TARGET static uint32_t may_reach(const int32_t* sums, const Bank& x, long row, const float* query_scale,
                                 const float* most, const float* floor, float row_floor) {
  const __m256 scale = _mm256_set1_ps(x.scale[row]), shift = _mm256_set1_ps(x.shift[row]);
  uint32_t hits = 0;
  for (int j = 0; j < PANEL; j += 8) {
    const __m256 sum = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i*)(sums + j))), scale);
    __m256 bound = _mm256_add_ps(shift, _mm256_loadu_ps(most + j));
    bound = _mm256_fmadd_ps(sum, _mm256_loadu_ps(query_scale + j), bound);
    const __m256 least = _mm256_min_ps(_mm256_loadu_ps(floor + j), _mm256_set1_ps(row_floor));
    hits |= (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(bound, least, _CMP_GE_OQ)) << j;
  }
  return hits;
}
#else
TARGET static uint32_t may_reach(const int32_t* sums, const Bank& x, long row, const float* query_scale,
                                 const float* most, const float* floor, float row_floor) {
  uint32_t hits = 0;
  for (int j = 0; j < PANEL; j++) {
    const float bound = sums[j] * x.scale[row] * query_scale[j] + (x.shift[row] + most[j]);
    hits |= (uint32_t)(bound >= std::min(floor[j], row_floor)) << j;
  }
  return hits;
}
#endif

// Eight floats that compare and choose side by side on every processor, whatever a compiler makes of a loop.
typedef float Eight __attribute__((vector_size(32)));
TARGET static inline Eight eight(const float* from) {
  Eight values;
  __builtin_memcpy(&values, from, sizeof values);
  return values;
}

struct Bounds {
  float upper, lower;
};

struct Reached {
  int32_t at, sum;  // at: row of the block * PANEL + query of the panel
};

struct Worker {
  Screen& screen;
  const Bank& x;
  const Queries& q;
  long dim, wide;
  Hit bucket[PANEL][BLOCK];  // where no sketch is kept
  int filled[PANEL];
  float block_norm, block_error, block_shift_lost;  // the largest of the rows in work
  float first[BLOCK][PANEL];               // upper bounds of a panel's first block
  alignas(64) float best[MOST_SKETCHED][PANEL];
  Reached reached[BLOCK * PANEL + 4];      // `note` writes up to three more than there are
  Hit waiting[BLOCK * PANEL];

  Worker(Screen& screen, const Bank& x, const Queries& q, long dim, long wide)
      : screen(screen), x(x), q(q), dim(dim), wide(wide) {}

  void take_block(long first_row, long last_row) {
    block_norm = *std::max_element(x.norm + first_row, x.norm + last_row);
    block_error = *std::max_element(x.error + first_row, x.error + last_row);
    block_shift_lost = x.other_norm * (screen.shift_roundings * (block_norm + block_error) + UNDERFLOW_NORM);
  }

  float allowed(long slot, long row) const { return q.error[slot] * x.norm[row] + q.norm[slot] * x.error[row]; }

  // An upper bound less twice all that was added to it, and what the subtraction loses.
  TARGET float lower_bound(float upper, float more, float level) const {
    const float lost = block_shift_lost + 17 * ROUNDOFF * std::fabs(level) + UNDERFLOW_LEVEL;
    return upper - 2.002f * (more + lost) - 4 * ROUNDOFF * std::fabs(upper);
  }

  TARGET Bounds bound(int32_t sum, long slot, long row) const {
    const float more = allowed(slot, row);
    const float upper = sum * x.scale[row] * q.scale[slot] + (x.shift[row] + q.level[slot]) + more;
    return {upper, lower_bound(upper, more, q.level[slot])};
  }

  // All sums of a panel with a block of rows; what reaches a floor is kept.
  TARGET void multiply(long first_row, long last_row, long panel) {
    alignas(64) int32_t sums[TILE_ROWS * PANEL] = {};  // a group of nothing but padding is left as it is
    alignas(64) float most[PANEL];
    const Starts starts = {q.sums + panel * PANEL, q.lanes + panel * (wide / SEGMENT) * 2 * PANEL};
    const long slot = panel * PANEL;
    const int groups = q.count - slot > GROUP ? 2 : 1;
    for (int j = 0; j < PANEL; j++)
      most[j] = q.level[slot + j] + q.error[slot + j] * block_norm + q.norm[slot + j] * block_error;
    const bool begins = screen.begins(panel);
    if (begins)
      for (int place = 0; place < screen.queries.k; place++) std::fill(best[place], best[place] + PANEL, -INFINITY);
    int count = 0;
    for (long row = first_row, rows; row < last_row; row += rows) {
      rows = rows_of_tile(last_row - row);
      tile(x.bytes + row * wide, wide, q.bytes + slot * wide, starts, groups, rows, sums);
      for (int r = 0; r < rows; r++) {
        if (begins) {
          sketch_row(sums + r * PANEL, slot, row + r, first[row + r - first_row]);
          continue;
        }
        const float row_floor = screen.rows.k ? screen.rows.floor[x.first + row + r] : INFINITY;
        const uint32_t hits =
            may_reach(sums + r * PANEL, x, row + r, q.scale + slot, most, screen.queries.floor + slot, row_floor);
        if (hits) count = note(hits, row + r - first_row, sums + r * PANEL, count);
      }
    }
    if (begins)
      begin(first_row, last_row, slot);
    else if (screen.sketched())
      defer(first_row, slot, count);
    else
      fill_buckets(first_row, slot, count);
  }

  // Writes down which sums of a row reached. Four at a time whether there are as many: how many is not to be foreseen,
  // and a branch that goes another way than foreseen costs more.
  TARGET int note(uint32_t hits, int row, const int32_t* sums, int count) {
    const int total = count + __builtin_popcount(hits);
    for (Reached* to = reached + count; hits; to += 4)
      for (int i = 0; i < 4; i++, hits &= hits - 1) {
        const int j = __builtin_ctz(hits | 1u << 31);
        to[i] = {row * PANEL + j, sums[j]};
      }
    return total;
  }

  TARGET void fill_buckets(long first_row, long slot, int count) {
    std::fill(filled, filled + PANEL, 0);
    for (int i = 0; i < count; i++) {
      const int j = reached[i].at % PANEL;
      const long row = first_row + reached[i].at / PANEL;
      const float upper = bound(reached[i].sum, slot + j, row).upper;
      bucket[j][filled[j]++] = {(int32_t)(slot + j), (int32_t)(x.first + row), upper};
    }
  }

  // What reached raises the floors by its lower bounds, and waits. Without branches, for the same reason.
  TARGET void defer(long first_row, long slot, int count) {
    int kept = 0;
    for (int i = 0; i < count; i++) {
      const long query = slot + reached[i].at % PANEL, row = first_row + reached[i].at / PANEL;
      const Bounds bounds = bound(reached[i].sum, query, row);
      waiting[kept] = {(int32_t)query, (int32_t)(x.first + row), bounds.upper};
      kept += bounds.upper >= screen.queries.floor[query];
      float* sketch = screen.sketch_of(query);
      // Places fall, so one of two neighbours and the new value moves to each. The last places go first, for the vector
      // before is read as it was.
      const Eight value = Eight{} + bounds.lower;
      for (int at = screen.sketch_width - 8; at >= 0; at -= 8) {
        const Eight before = eight(sketch + at - 1), held = eight(sketch + at);
        const Eight fresh = before < value ? before : value;
        const Eight best = fresh > held ? fresh : held;
        __builtin_memcpy(sketch + at, &best, sizeof best);
      }
      screen.raise_floor(query, sketch[screen.queries.k - 1]);
    }
    screen.deferred.insert(screen.deferred.end(), waiting, waiting + kept);
  }

  // The k best lower bounds of a panel's queries, side by side, with one more row. Its upper bounds wait for the floors.
  TARGET void sketch_row(const int32_t* sums, long slot, long row, float* __restrict upper) {
    alignas(64) float lower[PANEL];
    const float *scale = q.scale + slot, *level = q.level + slot, *error = q.error + slot, *norm = q.norm + slot;
    for (int j = 0; j < PANEL; j++) {
      const float more = error[j] * x.norm[row] + norm[j] * x.error[row];
      upper[j] = sums[j] * x.scale[row] * scale[j] + (x.shift[row] + level[j]) + more;
      lower[j] = lower_bound(upper[j], more, level[j]);
    }
    for (int j = 0; j < PANEL; j += 8) {
      // NaN of padding compares with nothing, falls through all places and is gone.
      Eight fresh = eight(lower + j);
      for (int place = 0; place < screen.queries.k; place++) {
        const Eight held = eight(best[place] + j), larger = fresh > held ? fresh : held;
        fresh = fresh > held ? held : fresh;
        __builtin_memcpy(best[place] + j, &larger, sizeof larger);
      }
    }
  }

  // The floors of a panel after its first block, and what of it reaches them.
  TARGET void begin(long first_row, long last_row, long slot) {
    const int k = screen.queries.k;
    for (int j = 0; j < PANEL; j++) {
      for (int place = 0; place < k; place++) screen.sketch_of(slot + j)[place] = best[place][j];
      screen.raise_floor(slot + j, best[k - 1][j]);
    }
    screen.begun[slot / PANEL] = 1;
    int kept = 0;
    for (long row = first_row; row < last_row; row++)
      for (int j = 0; j < PANEL; j++) {
        const float upper = first[row - first_row][j];
        waiting[kept] = {(int32_t)(slot + j), (int32_t)(x.first + row), upper};
        kept += upper >= screen.queries.floor[slot + j];
      }
    screen.deferred.insert(screen.deferred.end(), waiting, waiting + kept);
  }

  // The float32 score of a hit takes the place of its bound: it may raise both floors, and stays if it reaches one.
  TARGET void score(Hit hit) {
    if (!screen.reaches(hit, hit.upper)) return;
    const long row = hit.row - x.first;
    const float value = dot(q.values + (long)hit.query * dim, x.values + row * x.stride, dim) * x.factor[row];
    // Unscaled rows of cosine may be so short that their products are flushed: the factor enlarges what that loses.
    const float flushed = UNDERFLOW_SCORE * (1 + x.factor[row]);
    const float slack = screen.slack * q.length[hit.query] * x.length[row] + flushed;
    hit.upper = value + slack;
    screen.scored++;
    if (!screen.reaches(hit, hit.upper)) return;
    raise(screen.queries, hit.query, value - slack);
    if (screen.rows.k) raise(screen.rows, hit.row, value - slack);
    screen.hits.push_back(hit);
  }

  // Whether the score is likely to raise a floor: the bound without what it allows for rounding, which is far more than
  // rounding usually takes.
  bool promising(const Hit& hit) const {
    return screen.reaches(hit, hit.upper - allowed(hit.query, hit.row - x.first));
  }

  // The best hits of a query go first; the floor that they leave spares most of the others. What is not likely to raise
  // a floor waits: most of it will not reach the floors that the rows to come leave behind.
  TARGET void score_bucket(int j) {
    Hit* hits = bucket[j];
    const int best = std::min(filled[j], 2 * screen.queries.k);
    std::nth_element(hits, hits + best, hits + filled[j], more_promising);
    for (int i = 0; i < filled[j]; i++) {
      if (promising(hits[i]))
        score(hits[i]);
      else if (screen.reaches(hits[i], hits[i].upper))
        screen.deferred.push_back(hits[i]);
    }
  }

  // Rows of hits lie anywhere in the bank: the next one comes while this one is multiplied.
  void fetch_row(const Hit& hit) const {
    if (!screen.reaches(hit, hit.upper)) return;
    const float* row = x.values + (hit.row - x.first) * x.stride;
    for (long d = 0; d < dim; d += 16) __builtin_prefetch(row + d);
  }

  // Deferred hits that still reach their floors, query by query, those first whose lower bounds reach: about k of each.
  TARGET void sort_deferred() {
    std::vector<Hit>& deferred = screen.deferred;
    std::vector<size_t> start(screen.query_count + 1);
    for (const Hit& hit : deferred) start[hit.query + 1]++;
    for (long i = 0; i < screen.query_count; i++) start[i + 1] += start[i];
    std::vector<size_t> front(start.begin(), start.end() - 1), back(start.begin() + 1, start.end());
    std::vector<Hit> sorted(deferred.size());
    // Where a hit goes, and whether it is dropped, as about half are, is not to be foreseen: it is written to both ends
    // of what is free, and the end that it belongs to moves.
    for (const Hit& hit : deferred) {
      const float floor = screen.queries.floor[hit.query];
      const bool reaches = hit.upper >= floor;
      const bool first = hit.upper - 2 * allowed(hit.query, hit.row - x.first) >= floor;
      sorted[front[hit.query]] = sorted[back[hit.query] - 1] = hit;
      front[hit.query] += reaches & first;
      back[hit.query] -= reaches & !first;
    }
    auto to = deferred.begin();
    for (long i = 0; i < screen.query_count; i++) {
      to = std::copy(sorted.begin() + start[i], sorted.begin() + front[i], to);
      to = std::copy(sorted.begin() + back[i], sorted.begin() + start[i + 1], to);
    }
    deferred.erase(to, deferred.end());
  }

  // One way, query by query and the best first: the floor that k scores leave drops most of the others.
  TARGET void score_deferred() {
    if (screen.sketched()) sort_deferred();
    for (size_t i = 0; i < screen.deferred.size(); i++) {
      if (i + 1 < screen.deferred.size()) fetch_row(screen.deferred[i + 1]);
      score(screen.deferred[i]);
    }
    screen.deferred.clear();
  }

  // Hits that wait must not outgrow the memory: those below today's floors go, and if that is not enough, all are scored.
  TARGET void bound_deferred() {
    if (screen.deferred.size() < screen.most_deferred) return;
    screen.drop(screen.deferred);
    if (2 * screen.deferred.size() > screen.most_deferred) score_deferred();
  }
};

TARGET static void search(Screen& screen, const Bank& x, const Queries& q, long dim, long wide, long first, long last) {
  const auto worker = std::unique_ptr<Worker>(new Worker(screen, x, q, dim, wide));
  begin_tiles();
  for (long start = first; start < last; start += BLOCK) {
    const long stop = std::min(last, start + BLOCK);
    worker->take_block(start, stop);
    for (long panel = 0; panel < q.panels; panel++) {
      worker->multiply(start, stop, panel);
      if (!screen.sketched())
        for (int j = 0; j < PANEL; j++) worker->score_bucket(j);
      worker->bound_deferred();
      screen.prune_if_many();
    }
    // Both ways, the floors of these rows have risen as far as they will.
    if (screen.rows.k) worker->score_deferred();
  }
  worker->score_deferred();
  end_tiles();
}
