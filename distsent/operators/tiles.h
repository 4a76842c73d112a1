// Products of small matrices that stay in the caches, and what lays them out.
//
// All are of words: a float, or two bf16 that follow each other along the summed axis, as the
// processor's bf16 instruction wants them. A product is of tiles [R, V vectors], in registers.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <new>

#include "vectors.h"

namespace {

constexpr int64_t R = N == 16 ? 8 : 4;  // rows of a tile: divides N
constexpr int64_t V = N == 16 ? 3 : 2;  // vectors in a row of a tile, at most
constexpr int64_t SLACK = 1024;         // bytes between the arrays of an arena, to align them

template <class T>
constexpr int64_t PAIR = sizeof(uint32_t) / sizeof(T);  // numbers in a word
constexpr int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Memory of a thread, for arrays that every example and head lays out anew.
struct Arena {
  char *start, *next;
  explicit Arena(int64_t bytes)
      : start(static_cast<char*>(std::aligned_alloc(64, up(bytes, 64)))), next(start) {
    if (!start) throw std::bad_alloc();
  }
  ~Arena() { std::free(start); }
  template <class T>
  T* take(int64_t count) {
    T* taken = reinterpret_cast<T*>(next);
    next += up(count * sizeof(T), 64);
    return taken;
  }
};

inline unsigneds bits(floats v, float) { return (unsigneds)v; }
inline unsigneds bits(floats v, bf16) { return rounded(v); }
inline void store_words(unsigneds v, uint32_t* out) { std::memcpy(out, &v, sizeof v); }
template <class T>
const uint32_t* as_words(const T* x) {
  return reinterpret_cast<const uint32_t*>(x);
}

// Matrices: where an element lies from the next one in the same column, and in the same row.
struct Left {
  const uint32_t* start;
  int64_t row, step;
};
struct Right {
  const uint32_t* start;
  int64_t step;
};
struct Result {
  float* start;
  int64_t row;
};

// c [R, v vectors] = or += a [R, steps] times b [steps, v vectors], of words.
template <class T, int v>
void tile(Left a, Right b, Result c, int64_t steps, bool add) {
  floats sums[R][v];
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < v; ++i) sums[r][i] = add ? load(c.start + r * c.row + i * N) : floats{};
  for (int64_t s = 0; s < steps; ++s) {
    unsigneds row[v];
    for (int i = 0; i < v; ++i) std::memcpy(&row[i], b.start + s * b.step + i * N, sizeof row[i]);
    for (int r = 0; r < R; ++r) {
      const unsigneds one = unsigneds{} + a.start[r * a.row + s * a.step];
      for (int i = 0; i < v; ++i) sums[r][i] = sum_of_products(sums[r][i], one, row[i], T{});
    }
  }
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < v; ++i) store(sums[r][i], c.start + r * c.row + i * N);
}

// c [rows, columns] = or += a [rows, steps] times b [steps, columns]. Rows: of whole tiles.
template <class T>
void product(Left a, Right b, Result c, int64_t rows, int64_t columns, int64_t steps,
             bool add = false) {
  for (int64_t j = 0; j < columns;) {
    const int64_t left = (columns - j) / N, v = left == 4 ? 2 : std::min(left, V);
    const auto multiply = v == 3 ? tile<T, V> : v == 2 ? tile<T, 2> : tile<T, 1>;
    for (int64_t i = 0; i < rows; i += R)
      multiply({a.start + i * a.row, a.row, a.step}, {b.start + j, b.step},
               {c.start + i * c.row + j, c.row}, steps, add);
    j += v * N;
  }
}

// A head's rows in memory, `stride` numbers apart, each of `width` numbers.
template <class T>
struct Rows {
  T* start;
  int64_t stride, width;
  T* row(int64_t i) const { return start + i * stride; }
};

// Rows as words along the width: [filled, words], zero from `count` on.
template <class T>
void copy_rows(const Rows<const T>& x, int64_t first, int64_t count, int64_t filled, uint32_t* out,
               int64_t words) {
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(out + i * words, x.row(first + i), x.width * sizeof(T));
  std::fill(out + count * words, out + filled * words, 0);
}

// The transpose of that: [words, at least count].
template <class T>
void transpose(const Rows<const T>& x, int64_t count, uint32_t* out, int64_t columns) {
  const int64_t words = up(x.width, PAIR<T>) / PAIR<T>;
  for (int64_t i = 0; i < count; ++i) {
    const T* row = x.row(i);
    for (int64_t d = 0; d < words; ++d) std::memcpy(out + d * columns + i, row + d * PAIR<T>, 4);
  }
  for (int64_t d = 0; d < words; ++d)
    std::fill(out + d * columns + count, out + (d + 1) * columns, 0);
}

// Rows as words along the rows: [filled / PAIR, columns], zero from `count` on.
template <class T>
void pair_rows(const Rows<const T>& x, int64_t first, int64_t count, int64_t filled,
               uint32_t* out, int64_t columns) {
  for (int64_t i = 0; i < count; i += PAIR<T>)
    for (int64_t d = 0; d < x.width; d += N) {
      const int64_t n = std::min(N, x.width - d);
      unsigneds v = load_bits(x.row(first + i) + d, n);
      if (PAIR<T> == 2 && i + 1 < count) v |= load_bits(x.row(first + i + 1) + d, n) << 16;
      store_words(v, out + i / PAIR<T> * columns + d);
    }
  std::fill(out + up(count, PAIR<T>) / PAIR<T> * columns, out + filled / PAIR<T> * columns, 0);
}

template <class T>
void write_rows(const float* x, int64_t columns, float factor, const Rows<T>& out, int64_t first,
                int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t d = 0; d < out.width; d += N) {
      const floats v = load(x + i * columns + d) * factor;
      const int64_t n = out.width - d;
      if (n >= N)
        store(v, out.row(first + i) + d);
      else
        store(v, out.row(first + i) + d, n);
    }
}

}  // namespace
