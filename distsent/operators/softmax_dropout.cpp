// Softmax over the first `used` columns of each row, then dropout; and the backward pass of both.
// One pass over memory each. Rows are independent, so the number of threads does not change bits.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdlib>

#include "vectors.h"

namespace {

// A batch of matrices [queries, columns], one per example and head.
struct Scores {
  int64_t matrices, queries, columns, heads;
  const int64_t* used;  // [matrices / heads]: tokens of the example
  // The first query and key are the example's tokens number first_query and first_key. A query sees
  // `before` keys before and `after` keys after its own.
  int64_t first_query, first_key, before, after;
  const uint64_t* keys;  // [matrices, key_stride], of which the first `queries`; null: no dropout
  int64_t key_stride;
  const uint64_t* hashes;  // of the columns, four to a word; a multiple of four words
  int32_t threshold;
};

// Calls each(j, n) for blocks of columns: n is N, or what is left of `count`.
template <class F>
inline void each_block(int64_t count, F each) {
  int64_t j = 0;
  for (; j + N <= count; j += N) each(j, N);
  if (j < count) each(j, count - j);
}
template <class T>
inline floats load_block(const T* x, int64_t n) {
  return n == N ? load(x) : load(x, n);
}
template <class T>
inline void store_block(floats v, T* out, int64_t n) {
  if (n == N)
    store(v, out);
  else
    store(v, out, n);
}

// Calls each(m, i, start) for every row i of every matrix m; `start`: where it is in memory.
template <class F>
inline void each_row(const Scores& s, F each) {
#pragma omp parallel
  {
    float* scratch = static_cast<float*>(std::aligned_alloc(64, (s.columns / N + 1) * N * 4));
#pragma omp for schedule(static)
    for (int64_t m = 0; m < s.matrices; ++m)
      for (int64_t i = 0; i < s.queries; ++i)
        each(m, i, (m * s.queries + i) * s.columns, scratch);
    std::free(scratch);
  }
}

template <class T>
void forward(const Scores& s, T* x, T* dropped) {
  each_row(s, [&](int64_t m, int64_t i, int64_t start, float* e) {
    T *row = x + start, *out = dropped + start;
    const int64_t query = s.first_query + i - s.first_key;
    const int32_t low = int32_t(std::max<int64_t>(0, query - s.before));
    const int32_t high = int32_t(std::min(s.used[m / s.heads] - s.first_key, query + s.after + 1));
    floats most = floats{} - FLT_MAX, sum{};
    each_block(s.columns, [&](int64_t j, int64_t n) {
      const ints at = indices() + int32_t(j);
      const floats v = (at >= low) & (at < high) ? load_block(row + j, n) : floats{} - HUGE_VALF;
      most = most < v ? v : most;
      store(v, e + j);
    });
    const float top = most_of(most);
    each_block(s.columns, [&](int64_t j, int64_t) {
      const floats v = exp_of_negative(load(e + j) - top);
      sum += v;
      store(v, e + j);
    });
    // A query without a token may see no key: zeros, not NaN.
    const float total = sum_of(sum), inverse = total == 0 ? 0 : 1 / total;
    const uint64_t key = s.keys ? s.keys[m * s.key_stride + i] : 0;
    each_block(s.columns, [&](int64_t j, int64_t n) {
      const floats v = load(e + j) * inverse;
      store_block(v, row + j, n);
      if (s.keys) store_block(where(kept(key, s.hashes + j / 4, s.threshold), v), out + j, n);
    });
  });
}

// p: probabilities. g: the gradient of what dropout returned; becomes that of softmax's input.
template <class T>
void backward(const Scores& s, const T* p, T* g, T* dropped) {
  each_row(s, [&](int64_t m, int64_t i, int64_t start, float* gradient) {
    const uint64_t key = s.keys ? s.keys[m * s.key_stride + i] : 0;
    floats sum{};
    each_block(s.columns, [&](int64_t j, int64_t n) {
      const floats a = load_block(p + start + j, n);
      floats b = load_block(g + start + j, n);
      if (s.keys) {
        const ints keeps = kept(key, s.hashes + j / 4, s.threshold);
        b = where(keeps, b);
        store_block(where(keeps, a), dropped + start + j, n);
      }
      sum += a * b;
      store(b, gradient + j);
    });
    const float total = sum_of(sum);
    each_block(s.columns, [&](int64_t j, int64_t n) {
      const floats a = load_block(p + start + j, n);
      store_block(a * (load(gradient + j) - total), g + start + j, n);
    });
  });
}

}  // namespace

extern "C" {
void softmax_dropout_float(const Scores* s, float* x, float* dropped) { forward(*s, x, dropped); }
void softmax_dropout_bf16(const Scores* s, bf16* x, bf16* dropped) { forward(*s, x, dropped); }
void softmax_dropout_backward_float(const Scores* s, const float* p, float* g, float* dropped) {
  backward(*s, p, g, dropped);
}
void softmax_dropout_backward_bf16(const Scores* s, const bf16* p, bf16* g, bf16* dropped) {
  backward(*s, p, g, dropped);
}
}
