// Sums of products of int8 rows, one tile at a time, for one instruction set. Included once for each of them with
//
//   SCREEN_ISA      1 portable, 2 AVX2, 3 AVX-VNNI, 4 AVX-512 VNNI, 5 AMX
//   TARGET          the function attribute that allows its instructions
//
// Every tile computes, for TILE_ROWS bank rows (or the `rows` of `rows_of_tile`) and the 32 queries of a panel,
//
//   out[row][query] = sum over d of (bank[row][d] - 128) * panel[d][query]
//
// exactly, in int32. Bank bytes are unsigned, value + 128; query bytes are signed. The offset leaves again by `start`,
// -128 times the sum of the query's bytes, which is where the accumulators begin.
// Layouts (both padded with zeros, the bank with 128): bank [rows][wide], wide a multiple of 64;
// panel [2 groups][wide / 4][16 queries][4 bytes]: a group fits the first cache with the rows that pass. The register plan of every tile stands in docs/int8-screen.md.

#if SCREEN_ISA == 2
// AVX2 has no instruction that multiplies int8 into int32. vpmaddubsw adds two products in int16; 16 such steps are added
// with vpaddw modulo 2^16, and only then widened. That is exact: the true sum of a lane over a segment's 32 numbers lies
// within +-32767 (Cauchy-Schwarz: `quantise` caps the squares of both lanes at 32767), and an int16 that is right modulo
// 2^16 and known to lie in range is right. Nothing saturates: |w1| + |w2| <= 128 holds for query bytes and u <= 255.
enum { TILE_ROWS = 4 };

// sum += product, in the sum's own register. GCC moves each sum once a step otherwise, which takes a quarter of the time.
#define ADD_IN_PLACE(sum, product) asm("vpaddw %1, %0, %0" : "+x"(sum) : "x"(product))

TARGET static void half_tile(const uint8_t* bank, long wide, const int8_t* group, const int16_t* lanes, int32_t* out) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (long first = 0; first < wide; first += SEGMENT, lanes += 2 * GROUP) {
    const __m256i left = _mm256_loadu_si256((const __m256i*)lanes), right = _mm256_loadu_si256((const __m256i*)lanes + 1);
    __m256i sum[TILE_ROWS][2];
#pragma GCC unroll 4
    for (int r = 0; r < TILE_ROWS; r++) sum[r][0] = left, sum[r][1] = right;
#pragma GCC unroll 4
    for (int d = 0; d < SEGMENT; d += 4, bank += 4, group += 4 * GROUP) {
      const __m256i w0 = _mm256_loadu_si256((const __m256i*)group);
      const __m256i w1 = _mm256_loadu_si256((const __m256i*)group + 1);
#pragma GCC unroll 4
      for (int r = 0; r < TILE_ROWS; r++) {
        const __m256i x = _mm256_set1_epi32(four_bytes_as_int(bank + r * wide));
        ADD_IN_PLACE(sum[r][0], _mm256_maddubs_epi16(x, w0));
        ADD_IN_PLACE(sum[r][1], _mm256_maddubs_epi16(x, w1));
      }
    }
    // The sums of segments are added in memory: there are no registers left for them.
#pragma GCC unroll 4
    for (int r = 0; r < TILE_ROWS; r++)
      for (int half = 0; half < 2; half++) {
        __m256i* total = (__m256i*)(out + r * PANEL + 8 * half);
        const __m256i widened = _mm256_madd_epi16(sum[r][half], ones);
        _mm256_storeu_si256(total, first ? _mm256_add_epi32(_mm256_loadu_si256(total), widened) : widened);
      }
  }
}

TARGET static void tile(const uint8_t* bank, long wide, const int8_t* panel, const Starts& starts, int groups, int,
                        int32_t* out) {
  // One group at a time: 8 sums, 2 query vectors, bank bytes and products fit 16 registers, two groups do not.
  half_tile(bank, wide, panel, starts.lanes, out);
  if (groups == 2) half_tile(bank, wide, panel + GROUP * wide, starts.lanes + wide / SEGMENT * 2 * GROUP, out + GROUP);
}

#elif SCREEN_ISA == 3
// vpdpbusd adds four products of unsigned and signed bytes to an int32: nothing wraps, and nothing is widened. |sum| <=
// 255 * 127 * 8192 < 2^31 cannot overflow. 12 sums, 2 query vectors and bank bytes fit 16 registers; an addition takes
// five cycles and two begin in each, so fewer than 10 sums would wait. Blocks are no multiple of 6 rows: what is left of
// them goes two by two.
enum { TILE_ROWS = 6 };

template <int ROWS>
TARGET static inline void half_tile(const uint8_t* bank, long wide, const int8_t* group, const int32_t* starts,
                                    int32_t* out) {
  const __m256i left = _mm256_loadu_si256((const __m256i*)starts), right = _mm256_loadu_si256((const __m256i*)starts + 1);
  __m256i sum[ROWS][2];
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; r++) sum[r][0] = left, sum[r][1] = right;
  for (long d = 0; d < wide; d += 4, group += 4 * GROUP) {
    const __m256i w0 = _mm256_loadu_si256((const __m256i*)group), w1 = _mm256_loadu_si256((const __m256i*)group + 1);
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++) {
      const __m256i x = _mm256_set1_epi32(four_bytes_as_int(bank + r * wide + d));
      sum[r][0] = _mm256_dpbusd_avx_epi32(sum[r][0], x, w0);
      sum[r][1] = _mm256_dpbusd_avx_epi32(sum[r][1], x, w1);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; r++)
    for (int half = 0; half < 2; half++) _mm256_storeu_si256((__m256i*)(out + r * PANEL + 8 * half), sum[r][half]);
}

template <int ROWS>
TARGET static inline void some_rows(const uint8_t* bank, long wide, const int8_t* panel, const Starts& starts, int groups,
                                    int32_t* out) {
  half_tile<ROWS>(bank, wide, panel, starts.sums, out);
  if (groups == 2) half_tile<ROWS>(bank, wide, panel + GROUP * wide, starts.sums + GROUP, out + GROUP);
}

TARGET static void tile(const uint8_t* bank, long wide, const int8_t* panel, const Starts& starts, int groups, int rows,
                        int32_t* out) {
  if (rows == TILE_ROWS) return some_rows<TILE_ROWS>(bank, wide, panel, starts, groups, out);
  some_rows<2>(bank, wide, panel, starts, groups, out);
}

#elif SCREEN_ISA == 4
// vpdpbusd in registers of 512 bits, 32 of them.
enum { TILE_ROWS = 8 };

TARGET static void tile(const uint8_t* bank, long wide, const int8_t* panel, const Starts& starts, int groups, int,
                        int32_t* out) {
  const __m512i left = _mm512_loadu_si512(starts.sums), right = _mm512_loadu_si512(starts.sums + 16);
  __m512i sum[TILE_ROWS][2];
#pragma GCC unroll 8
  for (int r = 0; r < TILE_ROWS; r++) sum[r][0] = left, sum[r][1] = right;
  const int8_t *near = panel, *far = panel + GROUP * wide;
  for (long d = 0; d < wide; d += 4) {
    const __m512i w0 = _mm512_loadu_si512(near + d * GROUP), w1 = _mm512_loadu_si512(far + d * GROUP);
#pragma GCC unroll 8
    for (int r = 0; r < TILE_ROWS; r++) {
      const __m512i x = _mm512_set1_epi32(four_bytes_as_int(bank + r * wide + d));
      sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], x, w0);
      sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], x, w1);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < TILE_ROWS; r++) {
    _mm512_storeu_si512(out + r * PANEL, sum[r][0]);
    _mm512_storeu_si512(out + r * PANEL + 16, sum[r][1]);
  }
}

#elif SCREEN_ISA == 5
// A tile register holds 16 rows of 64 bytes. Registers 0 to 3 are the sums of 2 x 2 blocks of 16 x 16, 4 and 5 bank rows,
// 6 and 7 queries: four multiplications for four loads.
enum { TILE_ROWS = 32 };

TARGET static void tile(const uint8_t* bank, long wide, const int8_t* panel, const Starts& starts, int groups, int,
                        int32_t* out) {
  _tile_loadd(0, starts.sums, 0);  // a stride of 0: every row begins with the queries' offsets
  _tile_loadd(1, starts.sums + 16, 0);
  _tile_loadd(2, starts.sums, 0);
  _tile_loadd(3, starts.sums + 16, 0);
  const int8_t *near = panel, *far = panel + GROUP * wide;
  for (long d = 0; d < wide; d += 64) {
    _tile_loadd(4, bank + d, wide);
    _tile_loadd(6, near + d * GROUP, 4 * GROUP);
    _tile_dpbusd(0, 4, 6);
    _tile_loadd(7, far + d * GROUP, 4 * GROUP);
    _tile_dpbusd(1, 4, 7);
    _tile_loadd(5, bank + 16 * wide + d, wide);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  _tile_stored(0, out, 4 * PANEL);
  _tile_stored(1, out + 16, 4 * PANEL);
  _tile_stored(2, out + 16 * PANEL, 4 * PANEL);
  _tile_stored(3, out + 16 * PANEL + 16, 4 * PANEL);
}

#else
enum { TILE_ROWS = 4 };

TARGET static void tile(const uint8_t* bank, long wide, const int8_t* panel, const Starts& starts, int groups, int,
                        int32_t* out) {
  for (int r = 0; r < TILE_ROWS; r++) {
    for (int first = 0; first < PANEL; first += GROUP) {
      int32_t sum[4 * GROUP] = {};  // every fourth belongs to one query: a loop that a compiler puts into vectors
      for (long d = 0; d < wide; d += 4) {
        uint8_t four[4 * GROUP];
        for (int q = 0; q < GROUP; q++) std::copy(bank + r * wide + d, bank + r * wide + d + 4, four + 4 * q);
        const int8_t* w = panel + first * wide + d * GROUP;
        for (int i = 0; i < 4 * GROUP; i++) sum[i] += (int16_t)((int16_t)four[i] * (int16_t)w[i]);
      }
      for (int q = 0; q < GROUP; q++)
        out[r * PANEL + first + q] =
            starts.sums[first + q] + sum[4 * q] + sum[4 * q + 1] + sum[4 * q + 2] + sum[4 * q + 3];
    }
  }
}
#endif

// How many of `left` bank rows, an even number, the next tile takes.
static int rows_of_tile(long left) { return left >= TILE_ROWS ? TILE_ROWS : 2; }

// The sums of 32 bank rows with one panel.
TARGET static void begin_tiles();
TARGET static void end_tiles();
TARGET static void sums_of(const uint8_t* bank, long wide, const int8_t* panel, const Starts& starts, int32_t* out) {
  begin_tiles();
  for (int row = 0, rows; row < 32; row += rows) {
    rows = rows_of_tile(32 - row);
    tile(bank + row * wide, wide, panel, starts, 2, rows, out + row * PANEL);
  }
  end_tiles();
}

// AMX must be told the shape of its registers, and must forget it again: a configured processor saves 8 KB more at every
// change of process.
TARGET static void begin_tiles() {
#if SCREEN_ISA == 5
  struct alignas(64) Shape {
    uint8_t palette = 1, start = 0, unused[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  const Shape shape;
  _tile_loadconfig(&shape);
#endif
}

TARGET static void end_tiles() {
#if SCREEN_ISA == 5
  _tile_release();
#endif
}
