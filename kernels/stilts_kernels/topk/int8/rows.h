// Rows to bytes, and float32 scores of pairs, for one instruction set (see tiles.h).

#if SCREEN_ISA >= 4
TARGET static float dot(const float* a, const float* b, long n) {
  __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  long i = 0;
  for (; i + 64 <= n; i += 64)
    for (int j = 0; j < 4; j++)
      sum[j] = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 16 * j), _mm512_loadu_ps(b + i + 16 * j), sum[j]);
  for (; i < n; i += 16) {
    const __mmask16 inside = n - i >= 16 ? 0xFFFF : (1u << (n - i)) - 1;
    sum[0] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(inside, a + i), _mm512_maskz_loadu_ps(inside, b + i), sum[0]);
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
}
#elif SCREEN_ISA >= 2
TARGET static float dot(const float* a, const float* b, long n) {
  __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
  long i = 0;
  for (; i + 32 <= n; i += 32)
    for (int j = 0; j < 4; j++)
      sum[j] = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8 * j), _mm256_loadu_ps(b + i + 8 * j), sum[j]);
  for (; i + 8 <= n; i += 8) sum[0] = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), sum[0]);
  float tail = 0;
  for (; i < n; i++) tail += a[i] * b[i];
  const __m256 all = _mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3]));
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half))) + tail;
}
#else
TARGET static float dot(const float* a, const float* b, long n) {
  float sum[16] = {};  // independent sums, which a compiler may put into vectors
  long i = 0;
  for (; i + 16 <= n; i += 16)
    for (int j = 0; j < 16; j++) sum[j] += a[i + j] * b[i + j];
  float total = 0;
  for (; i < n; i++) total += a[i] * b[i];
  for (int j = 0; j < 16; j++) total += sum[j];
  return total;
}
#endif

// What a pass over a row takes at a time: four registers. Sums are kept in so many places side by side; fewer would wait
// for their own additions, and each product would be rounded more often than `dot_roundings` allows (16 places).
enum { LANES = SCREEN_ISA >= 4 ? 16 : SCREEN_ISA >= 2 ? 8 : 4, STEP = 4 * LANES };
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Bits __attribute__((vector_size(4 * LANES)));

TARGET static inline Lanes lanes(const float* from) {
  Lanes values;
  __builtin_memcpy(&values, from, sizeof values);
  return values;
}

TARGET static inline Lanes magnitude(const Lanes& values) { return (Lanes)((Bits)values & 0x7fffffff); }
TARGET static inline Lanes larger(const Lanes& a, const Lanes& b) { return a > b ? a : b; }

// Named one by one: a compiler keeps an array of registers in memory.
struct Sums {
  Lanes a, b, c, d;
};

TARGET static inline float added_up(const Sums& sums) {
  const Lanes sum = (sums.a + sums.b) + (sums.c + sums.d);
  float each[LANES];
  __builtin_memcpy(each, &sum, sizeof each);
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) each[i] += each[i + half];
  return each[0];
}

// What is known of a row before it is rounded, and after.
struct Centred {
  float shift, square;  // of x' = x - m: c . x'; of x: |x|^2
};
struct Extent {
  float most, square;  // the largest magnitude of x', and |x'|^2
};
struct Rounded {
  float kept, lost;  // |X|^2 and |by x' - X|^2, of whole numbers X
};

TARGET static inline void centre_lanes(const float* x, const float* m, const float* c, float* centred, Lanes& shift,
                                       Lanes& square) {
  const Lanes value = lanes(x), moved = value - lanes(m);
  square += value * value;
  shift += moved * lanes(c);
  __builtin_memcpy(centred, &moved, sizeof moved);
}

TARGET static inline void centre_step(const float* x, const float* m, const float* c, float* centred, Sums& shift,
                                      Sums& square) {
  centre_lanes(x, m, c, centred, shift.a, square.a);
  centre_lanes(x + LANES, m + LANES, c + LANES, centred + LANES, shift.b, square.b);
  centre_lanes(x + 2 * LANES, m + 2 * LANES, c + 2 * LANES, centred + 2 * LANES, shift.c, square.c);
  centre_lanes(x + 3 * LANES, m + 3 * LANES, c + 3 * LANES, centred + 3 * LANES, shift.d, square.d);
}

// Both centres have `wide` numbers here, zeros behind the last. So has the result.
TARGET static Centred centre(const float* x, int dim, int wide, const float* m, const float* c, float* centred) {
  Sums shift = {}, square = {};
  int i = 0;
  for (; i + STEP <= dim; i += STEP) centre_step(x + i, m + i, c + i, centred + i, shift, square);
  if (i < dim) {
    float rest[STEP] = {};
    std::copy(x + i, x + dim, rest);
    centre_step(rest, m + i, c + i, centred + i, shift, square);
    i += STEP;
  }
  std::fill(centred + std::min(i, wide), centred + wide, 0.0f);
  return {added_up(shift), added_up(square)};
}

TARGET static inline void extend(const Lanes& value, Lanes& most, Lanes& square) {
  square += value * value;
  most = larger(magnitude(value), most);
}

TARGET static Extent extent(const float* centred, int wide) {
  // At least 1e-28, so that a row of almost nothing is not scaled beyond what float32 holds.
  const Lanes least = Lanes{} + 1e-28f;
  Sums square = {}, most = {least, least, least, least};
  for (int i = 0; i < wide; i += STEP) {
    extend(lanes(centred + i), most.a, square.a);
    extend(lanes(centred + i + LANES), most.b, square.b);
    extend(lanes(centred + i + 2 * LANES), most.c, square.c);
    extend(lanes(centred + i + 3 * LANES), most.d, square.d);
  }
  const Lanes all = larger(larger(most.a, most.b), larger(most.c, most.d));
  float each[LANES];
  __builtin_memcpy(each, &all, sizeof each);
  return {*std::max_element(each, each + LANES), added_up(square)};
}

// The nearest whole numbers. Magnitudes are below 2^22 (127, and a rounding), where 1.5 * 2^23 leaves room for nothing
// else. NaN stays NaN.
TARGET static void round_to_whole(const float* centred, int wide, float by, float* value) {
  const Lanes room = Lanes{} + 0x1.8p23f;
  for (int i = 0; i < wide; i += LANES) {
    const Lanes whole = (lanes(centred + i) * by + room) - room;
    __builtin_memcpy(value + i, &whole, sizeof whole);
  }
}

TARGET static inline void measure_lanes(const float* centred, float by, float* value, Lanes& kept, Lanes& lost) {
  const Lanes read = lanes(value), whole = magnitude(read) <= 127 ? read : Lanes{};
  const Lanes left = lanes(centred) * by - whole;
  kept += whole * whole;
  lost += left * left;
  __builtin_memcpy(value, &whole, sizeof whole);
}

// Rows of NaN are refused by their length; their bytes must still be numbers.
TARGET static Rounded measure(const float* centred, int wide, float by, float* value) {
  Sums kept = {}, lost = {};
  for (int i = 0; i < wide; i += STEP) {
    measure_lanes(centred + i, by, value + i, kept.a, lost.a);
    measure_lanes(centred + i + LANES, by, value + i + LANES, kept.b, lost.b);
    measure_lanes(centred + i + 2 * LANES, by, value + i + 2 * LANES, kept.c, lost.c);
    measure_lanes(centred + i + 3 * LANES, by, value + i + 3 * LANES, kept.d, lost.d);
  }
  return {added_up(kept), added_up(lost)};
}

// Random signs and a Walsh-Hadamard transform of the first p numbers, then of the last p (p a power of two, p <= dim < 2
// p): orthogonal, and spreads outlier dimensions over all others. Every stage rounds once.
TARGET static void rotate(float* row, int dim, const float* signs) {
  int p = 1;
  while (2 * p <= dim) p *= 2;
  for (int window = 0; window < 2; window++) {
    float* y = row + (window ? dim - p : 0);
    const float scale = 1 / std::sqrt((float)p);
    for (int i = 0; i < p; i++) y[i] *= signs[i] * scale;
    for (int half = p / 2; half; half /= 2)
      for (int pair = 0; pair < p; pair += 2 * half)
        for (int i = pair; i < pair + half; i++) {
          const float left = y[i], right = y[i + half];
          y[i] = left + right, y[i + half] = left - right;
        }
    if (p == dim) return;
  }
}

// Keeps what the AVX2 tile counts on; what it takes away is measured as any rounding is.
TARGET static void cap(float* value, int wide, bool query) {
  const float most = 32767;  // of the squares of a lane: integers below 2^24, so the comparison is exact
  if (query)
    for (int i = 0; i < wide; i += 2) {
      const float both = std::fabs(value[i]) + std::fabs(value[i + 1]);
      if (both > 128) value[i] = std::trunc(value[i] * (128 / both)), value[i + 1] = std::trunc(value[i + 1] * (128 / both));
    }
  for (int first = 0; first < wide; first += SEGMENT) {
    float squares[16] = {};  // 16, not 4: a loop that a compiler puts into vectors
    for (int i = first; i < first + SEGMENT; i += 16)
      for (int j = 0; j < 16; j++) squares[j] += value[i + j] * value[i + j];
    for (int lane = 0; lane < 2; lane++) {
      float both = 0;
      for (int j = 2 * lane; j < 16; j += 4) both += squares[j] + squares[j + 1];
      if (both <= most) continue;
      const float shrink = std::sqrt(most / both) * (1 - 4 * ROUNDOFF);
      for (int i = first + 2 * lane; i < first + SEGMENT; i += 4)
        value[i] = std::trunc(value[i] * shrink), value[i + 1] = std::trunc(value[i + 1] * shrink);
    }
  }
}

TARGET static void pack_bank(const Quantised& to, long row, const float* value) {
  const int wide = to.wide;  // a local: a store of bytes might change what `to` holds, for all the compiler knows
  uint8_t* bytes = (uint8_t*)to.bytes + row * wide;
  for (int i = 0; i < wide; i++) bytes[i] = (uint8_t)((int)value[i] + 128);
}

TARGET static void pack_query(const Quantised& to, long row, const float* value) {
  const int wide = to.wide;
  int8_t packed[MOST_DIM];
  for (int i = 0; i < wide; i++) packed[i] = (int8_t)(int)value[i];
  int8_t* bytes = (int8_t*)to.bytes + row / GROUP * wide * GROUP + row % GROUP * 4;
  for (int i = 0; i < wide; i += 4) std::copy(packed + i, packed + i + 4, bytes + (long)i * GROUP);
  int16_t* lanes = to.lanes + row / GROUP * (wide / SEGMENT) * 2 * GROUP + row % GROUP * 2;
  int total = 0;
  for (int first = 0; first < wide; first += SEGMENT) {
    int sum[2] = {};
    for (int i = first; i < first + SEGMENT; i += 4) {
      sum[0] += packed[i] + packed[i + 1];
      sum[1] += packed[i + 2] + packed[i + 3];
    }
    for (int lane = 0; lane < 2; lane++) lanes[first / SEGMENT * 2 * GROUP + lane] = (int16_t)(-128 * sum[lane]);
    total += sum[0] + sum[1];
  }
  to.sums[row] = -128 * total;
}

// The level q . m of a query in float64, rounded once, and what its rounding and those of the bound lose.
TARGET static float level_of(const float* q, const float* m, long dim) {
  double sum[16] = {};
  long i = 0;
  for (; i + 16 <= dim; i += 16)
    for (int j = 0; j < 16; j++) sum[j] += (double)q[i + j] * m[i + j];
  for (; i < dim; i++) sum[i % 16] += (double)q[i] * m[i];
  double level = 0;
  for (double part : sum) level += part;
  return (float)(level + 16 * ROUNDOFF * std::fabs(level) + LEVEL_SLACK);
}

TARGET static void quantise(const Quantised& to) {
  alignas(64) float centred[MOST_DIM], value[MOST_DIM], m[MOST_DIM], c[MOST_DIM];
  const float other_norm = std::sqrt(dot(to.other, to.other, to.dim)) * 1.001f + UNDERFLOW_NORM;
  const int dim = to.dim, wide = to.wide;
  std::fill(std::copy(to.centre, to.centre + dim, m), m + wide, 0.0f);
  std::fill(std::copy(to.other, to.other + dim, c), c + wide, 0.0f);
  for (long n = 0; n < to.count; n++) {
    const float* x = to.rows + n * to.stride;
    const long row = to.first + n;
    const Centred moved = centre(x, dim, wide, m, c, centred);
    to.length[row] = std::sqrt(moved.square) * 1.001f + UNDERFLOW_NORM;
    // The next row comes from memory while this one is made into bytes: processors foresee no further than a page.
    if (n + 1 < to.count)
      for (int i = 0; i < dim; i += 16) __builtin_prefetch(x + to.stride + i);
    if (to.signs) rotate(centred, dim, to.signs);
    const Extent size = extent(centred, wide);
    const float rms = std::sqrt(size.square / dim);
    float by = 127 / size.most;
    if (rms > 0) by = std::min(by, to.most_rms / rms);
    round_to_whole(centred, wide, by, value);
    if (to.capped) cap(value, wide, to.query);
    const Rounded rounding = measure(centred, wide, by, value);
    const float kept = std::sqrt(rounding.kept), lost = std::sqrt(rounding.lost);
    const float scale = 1 / by, norm = kept * scale * 1.001f;
    const float rounded = (to.signs ? 64 : 16) * ROUNDOFF * (norm + lost * scale);
    const float error = lost * scale * 1.001f + rounded;
    to.scale[row] = scale, to.norm[row] = norm;
    // A query's partner in the bound is |q'| itself; of a bank row both are needed.
    to.error[row] = error;
    if (to.query) {
      to.norm[row] = norm + error;
      to.shift[row] = level_of(x, to.other, dim);
      pack_query(to, row, value);
    } else {
      const float arithmetic = 16 * ROUNDOFF * (norm + error);
      to.error[row] = error + arithmetic;
      to.shift[row] = moved.shift + other_norm * (shift_roundings(to.dim) * (norm + error) + UNDERFLOW_NORM);
      pack_bank(to, row, value);
    }
  }
}

typedef double Doubles2 __attribute__((vector_size(16)));
typedef double Doubles4 __attribute__((vector_size(32)));
typedef double Doubles8 __attribute__((vector_size(64)));
typedef float Floats2 __attribute__((vector_size(8)));
typedef float Floats4 __attribute__((vector_size(16)));
typedef float Floats8 __attribute__((vector_size(32)));

template <class Sums, class Numbers>
TARGET static inline Sums widened(const float* from) {
  Numbers numbers;
  __builtin_memcpy(&numbers, from, sizeof numbers);
  return __builtin_convertvector(numbers, Sums);
}
// GCC widens a vector in halves, which takes twice the time.
#if SCREEN_ISA >= 2
template <>
TARGET inline Doubles4 widened<Doubles4, Floats4>(const float* from) {
  return (Doubles4)_mm256_cvtps_pd(_mm_loadu_ps(from));
}
#endif
#if SCREEN_ISA >= 4
template <>
TARGET inline Doubles8 widened<Doubles8, Floats8>(const float* from) {
  return (Doubles8)_mm512_cvtps_pd(_mm256_loadu_ps(from));
}
#endif

// Float64 dot products of float32 rows, `width` sums side by side that are added up one after the other in the end: the
// order of torch's sampled_addmm with registers of so many numbers. Products of two float32 numbers are exact in
// float64, so nothing else decides the bits. Four pairs at a time: one alone waits for its own additions.
template <class Sums, class Numbers>
TARGET static void exact_dots(const Exact& to) {
  const int width = sizeof(Sums) / sizeof(double);
  const long whole = to.dim - to.dim % width;
  for (long first = 0; first < to.count; first += 4) {
    const int pairs = (int)std::min(4L, to.count - first);
    const float *a[4], *b[4];
    for (int i = 0; i < 4; i++) {
      const long pair = first + std::min(i, pairs - 1);
      a[i] = to.left + to.left_row[pair] * to.left_stride, b[i] = to.right + to.right_row[pair] * to.right_stride;
    }
    Sums sum[4] = {};
    for (long d = 0; d < whole; d += width)
      for (int i = 0; i < 4; i++) sum[i] += widened<Sums, Numbers>(a[i] + d) * widened<Sums, Numbers>(b[i] + d);
    for (int i = 0; i < pairs; i++) {
      for (long d = whole; d < to.dim; d++) sum[i][d - whole] += (double)a[i][d] * b[i][d];
      double total = sum[i][0];
      for (int lane = 1; lane < width; lane++) total += sum[i][lane];
      to.out[first + i] = total;
    }
  }
}

TARGET static void exact(const Exact& to, int width) {
  if (width == 8) return exact_dots<Doubles8, Floats8>(to);
  if (width == 4) return exact_dots<Doubles4, Floats4>(to);
  exact_dots<Doubles2, Floats2>(to);
}
