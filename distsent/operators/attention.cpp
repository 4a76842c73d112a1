// Attention of the tokens of each example to each other, with dropout, and its gradients. Scores
// never leave the caches. A thread computes an example and head at a time, in one order of sums: so
// no bits depend on the other examples, or on the number of threads.
//
// All products are of tiles of words: a float, or two bf16 that follow each other along the summed
// axis, as the processor's bf16 instruction wants them.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>

#include "vectors.h"

namespace {

constexpr int64_t R = N == 16 ? 8 : 4;  // rows of a tile: divides N
constexpr int64_t V = N == 16 ? 3 : 2;  // vectors in a row of a tile, at most
constexpr int64_t BLOCK = 48;           // queries whose probabilities are kept at a time

struct Attention {
  int64_t examples, heads, width, threads, cls_only;
  const int64_t* lengths;  // tokens of each example
  float base_2_scale;      // of the scores
  float scale, inverse_keep_prob;
  int64_t before, after;     // keys that a query sees before and after its own
  const uint64_t* keys;      // of the tokens; null: no dropout
  const uint64_t* of_heads;  // hashes
  const uint64_t* hashes;    // of the columns, four to a word
  int32_t threshold;
};

template <class T>
constexpr int64_t PAIR = sizeof(uint32_t) / sizeof(T);  // numbers in a word
constexpr int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Memory of a thread. Zero at first: what a tile reads beyond its matrix must be finite.
struct Arena {
  char *start, *next;
  explicit Arena(int64_t bytes)
      : start(static_cast<char*>(std::aligned_alloc(64, up(bytes, 64)))), next(start) {
    if (!start) throw std::bad_alloc();
    std::memset(start, 0, up(bytes, 64));
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
template <class T>
inline void store_words(unsigneds v, T* out) {
  std::memcpy(out, &v, sizeof v);
}

// c [R, v vectors] = or += a [R, steps] times b [steps, v vectors], of words.
template <class T, int v>
inline void tile(const uint32_t* a, int64_t a_row, int64_t a_step, const uint32_t* b, int64_t b_step,
                 int64_t steps, float* c, int64_t c_row, bool add) {
  floats sums[R][v];
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < v; ++i) sums[r][i] = add ? load(c + r * c_row + i * N) : floats{};
  for (int64_t s = 0; s < steps; ++s) {
    unsigneds row[v];
    for (int i = 0; i < v; ++i) std::memcpy(&row[i], b + s * b_step + i * N, sizeof row[i]);
    for (int r = 0; r < R; ++r) {
      const unsigneds one = unsigneds{} + a[r * a_row + s * a_step];
      for (int i = 0; i < v; ++i) sums[r][i] = sum_of_products(sums[r][i], one, row[i], T{});
    }
  }
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < v; ++i) store(sums[r][i], c + r * c_row + i * N);
}

// c [rows, columns] = or += a [rows, steps] times b [steps, columns]. Rows: of whole tiles.
template <class T>
void product(int64_t rows, int64_t columns, int64_t steps, const uint32_t* a, int64_t a_row,
             int64_t a_step, const uint32_t* b, int64_t b_step, float* c, int64_t c_row, bool add) {
  for (int64_t j = 0; j < columns;) {
    const int64_t left = (columns - j) / N, v = left == 4 ? 2 : std::min(left, V);
    const auto of = v == 3 ? tile<T, V> : v == 2 ? tile<T, 2> : tile<T, 1>;
    for (int64_t i = 0; i < rows; i += R)
      of(a + i * a_row, a_row, a_step, b + j, b_step, steps, c + i * c_row + j, c_row, add);
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
void pair_rows(const Rows<const T>& x, int64_t first, int64_t count, int64_t filled, uint32_t* out,
               int64_t columns) {
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

// What one example and head has.
struct Part {
  int64_t length, queries, query, token, head;  // the first query and token among all
};

// Calls each(part, arena) for every example and head.
template <class F>
void each_part(const Attention& s, int64_t bytes_per_token, int64_t bytes, F each) {
  int64_t longest = 0;
  for (int64_t i = 0; i < s.examples; ++i) longest = std::max(longest, s.lengths[i]);
  int64_t* starts = static_cast<int64_t*>(std::calloc(s.examples + 1, sizeof(int64_t)));
  if (!starts) throw std::bad_alloc();
  for (int64_t i = 0; i < s.examples; ++i) starts[i + 1] = starts[i] + s.lengths[i];
#pragma omp parallel num_threads(s.threads)
  {
    Arena arena(bytes + bytes_per_token * up(longest, N));
#pragma omp for schedule(dynamic)
    for (int64_t m = 0; m < s.examples * s.heads; ++m) {
      const int64_t i = m / s.heads, L = s.lengths[i];
      arena.next = arena.start;
      each(Part{L, s.cls_only ? 1 : L, s.cls_only ? i : starts[i], starts[i], m % s.heads}, arena);
    }
  }
  std::free(starts);
}

// The columns that a tile of queries from `first` on sees, and one query's columns.
struct Columns {
  int64_t begin, end;
};
inline Columns seen(const Attention& s, int64_t first, int64_t count, int64_t length) {
  return {std::max<int64_t>(0, first - s.before) / N * N,
          std::min(up(length, N), up(std::min(length, first + count + s.after), N))};
}
inline ints sees(const Attention& s, int64_t query, int64_t length, int64_t column) {
  const int64_t low = query - s.before, high = std::min(length, query + s.after + 1);
  const ints at = indices();
  return (at >= int32_t(low - column)) & (at < int32_t(high - column));
}

template <class T>
void forward(const Attention& s, const T* q, const T* k, const T* v, T* out, float* lse,
             int64_t total) {
  const int64_t stride = s.heads * s.width, D = up(s.width, N), words = up(s.width, PAIR<T>) / PAIR<T>;
  each_part(s, 4 * (words + D + 2 * R), 4 * (2 * R + 8) * D + 4096, [&](const Part& p, Arena& arena) {
    const int64_t L = up(p.length, N), at = p.head * s.width;
    const Rows<const T> Q{q + p.query * stride + at, stride, s.width};
    const Rows<const T> K{k + p.token * stride + at, stride, s.width};
    const Rows<const T> Y{v + p.token * stride + at, stride, s.width};
    const Rows<T> O{out + p.query * stride + at, stride, s.width};
    uint32_t* keys = arena.take<uint32_t>(words * L);
    uint32_t* values = arena.take<uint32_t>(L / PAIR<T> * D);
    uint32_t* queries = arena.take<uint32_t>(R * words);
    float* scores = arena.take<float>(R * L);
    T* kept_p = arena.take<T>(R * L);
    float* sums = arena.take<float>(R * D);
    transpose(K, p.length, keys, L);
    pair_rows(Y, 0, p.length, L, values, D);
    for (int64_t first = 0; first < p.queries; first += R) {
      const int64_t count = std::min(R, p.queries - first);
      const Columns c = s.cls_only ? Columns{0, L} : seen(s, first, count, p.length);
      copy_rows(Q, first, count, R, queries, words);
      product<T>(R, c.end - c.begin, words, queries, words, 1, keys + c.begin, L, scores + c.begin, L, false);
      float inverse[R];
      for (int64_t r = 0; r < count; ++r) {
        const int64_t query = first + r;
        float* row = scores + r * L;
        T* kept_row = kept_p + r * L;
        floats most = floats{} - HUGE_VALF, sum{};
        for (int64_t j = c.begin; j < c.end; j += N) {
          const ints visible = s.cls_only ? indices() < int32_t(p.length - j) : sees(s, query, p.length, j);
          const floats x = visible ? load(row + j) * s.base_2_scale : floats{} - HUGE_VALF;
          most = most < x ? x : most;
          store(x, row + j);
        }
        const float top = most_of(most);
        const uint64_t key = s.keys ? s.keys[p.token + query] ^ s.of_heads[p.head] : 0;
        for (int64_t j = c.begin; j < c.end; j += N) {
          const floats x = power_of_2(load(row + j) - top);
          sum += x;
          store(s.keys ? where(kept(key, s.hashes + j / 4, s.threshold), x) : x, kept_row + j);
        }
        const float whole = sum_of(sum);
        inverse[r] = s.inverse_keep_prob / whole;
        if (lse) lse[p.head * total + p.query + query] = top + std::log2(whole);
      }
      product<T>(R, D, (c.end - c.begin) / PAIR<T>, reinterpret_cast<uint32_t*>(kept_p + c.begin), L / PAIR<T>, 1,
                 values + c.begin / PAIR<T> * D, D, sums, D, false);
      for (int64_t r = 0; r < count; ++r) write_rows(sums + r * D, D, inverse[r], O, first + r, 1);
    }
  });
}

template <class T>
void backward(const Attention& s, const T* q, const T* k, const T* v, const T* out, const T* dout,
              const float* lse, T* dq, T* dk, T* dv, int64_t total) {
  const int64_t stride = s.heads * s.width, D = up(s.width, N), words = up(s.width, PAIR<T>) / PAIR<T>;
  const int64_t per_token = 4 * (2 * words + 3 * D + 2 * R) + sizeof(T) * (R + 2 * BLOCK);
  each_part(s, per_token, 4 * (2 * (BLOCK + R) * words + (2 * BLOCK + 3 * R) * D) + 8192,
            [&](const Part& p, Arena& arena) {
    const int64_t L = up(p.length, N), at = p.head * s.width;
    const Rows<const T> Q{q + p.query * stride + at, stride, s.width};
    const Rows<const T> K{k + p.token * stride + at, stride, s.width};
    const Rows<const T> Y{v + p.token * stride + at, stride, s.width};
    const Rows<const T> O{out + p.query * stride + at, stride, s.width};
    const Rows<const T> dO{dout + p.query * stride + at, stride, s.width};
    uint32_t* keys = arena.take<uint32_t>(words * L);
    uint32_t* values = arena.take<uint32_t>(words * L);
    uint32_t* key_pairs = arena.take<uint32_t>(L / PAIR<T> * D);
    float* key_sums = arena.take<float>(L * D);
    float* value_sums = arena.take<float>(L * D);
    uint32_t* queries = arena.take<uint32_t>(BLOCK * words);
    uint32_t* douts = arena.take<uint32_t>(BLOCK * words);
    uint32_t* query_pairs = arena.take<uint32_t>(BLOCK / PAIR<T> * D);
    uint32_t* dout_pairs = arena.take<uint32_t>(BLOCK / PAIR<T> * D);
    float* scores = arena.take<float>(R * L);
    float* dp = arena.take<float>(R * L);
    T* ds = arena.take<T>(R * L);
    float* sums = arena.take<float>(R * D);
    uint32_t* p_pairs = arena.take<uint32_t>(BLOCK / PAIR<T> * L);
    uint32_t* ds_pairs = arena.take<uint32_t>(BLOCK / PAIR<T> * L);
    transpose(K, p.length, keys, L);
    transpose(Y, p.length, values, L);
    pair_rows(K, 0, p.length, L, key_pairs, D);
    std::memset(key_sums, 0, L * D * 4);
    std::memset(value_sums, 0, L * D * 4);
    const float all_scale = s.scale * s.inverse_keep_prob;
    for (int64_t block = 0; block < p.queries; block += BLOCK) {
      const int64_t in_block = std::min(BLOCK, p.queries - block), filled = up(in_block, R);
      const Columns c = s.cls_only ? Columns{0, L} : seen(s, block, in_block, p.length);
      copy_rows(Q, block, in_block, filled, queries, words);
      copy_rows(dO, block, in_block, filled, douts, words);
      pair_rows(Q, block, in_block, filled, query_pairs, D);
      pair_rows(dO, block, in_block, filled, dout_pairs, D);
      for (int64_t first = 0; first < in_block; first += R) {
        product<T>(R, c.end - c.begin, words, queries + first * words, words, 1, keys + c.begin, L, scores + c.begin, L, false);
        product<T>(R, c.end - c.begin, words, douts + first * words, words, 1, values + c.begin, L, dp + c.begin, L, false);
        for (int64_t r = 0; r < R; r += PAIR<T>) {
          uint32_t* p_row = p_pairs + (first + r) / PAIR<T> * L;
          uint32_t* ds_row = ds_pairs + (first + r) / PAIR<T> * L;
          float own[PAIR<T>], delta[PAIR<T>];
          uint64_t key[PAIR<T>];
          for (int64_t i = 0; i < PAIR<T>; ++i) {
            const int64_t query = block + first + r + i;
            const bool real = query < p.queries;
            own[i] = real ? lse[p.head * total + p.query + query] : HUGE_VALF;
            key[i] = s.keys ? s.keys[p.token + (real ? query : 0)] ^ s.of_heads[p.head] : 0;
            floats sum{};
            if (real)
              for (int64_t d = 0; d < s.width; d += N) {
                const int64_t n = std::min(N, s.width - d);
                sum += load_some(O.row(query) + d, n) * load_some(dO.row(query) + d, n);
              }
            delta[i] = sum_of(sum) / s.inverse_keep_prob;
          }
          for (int64_t j = c.begin; j < c.end; j += N) {
            unsigneds p_words{}, ds_words{};
            for (int64_t i = 0; i < PAIR<T>; ++i) {
              const int64_t query = block + first + r + i;
              const ints visible = s.cls_only ? indices() < int32_t(p.length - j) : sees(s, query, p.length, j);
              const floats x = where(visible, power_of_2(load(scores + (r + i) * L + j) * s.base_2_scale - own[i]));
              floats kept_x = x, g = load(dp + (r + i) * L + j);
              if (s.keys) {
                const ints keeps = kept(key[i], s.hashes + j / 4, s.threshold);
                kept_x = where(keeps, x), g = where(keeps, g);
              }
              const floats y = x * (g - delta[i]);
              const unsigneds pw = bits(kept_x, T{}), dw = bits(y, T{});
              p_words |= pw << (16 * i);
              ds_words |= dw << (16 * i);
              store_bits(dw, ds + (r + i) * L + j);
            }
            store_words(p_words, p_row + j);
            store_words(ds_words, ds_row + j);
          }
        }
        product<T>(R, D, (c.end - c.begin) / PAIR<T>, reinterpret_cast<uint32_t*>(ds + c.begin), L / PAIR<T>, 1,
                   key_pairs + c.begin / PAIR<T> * D, D, sums, D, false);
        write_rows(sums, D, all_scale, Rows<T>{dq + p.query * stride + at, stride, s.width}, block + first,
                   std::min(R, in_block - first));
      }
      const int64_t steps = filled / PAIR<T>;
      product<T>(c.end - c.begin, D, steps, p_pairs + c.begin, 1, L, dout_pairs, D, value_sums + c.begin * D, D, true);
      product<T>(c.end - c.begin, D, steps, ds_pairs + c.begin, 1, L, query_pairs, D, key_sums + c.begin * D, D, true);
    }
    write_rows(key_sums, D, all_scale, Rows<T>{dk + p.token * stride + at, stride, s.width}, 0, p.length);
    write_rows(value_sums, D, s.inverse_keep_prob, Rows<T>{dv + p.token * stride + at, stride, s.width}, 0, p.length);
  });
}

}  // namespace

extern "C" {
#define OPERATORS(T, name)                                                                        \
  void attention_##name(const Attention* s, const T* q, const T* k, const T* v, T* out, float* lse, \
                        int64_t queries) {                                                        \
    forward(*s, q, k, v, out, lse, queries);                                                      \
  }                                                                                               \
  void attention_backward_##name(const Attention* s, const T* q, const T* k, const T* v,          \
                                 const T* out, const T* dout, const float* lse, T* dq, T* dk, T* dv, \
                                 int64_t queries) {                                               \
    backward(*s, q, k, v, out, dout, lse, dq, dk, dv, queries);                                   \
  }
OPERATORS(float, float)
OPERATORS(bf16, bf16)
}
