// What the parts of the int8 screen share: shapes, and the structures that Python fills (library.py mirrors them).
#pragma once
#include <cstdint>

enum {
  PANEL = 32,     // queries of one panel
  GROUP = 16,     // queries whose bytes lie together: two groups make a panel
  SEGMENT = 64,   // numbers between two widenings of the AVX2 tile; rows are padded to whole segments
  BLOCK = 192,    // bank rows that stay in cache while all panels pass: 192 KB at D 1024
  MOST_SKETCHED = 32,  // the longest list of lower bounds by bytes: each costs k steps a row
  MOST_DIM = 8192
};

// Bank rows x as stored: x' = x - centre, X = scale * (bytes - 128). All arrays begin at row `first` of the search.
struct Bank {
  const uint8_t* bytes;  // [rows][wide]
  const float *scale, *norm;  // norm: at least |X|
  const float* error;    // at least |x' - X|, and what the arithmetic of a score loses
  const float* shift;    // at least c . x', c the queries' centre; NaN in padding, which never compares
  const float* length;   // at least |x|
  const float* values;   // float32 rows, `stride` apart, to be multiplied by `factor` each
  const float* factor;
  long first, stride;
  float other_norm;      // at least |c|
};

struct Queries {
  const int8_t* bytes;   // [panels][2 groups][wide / 4][16][4]
  const int32_t* sums;   // [panels][32]: -128 times the sum of a query's bytes
  const int16_t* lanes;  // [panels][2 groups][segments][16][2]: the same of every lane, modulo 2^16
  const float *scale, *norm, *error;  // norm: at least |q'|, error: at least |q' - Q|
  const float* level;    // at least q . m, m the bank's centre; NaN in padding
  const float *length, *values;       // values: [queries][dim]
  long panels, count;                 // count: queries without the padding of the last panel
};

// The k best lower bounds of every row so far, falling; the last of them is the floor. A row that is given up has an
// infinite floor.
struct Best {
  float *top, *floor;
  int k, cap;  // cap: survivors of one row before it is given up
};

struct Starts {
  const int32_t* sums;
  const int16_t* lanes;
};

struct Hit {
  int32_t query, row;
  float upper;
};

struct Quantised {
  const float *rows, *centre, *other;  // other: the centre of the other side
  const float* signs;                  // of the rotation, or null
  long count, stride, first;           // first: number of the first row in the outputs
  int dim, wide, query;                // query: 1 packs panels, 0 bank rows
  float most_rms;                      // numbers are scaled to at most this root mean square
  int capped;                          // 1 keeps what the AVX2 tile asks for
  void* bytes;
  int32_t* sums;
  int16_t* lanes;
  float *scale, *norm, *error;
  float* shift;                        // of bank rows; the level of queries
  float* length;
};

// Pairs of rows whose dot products are wanted in float64.
struct Exact {
  const float *left, *right;              // rows `left_stride` and `right_stride` numbers apart
  long left_stride, right_stride;
  const int64_t *left_row, *right_row;    // [count]
  long count, dim;
  double* out;                            // [count]
};

// Scored pairs, of which the k best of every row are wanted: falling scores, of equal ones the lower column first.
struct Ranking {
  const int64_t *row, *column;  // [count]
  const double* score;
  long count, rows, k;
  double* values;    // [rows][k], as `indices`; places that no pair takes are left as they are
  int64_t* indices;
};
