// One search of a range of bank rows by all panels of queries, for one instruction set (see tiles.h).

// Upper bounds of a tile's scores, where they reach the floor of the query or of the row: one bit a query.
#if SCREEN_ISA >= 4
TARGET static uint32_t reaching(const int32_t* sums, const Bank& x, long row, const Queries& q, long slot,
                                const float* floor, float row_floor, float* upper) {
  const __m512 scale = _mm512_set1_ps(x.scale[row]), shift = _mm512_set1_ps(x.shift[row]);
  const __m512 error = _mm512_set1_ps(x.error[row]), norm = _mm512_set1_ps(x.norm[row]);
  uint32_t hits = 0;
  for (int j = 0; j < PANEL; j += 16) {
    const __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(sums + j)), scale);
    __m512 bound = _mm512_add_ps(shift, _mm512_loadu_ps(q.level + slot + j));
    bound = _mm512_fmadd_ps(sum, _mm512_loadu_ps(q.scale + slot + j), bound);
    bound = _mm512_fmadd_ps(_mm512_loadu_ps(q.error + slot + j), norm, bound);
    bound = _mm512_fmadd_ps(_mm512_loadu_ps(q.norm + slot + j), error, bound);
    const __m512 least = _mm512_min_ps(_mm512_loadu_ps(floor + slot + j), _mm512_set1_ps(row_floor));
    hits |= (uint32_t)_mm512_cmp_ps_mask(bound, least, _CMP_GE_OQ) << j;
    _mm512_storeu_ps(upper + j, bound);
  }
  return hits;
}
#elif SCREEN_ISA >= 2
TARGET static uint32_t reaching(const int32_t* sums, const Bank& x, long row, const Queries& q, long slot,
                                const float* floor, float row_floor, float* upper) {
  const __m256 scale = _mm256_set1_ps(x.scale[row]), shift = _mm256_set1_ps(x.shift[row]);
  const __m256 error = _mm256_set1_ps(x.error[row]), norm = _mm256_set1_ps(x.norm[row]);
  uint32_t hits = 0;
  for (int j = 0; j < PANEL; j += 8) {
    const __m256 sum = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i*)(sums + j))), scale);
    __m256 bound = _mm256_add_ps(shift, _mm256_loadu_ps(q.level + slot + j));
    bound = _mm256_fmadd_ps(sum, _mm256_loadu_ps(q.scale + slot + j), bound);
    bound = _mm256_fmadd_ps(_mm256_loadu_ps(q.error + slot + j), norm, bound);
    bound = _mm256_fmadd_ps(_mm256_loadu_ps(q.norm + slot + j), error, bound);
    const __m256 least = _mm256_min_ps(_mm256_loadu_ps(floor + slot + j), _mm256_set1_ps(row_floor));
    hits |= (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(bound, least, _CMP_GE_OQ)) << j;
    _mm256_storeu_ps(upper + j, bound);
  }
  return hits;
}
#else
TARGET static uint32_t reaching(const int32_t* sums, const Bank& x, long row, const Queries& q, long slot,
                                const float* floor, float row_floor, float* upper) {
  uint32_t hits = 0;
  for (int j = 0; j < PANEL; j++) {
    upper[j] = sums[j] * x.scale[row] * q.scale[slot + j] + (x.shift[row] + q.level[slot + j]) +
               q.error[slot + j] * x.norm[row] + q.norm[slot + j] * x.error[row];
    hits |= (uint32_t)(upper[j] >= std::min(floor[slot + j], row_floor)) << j;
  }
  return hits;
}
#endif

struct Worker {
  Screen& screen;
  const Bank& x;
  const Queries& q;
  long dim, wide;
  Hit bucket[PANEL][BLOCK];
  int filled[PANEL];

  // All sums of a panel with a block of rows; what reaches a floor goes into the bucket of its query.
  TARGET void multiply(long first, long last, long panel) {
    alignas(64) int32_t sums[TILE_ROWS * PANEL] = {};  // a group of nothing but padding is left as it is
    alignas(64) float upper[PANEL];
    const Starts starts = {q.sums + panel * PANEL, q.lanes + panel * (wide / SEGMENT) * 2 * PANEL};
    const long slot = panel * PANEL;
    const int groups = q.count - slot > GROUP ? 2 : 1;
    std::fill(filled, filled + PANEL, 0);
    for (long row = first; row < last; row += TILE_ROWS) {
      tile(x.bytes + row * wide, wide, q.bytes + slot * wide, starts, groups, sums);
      for (int r = 0; r < TILE_ROWS; r++) {
        const float row_floor = screen.rows.k ? screen.rows.floor[x.first + row + r] : INFINITY;
        uint32_t hits = reaching(sums + r * PANEL, x, row + r, q, slot, screen.queries.floor, row_floor, upper);
        for (; hits; hits &= hits - 1) {
          const int j = __builtin_ctz(hits);
          bucket[j][filled[j]++] = {(int32_t)(slot + j), (int32_t)(x.first + row + r), upper[j]};
        }
      }
    }
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
    const long row = hit.row - x.first;
    const float allowed = q.error[hit.query] * x.norm[row] + q.norm[hit.query] * x.error[row];
    return screen.reaches(hit, hit.upper - allowed);
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

  TARGET void score_deferred() {
    for (const Hit& hit : screen.deferred) score(hit);
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
  const auto worker = std::unique_ptr<Worker>(new Worker{screen, x, q, dim, wide, {}, {}});
  begin_tiles();
  for (long start = first; start < last; start += BLOCK) {
    const long stop = std::min(last, start + BLOCK);
    for (long panel = 0; panel < q.panels; panel++) {
      worker->multiply(start, stop, panel);
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
