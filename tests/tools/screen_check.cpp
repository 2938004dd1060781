// Runs every instruction set of the int8 screen that this processor has, on random and extreme rows, and compares with
// plain loops: sums, comparisons with the floors, canonical scores and results bit for bit, all that is measured of a
// row against float64. It needs no Python, so that it runs in an emulator of a processor that is not at hand.
//
//     g++ -std=c++17 -O3 -fno-math-errno -fno-trapping-math -w -static -o screen_check tests/tools/screen_check.cpp
//     ./screen_check 200 1        # trials and seed; the last line is "done", or the first fault is said and it exits 1
#include "../../kernels/stilts_kernels/topk/int8/screen.cpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

static std::mt19937_64 source;
static const char* const NAMES[] = {"", "portable", "avx2", "avx-vnni", "avx512-vnni", "amx"};
static const char* const KINDS[] = {"plain", "mean", "outliers", "signs", "sparse", "lengths", "tiny", "large", "ties"};
static long checked = 0;

static long below(long n) { return source() % n; }
static double gauss() { return std::normal_distribution<double>()(source); }

#define CHECK(fine, ...) \
  do { \
    checked++; \
    if (!(fine)) printf("FAULT: " __VA_ARGS__), printf("\n"), fflush(stdout), exit(1); \
  } while (0)

typedef std::vector<float> Floats;

static Floats random_rows(const char* kind, long rows, int dim) {
  const auto is = [kind](const char* name) { return !strcmp(kind, name); };
  Floats values(rows * dim);
  for (long n = 0; n < rows; n++) {
    const double length = is("lengths") ? std::pow(10, std::max(-6.0, std::min(6.0, 2 * gauss()))) : 1;
    for (int i = 0; i < dim; i++) {
      double v = gauss();
      if (is("mean")) v += 30;
      if (is("outliers") && i % std::max(1, dim / 3) == 0) v *= 500;
      if (is("signs")) v = v < 0 ? -1 : 1;
      if (is("sparse") && (n == 0 || gauss() < 1.5)) v = 0;
      if (is("tiny")) v *= 1e-22;
      if (is("large")) v *= 1e12;
      values[n * dim + i] = v * length;
    }
    // Every third row once more: equal scores.
    if (is("ties") && n >= 3) std::copy_n(&values[(n % 3) * dim], dim, &values[n * dim]);
  }
  return values;
}

// Canonical order: `width` sums side by side, then one after the other.
static double plain_dot(const float* a, const float* b, int dim, int width) {
  double sum[8] = {};
  const int whole = dim - dim % width;
  for (int i = 0; i < dim; i++) sum[i < whole ? i % width : i - whole] += (double)a[i] * b[i];
  double total = sum[0];
  for (int lane = 1; lane < width; lane++) total += sum[lane];
  return total;
}

static void check_sums(int isa) {
  const int wide = SEGMENT << below(8);
  std::vector<uint8_t> bank(32 * wide);
  std::vector<int> rows(32 * wide), queries(32 * wide);
  // One of: anything that the AVX2 tile takes; lanes that are filled to their caps; and, elsewhere, bytes of any size.
  const int extreme = below(isa == AVX2 ? 2 : 3);
  static const int FULL[] = {127, 127, 22, 5}, SIZE[] = {1, 4, 16};
  const int filled = SIZE[below(3)], large = std::min(127, (int)std::sqrt(32767.0 / filled));
  for (int n = 0; n < 32; n++)
    for (int first = 0; first < wide; first += SEGMENT)
      for (int lane = 0; lane < 2; lane++)
        for (int i = 0; i < 32; i++) {
          const int at = n * wide + first + i / 2 * 4 + 2 * lane + i % 2;
          const bool on = i % 2 == 0 && i / 2 < filled;  // one byte of a pair: |w1| + |w2| <= 128
          const int size = !on ? 0 : filled == 4 ? FULL[i / 2] : large;
          const int sign = (i * 7 + first / SEGMENT + lane) % 3 ? 1 : -1;
          rows[at] = extreme == 0 ? below(57) - 28 : extreme == 1 ? size * sign : below(8) ? 127 : -128;
          const int turned = n % 2 ? -1 : 1;
          queries[at] = extreme == 0 ? below(57) - 28 : extreme == 1 ? turned * size * sign : turned * -127;
        }
  for (size_t i = 0; i < bank.size(); i++) bank[i] = rows[i] + 128;
  std::vector<int8_t> bytes(32 * wide);
  std::vector<int32_t> sums(32), out(32 * 32);
  std::vector<int16_t> lanes(32 * 2 * wide / SEGMENT);
  for (int n = 0; n < 32; n++)
    for (int i = 0; i < wide; i++) {
      const int value = queries[n * wide + i];
      bytes[n / GROUP * wide * GROUP + i / 4 * 4 * GROUP + n % GROUP * 4 + i % 4] = value;
      sums[n] -= 128 * value;
      lanes[(n / GROUP * (wide / SEGMENT) + i / SEGMENT) * 2 * GROUP + n % GROUP * 2 + i / 2 % 2] -= 128 * value;
    }
  Queries q = {};
  q.bytes = bytes.data(), q.sums = sums.data(), q.lanes = lanes.data(), q.panels = 1, q.count = 32;
  screen_sums(isa, bank.data(), wide, &q, out.data());
  for (int row = 0; row < 32; row++)
    for (int n = 0; n < 32; n++) {
      long sum = 0;
      for (int i = 0; i < wide; i++) sum += (long)rows[row * wide + i] * queries[n * wide + i];
      CHECK(out[row * PANEL + n] == sum, "%s sums, wide %d, extreme %d: %d, not %ld", NAMES[isa], wide, extreme,
            out[row * PANEL + n], sum);
    }
}

// What `may_reach` is to say, in its own order of operations: bounds at, above and below the floors.
static void check_may_reach(int isa) {
  int32_t sums[PANEL];
  float query_scale[PANEL], most[PANEL], floor[PANEL], scale = std::exp(4 * gauss()), shift = gauss();
  const float row_floor = below(3) ? INFINITY : (float)gauss();
  uint32_t expected = 0;
  for (int j = 0; j < PANEL; j++) {
    sums[j] = below(4) ? below(1 << 20) - (1 << 19) : below(2) ? 255 * 127 * 8192 : -255 * 127 * 8192;
    query_scale[j] = std::exp(4 * gauss()), most[j] = below(16) ? gauss() : NAN;
    const float bound = isa == PORTABLE ? sums[j] * scale * query_scale[j] + (shift + most[j])
                                        : std::fma(sums[j] * scale, query_scale[j], shift + most[j]);
    const float floors[] = {bound, std::nextafter(bound, INFINITY), std::nextafter(bound, -INFINITY), (float)gauss(),
                            INFINITY, -INFINITY};
    floor[j] = floors[below(6)];
    if (std::isnan(floor[j])) floor[j] = -INFINITY;
    expected |= (uint32_t)(bound >= std::min(floor[j], row_floor)) << j;
  }
  Bank x = {};
  x.scale = &scale, x.shift = &shift;
  uint32_t found = portable::may_reach(sums, x, 0, query_scale, most, floor, row_floor);
#if ON_X86
  if (isa == AVX2) found = avx2::may_reach(sums, x, 0, query_scale, most, floor, row_floor);
  if (isa == AVX_VNNI) found = avx_vnni::may_reach(sums, x, 0, query_scale, most, floor, row_floor);
  if (isa == VNNI) found = vnni::may_reach(sums, x, 0, query_scale, most, floor, row_floor);
  if (isa == AMX) found = amx::may_reach(sums, x, 0, query_scale, most, floor, row_floor);
#endif
  CHECK(found == expected, "%s may_reach: %08x, not %08x", NAMES[isa], found, expected);
}

static void check_exact(int isa) {
  const int dim = 1 + below(200), count = 1 + below(9);
  const Floats a = random_rows("lengths", 5, dim), b = random_rows("mean", 7, dim);
  std::vector<int64_t> left(count), right(count);
  std::vector<double> out(count);
  for (int i = 0; i < count; i++) left[i] = below(5), right[i] = below(7);
  for (int width = 2; width <= 8; width *= 2) {
    const Exact to = {a.data(), b.data(), dim, dim, left.data(), right.data(), count, dim, out.data()};
    exact_scores(isa, width, &to);
    for (int i = 0; i < count; i++) {
      const double plain = plain_dot(&a[left[i] * dim], &b[right[i] * dim], dim, width);
      CHECK(!memcmp(&out[i], &plain, sizeof plain), "%s exact, D %d, width %d: %a, not %a", NAMES[isa], dim, width,
            out[i], plain);
    }
  }
}

struct Side {
  long count, room;
  int dim, wide;
  Floats rows, scale, norm, error, shift, length, factor;
  std::vector<uint8_t> bytes;
  std::vector<int32_t> sums;
  std::vector<int16_t> lanes;

  Side(const Floats& rows, int dim, int isa, const Floats& centre, const Floats& other, const float* signs, bool query)
      : count(rows.size() / dim), room((count + PANEL - 1) / PANEL * PANEL), dim(dim),
        wide((dim + SEGMENT - 1) / SEGMENT * SEGMENT), rows(rows), scale(room), norm(room), error(room),
        shift(room, NAN), length(room), factor(room, 1), bytes(room * wide, query ? 0 : 128), sums(room),
        lanes(room * 2 * wide / SEGMENT) {
    Quantised to = {rows.data(), centre.data(), other.data(), signs, count, dim, 0, dim, wide, query,
                    isa == AVX2 ? 23.f : 127.f, isa == AVX2, bytes.data(), sums.data(), lanes.data(), scale.data(),
                    norm.data(), error.data(), shift.data(), length.data()};
    quantise_rows(isa, &to);
    if (!signs)
      for (long n = 0; n < count; n++) check_row(isa, n, centre, other, query);
  }

  void check_row(int isa, long n, const Floats& centre, const Floats& other, bool query) const {
    double lost = 0, kept = 0, whole = 0, shifted = 0, level = 0, length_sum = 0;
    for (int i = 0; i < wide; i++) {
      const int packed = n / GROUP * wide * GROUP + i / 4 * 4 * GROUP + n % GROUP * 4 + i % 4;
      const int value = query ? (int8_t)bytes[packed] : bytes[n * wide + i] - 128;
      CHECK(std::abs(value) <= 127, "%s bytes", NAMES[isa]);
      const double stands = (double)value * scale[n];
      const double x = i < dim ? (double)rows[n * dim + i] - centre[i] : 0;
      lost += (x - stands) * (x - stands), kept += stands * stands, whole += x * x;
      if (i < dim) shifted += x * other[i], level += (double)rows[n * dim + i] * other[i];
      if (i < dim) length_sum += (double)rows[n * dim + i] * rows[n * dim + i];
    }
    CHECK(std::sqrt(lost) <= error[n], "%s error of row %ld: %g above %g", NAMES[isa], n, std::sqrt(lost), error[n]);
    CHECK(std::sqrt(query ? whole : kept) <= norm[n], "%s norm", NAMES[isa]);
    CHECK(std::sqrt(length_sum) <= length[n], "%s length", NAMES[isa]);
    const double stands_for = query ? level : shifted;
    CHECK(stands_for <= shift[n], "%s shift: %g above %g", NAMES[isa], stands_for, shift[n]);
  }
};

static Floats mean_of(const Floats& rows, int dim) {
  Floats mean(dim);
  for (size_t i = 0; i < rows.size(); i++) mean[i % dim] += rows[i] / (rows.size() / dim);
  return mean;
}

// The k best of each row of `left` by plain loops and by what the screen kept.
static int check_results(int isa, const Side& left, const Side& right, int k, const Best& best,
                         const std::vector<int64_t>& row, const std::vector<int64_t>& column, const char* kind) {
  const int width = 4;
  std::vector<double> score(row.size()), values(left.count * k, -INFINITY);
  std::vector<int64_t> indices(left.count * k, -1);
  const long count = row.size();
  const Exact to = {left.rows.data(), right.rows.data(), left.dim, left.dim, row.data(), column.data(), count, left.dim,
                    score.data()};
  exact_scores(isa, width, &to);
  const Ranking ranking = {row.data(), column.data(), score.data(),  count,
                           left.count, k,            values.data(), indices.data()};
  rank_pairs(&ranking);
  int given_up = 0;
  for (long n = 0; n < left.count; n++) {
    if (best.floor[n] == INFINITY) {
      given_up++;
      continue;
    }
    std::vector<std::pair<double, long>> all(right.count);
    for (long m = 0; m < right.count; m++)
      all[m] = {-plain_dot(&left.rows[n * left.dim], &right.rows[m * left.dim], left.dim, width), m};
    std::sort(all.begin(), all.end());
    for (int place = 0; place < k; place++) {
      const double value = -all[place].first;
      CHECK(values[n * k + place] == value && indices[n * k + place] == all[place].second,
            "%s search, %s, D %d, k %d: row %ld place %d is %ld with %a, not %ld with %a", NAMES[isa], kind, left.dim,
            k, n, place, (long)indices[n * k + place], values[n * k + place], all[place].second, value);
    }
  }
  return given_up;
}

static int check_search(int isa) {
  const int dim = 1 + below(200);
  const char* kind = KINDS[below(9)];
  const Floats left = random_rows(kind, 1 + below(90), dim), right = random_rows(kind, 1 + below(700), dim);
  const Floats m = mean_of(right, dim), c = below(2) ? m : mean_of(left, dim);
  Floats signs(dim);
  for (float& sign : signs) sign = below(2) ? 1 : -1;
  const float* rotation = below(3) ? nullptr : signs.data();
  const Side queries(left, dim, isa, c, m, rotation, true), bank(right, dim, isa, m, c, rotation, false);
  const bool both = below(3) == 0, sketched = !both && below(2);
  const int k = std::min(bank.count, 1 + below(sketched ? 32 : 40)), back = both ? std::min(queries.count, 3L) : 0;
  Floats top(queries.room * k, -INFINITY), floor(queries.room, -INFINITY);
  Floats back_top(bank.room * std::max(1, back), -INFINITY), back_floor(bank.room, -INFINITY);
  const Best ahead = {top.data(), floor.data(), k, std::max(256, 16 * k)};
  const Best other = {back_top.data(), back_floor.data(), back, 256};
  Screen* screen = screen_new(&ahead, &other, queries.room, both ? bank.room : 0, dim, sketched);
  double norm = 0;
  for (float number : c) norm += (double)number * number;
  const float other_norm = 1.002 * std::sqrt(norm) + 0x1p-55;
  const Bank x = {bank.bytes.data(), bank.scale.data(), bank.norm.data(), bank.error.data(), bank.shift.data(),
                  bank.length.data(), bank.rows.data(), bank.factor.data(), 0, dim, other_norm};
  const Queries q = {(const int8_t*)queries.bytes.data(), queries.sums.data(), queries.lanes.data(),
                     queries.scale.data(), queries.norm.data(), queries.error.data(), queries.shift.data(),
                     queries.length.data(), queries.rows.data(), queries.room / PANEL, queries.count};
  screen_search(screen, isa, &x, &q, dim, bank.wide, 0, bank.room);
  std::vector<Hit> hits(screen_finish(screen));
  screen_hits(screen, hits.data());
  screen_free(screen);
  std::vector<int64_t> row, column;
  for (const Hit& hit : hits) row.push_back(hit.query), column.push_back(hit.row);
  int given_up = check_results(isa, queries, bank, k, ahead, row, column, kind);
  if (both) given_up += check_results(isa, bank, queries, back, other, column, row, kind);
  return given_up;
}

int main(int count, char** argument) {
  const int trials = count > 1 ? atoi(argument[1]) : 20, seed = count > 2 ? atoi(argument[2]) : 1;
  const int sets = instruction_sets();
  for (int isa = PORTABLE; isa <= AMX; isa++) {
    if (!(sets >> isa & 1)) {
      printf("%s: not on this processor\n", NAMES[isa]);
      continue;
    }
    source.seed(seed);
    checked = 0;
    int given_up = 0;
    for (int trial = 0; trial < trials; trial++) {
      check_sums(isa);
      for (int i = 0; i < 100; i++) check_may_reach(isa);
      for (int i = 0; i < 10; i++) check_exact(isa);
      given_up += check_search(isa);
    }
    printf("%s: %d trials, %ld comparisons, no fault; %d rows were given up\n", NAMES[isa], trials, checked, given_up);
    fflush(stdout);
  }
  printf("done\n");
}
