// Exact top-k over int8 rows: sums of products in integers, upper bounds compared with the floor in registers, hits scored
// in float32 at once. The proof, the register plans and ten lines of numpy that do the same stand in docs/int8-screen.md.
// One source for all processors: the parts below are compiled once for each instruction set, and
// `instruction_sets` says which of them this processor has. Called through ctypes, so it knows neither Python nor torch.
#include "screen.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#define ON_X86 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define ON_X86 0
#endif

#ifndef SCREEN_SOURCES
#define SCREEN_SOURCES "unknown"
#endif

static const float ROUNDOFF = 0x1p-24f;
static const float UNDERFLOW_NORM = 0x1p-56f;    // squares of numbers below 2^-63 may be lost, of at most 8192 of them
static const float UNDERFLOW_SCORE = 0x1p-110f;  // products and bounds below 2^-126 may be lost

static const float LEVEL_SLACK = 0x1p-108f;      // of a level
static const float UNDERFLOW_LEVEL = 0x1p-107f;  // of a level and of the operations that follow

// `dot` of a part below rounds each product at most so often.
static float dot_roundings(long dim) { return dim / 16 + 40.0f; }

// A shift, and what is added to it, are computed with at most so much relative error.
static float shift_roundings(long dim) { return (2 * dot_roundings(dim) + 16) * ROUNDOFF; }

static void raise(Best& best, int row, float value) {
  float* top = best.top + (long)row * best.k;
  int place = best.k - 1;
  if (!(value > top[place])) return;
  for (; place > 0 && top[place - 1] < value; place--) top[place] = top[place - 1];
  top[place] = value;
  best.floor[row] = std::max(best.floor[row], top[best.k - 1]);
}

static bool more_promising(const Hit& a, const Hit& b) { return a.upper > b.upper; }

// The state of one search: floors and surviving hits.
struct Screen {
  Best queries, rows;  // rows.k 0: one way
  long query_count, row_count;
  float slack, shift_roundings;
  // One way: the k best lower bounds of every query by its bytes alone, falling. They are of other pairs, or of the same
  // ones, as the scores in `queries`, so the two lists are never merged; the higher end of both is the floor.
  // Each list has infinity before it and is filled up to whole vectors.
  std::vector<float> sketch;
  int sketch_width = 0;
  std::vector<char> begun;  // panels that some rows have met
  std::vector<Hit> hits;      // scored in float32
  std::vector<Hit> deferred;  // of the rows in work, not scored yet
  size_t prune_at, most_deferred;
  long scored = 0;

  bool reaches(const Hit& hit, float upper) const {
    return upper >= queries.floor[hit.query] || (rows.k && upper >= rows.floor[hit.row]);
  }

  bool sketched() const { return !sketch.empty(); }
  float* sketch_of(long query) { return &sketch[query * (sketch_width + 1) + 1]; }
  // Whether no block of rows has met this panel yet; the sketch then holds nothing.
  bool begins(long panel) const { return sketched() && !begun[panel]; }

  void raise_floor(long query, float value) { queries.floor[query] = std::max(queries.floor[query], value); }

  void prune_if_many() {
    if (hits.size() > prune_at) prune();
  }

  // Drops hits below the floors, and gives up rows that keep more than their cap.
  void prune() {
    drop(hits);
    bool over = give_up(queries, query_count, &Hit::query);
    if (rows.k) over |= give_up(rows, row_count, &Hit::row);
    if (over) drop(hits);
    prune_at = std::max(prune_at, 2 * hits.size());
  }

  void drop(std::vector<Hit>& some) const {
    const auto dead = [this](const Hit& hit) { return !reaches(hit, hit.upper); };
    some.erase(std::remove_if(some.begin(), some.end(), dead), some.end());
  }

  bool give_up(Best& best, long count, int32_t Hit::*row) {
    std::vector<int> survivors(count);
    for (const Hit& hit : hits) survivors[hit.*row] += hit.upper >= best.floor[hit.*row];
    bool over = false;
    for (long i = 0; i < count; i++)
      if (survivors[i] > best.cap) best.floor[i] = INFINITY, over = true;
    return over;
  }
};

namespace portable {
#define SCREEN_ISA 1
#define TARGET
#include "tiles.h"
#include "rows.h"
#include "search.h"
#undef SCREEN_ISA
#undef TARGET
}  // namespace portable

#if ON_X86
#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
// What an unaligned dword is to the compiler: a load and a broadcast in one instruction.
static inline int four_bytes_as_int(const uint8_t* from) {
  int bytes;
  __builtin_memcpy(&bytes, from, 4);
  return bytes;
}

namespace avx2 {
#define SCREEN_ISA 2
#define TARGET __attribute__((target("avx2,fma")))
#include "tiles.h"
#include "rows.h"
#include "search.h"
#undef SCREEN_ISA
#undef TARGET
}  // namespace avx2

#if __GNUC__ >= 11
namespace avx_vnni {
#define SCREEN_ISA 3
#define TARGET __attribute__((target("avx2,fma,avxvnni")))
#include "tiles.h"
#include "rows.h"
#include "search.h"
#undef SCREEN_ISA
#undef TARGET
}  // namespace avx_vnni
#endif

namespace vnni {
#define SCREEN_ISA 4
#define TARGET __attribute__((target(AVX512)))
#include "tiles.h"
#include "rows.h"
#include "search.h"
#undef SCREEN_ISA
#undef TARGET
}  // namespace vnni

#if __GNUC__ >= 11
namespace amx {
#define SCREEN_ISA 5
#define TARGET __attribute__((target(AVX512 ",amx-tile,amx-int8")))
#include "tiles.h"
#include "rows.h"
#include "search.h"
#undef SCREEN_ISA
#undef TARGET
}  // namespace amx
#endif

// For processors without AVX-512, whose registers of 256 bits the operating system saves where AVX2 is there.
static bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

static bool has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 25 & 1)) return false;
  const int request_permission = 0x1023, tile_data = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

enum Isa { PORTABLE = 1, AVX2 = 2, AVX_VNNI = 3, VNNI = 4, AMX = 5 };

extern "C" {
// One bit an instruction set (1 << Isa) that this processor runs and this build knows.
int instruction_sets() {
  int sets = 1 << PORTABLE;
#if ON_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    sets |= 1 << AVX2;
#if __GNUC__ >= 11
    if (has_avx_vnni()) sets |= 1 << AVX_VNNI;
#endif
  }
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    sets |= 1 << VNNI;
#if __GNUC__ >= 11
    if (has_amx()) sets |= 1 << AMX;
#endif
  }
#endif
  return sets;
}

// Names the sources that this was built from.
const char* screen_sources() { return SCREEN_SOURCES; }

void quantise_rows(int isa, const Quantised* to) {
#if ON_X86
  if (isa >= VNNI) return vnni::quantise(*to);
  if (isa >= AVX2) return avx2::quantise(*to);
#endif
  portable::quantise(*to);
}

void exact_scores(int isa, int width, const Exact* to) {
#if ON_X86
  if (isa >= VNNI) return vnni::exact(*to, width);
  if (isa >= AVX2) return avx2::exact(*to, width);
#endif
  portable::exact(*to, width);
}

void rank_pairs(const Ranking* to) {
  struct Pair {
    double score;
    int64_t column;
  };
  std::vector<long> end(to->rows + 1);
  for (long i = 0; i < to->count; i++) end[to->row[i] + 1]++;
  for (long row = 0; row < to->rows; row++) end[row + 1] += end[row];
  std::vector<Pair> pairs(to->count);
  for (long i = 0; i < to->count; i++) pairs[end[to->row[i]]++] = {to->score[i], to->column[i]};
  const auto better = [](const Pair& a, const Pair& b) {
    return a.score > b.score || (a.score == b.score && a.column < b.column);
  };
  for (long row = 0; row < to->rows; row++) {
    const auto first = pairs.begin() + (row ? end[row - 1] : 0), last = pairs.begin() + end[row];
    const long count = std::min(to->k, (long)(last - first));
    // Where hardly more than k are there, sorting them all takes half the time of picking k.
    if (last - first <= 2 * count)
      std::sort(first, last, better);
    else
      std::partial_sort(first, first + count, last, better);
    for (long place = 0; place < count; place++) {
      to->values[row * to->k + place] = first[place].score;
      to->indices[row * to->k + place] = first[place].column;
    }
  }
}

// The bare sums int32 [32][32] of 32 bank rows with one panel, for tests.
void screen_sums(int isa, const uint8_t* bank, long wide, const Queries* q, int32_t* out) {
  const Starts starts = {q->sums, q->lanes};
#if ON_X86
  if (isa == AVX2) return avx2::sums_of(bank, wide, q->bytes, starts, out);
  if (isa == VNNI) return vnni::sums_of(bank, wide, q->bytes, starts, out);
#if __GNUC__ >= 11
  if (isa == AVX_VNNI) return avx_vnni::sums_of(bank, wide, q->bytes, starts, out);
  if (isa == AMX) return amx::sums_of(bank, wide, q->bytes, starts, out);
#endif
#endif
  portable::sums_of(bank, wide, q->bytes, starts, out);
}

Screen* screen_new(const Best* queries, const Best* rows, long query_count, long row_count, long dim,
                   int sketched) {
  Screen* screen = new Screen{*queries, *rows, query_count, row_count};
  screen->slack = (dot_roundings(dim) + 4) * ROUNDOFF;
  screen->shift_roundings = shift_roundings(dim);
  const size_t kept = 2 * (query_count * queries->k + row_count * rows->k), few = 1 << 16;
  screen->prune_at = std::max(few, kept);
  // What waits takes 1.5 KB a query, or 960 + 96 k bytes with the copy that sorts it: less than the memory that survivors
  // may take (cpu.shortlist_bytes).
  long most = 128;
  if (sketched) {
    most = 40 + 4 * queries->k;
    screen->sketch_width = (queries->k + 7) / 8 * 8;
    screen->sketch.assign(query_count * (screen->sketch_width + 1), -INFINITY);
    for (long i = 0; i < query_count; i++) screen->sketch_of(i)[-1] = INFINITY;
    screen->begun.assign(query_count / PANEL, 0);
  }
  screen->most_deferred = std::max(4 * few, (size_t)(most * query_count));
  return screen;
}

void screen_search(Screen* screen, int isa, const Bank* x, const Queries* q, long dim, long wide, long first, long last) {
#if ON_X86
  if (isa == AVX2) return avx2::search(*screen, *x, *q, dim, wide, first, last);
  if (isa == VNNI) return vnni::search(*screen, *x, *q, dim, wide, first, last);
#if __GNUC__ >= 11
  if (isa == AVX_VNNI) return avx_vnni::search(*screen, *x, *q, dim, wide, first, last);
  if (isa == AMX) return amx::search(*screen, *x, *q, dim, wide, first, last);
#endif
#endif
  portable::search(*screen, *x, *q, dim, wide, first, last);
}

// The number of hits that are left; `screen_hits` copies them.
long screen_finish(Screen* screen) {
  screen->prune();
  return (long)screen->hits.size();
}

void screen_hits(const Screen* screen, Hit* out) { std::copy(screen->hits.begin(), screen->hits.end(), out); }

long screen_scored(const Screen* screen) { return screen->scored; }

void screen_free(Screen* screen) { delete screen; }
}
