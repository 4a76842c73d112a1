// Attention of the tokens of each example to each other, with dropout, and its gradients. Scores
// never leave the caches. A thread computes an example and head at a time, in one order of sums: so
// no bits depend on the other examples, or on the number of threads.
#include <algorithm>
#include <cmath>
#include <vector>

#include "tiles.h"

namespace {

constexpr int64_t BLOCK = 48;  // queries whose probabilities are kept at a time; whole tiles

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

// One example and head.
struct Part {
  int64_t length, queries;
  int64_t token, query;  // its first, among all
  int64_t head;
};

// Calls each(part, arena) for every example and head.
template <class F>
void each_part(const Attention& s, int64_t bytes, int64_t bytes_per_token, F each) {
  std::vector<int64_t> starts(s.examples);
  int64_t longest = 0, tokens = 0;
  for (int64_t i = 0; i < s.examples; ++i) {
    starts[i] = tokens, tokens += s.lengths[i];
    longest = std::max(longest, s.lengths[i]);
  }
#pragma omp parallel num_threads(s.threads)
  {
    Arena arena(bytes + bytes_per_token * up(longest, N));
#pragma omp for schedule(dynamic)
    for (int64_t m = 0; m < s.examples * s.heads; ++m) {
      const int64_t i = m / s.heads, L = s.lengths[i];
      arena.next = arena.start;
      each(Part{L, s.cls_only ? 1 : L, starts[i], s.cls_only ? i : starts[i], m % s.heads}, arena);
    }
  }
}

// The keys that queries see.
struct Columns {
  int64_t begin, end;
  bool inside(int64_t j) const { return j >= begin && j + N <= end; }  // all of a vector from j on
  ints sees(int64_t j) const {
    const ints at = indices() + int32_t(j);
    return (at >= int32_t(begin)) & (at < int32_t(end));
  }
};

// Of `count` queries from the example's query `first` on.
inline Columns seen(const Attention& s, const Part& p, int64_t first, int64_t count) {
  if (s.cls_only) return {0, p.length};
  return {std::max<int64_t>(0, first - s.before), std::min(p.length, first + count + s.after)};
}
inline Columns whole_vectors(Columns c) { return {c.begin / N * N, up(c.end, N)}; }

inline uint64_t row_key(const Attention& s, const Part& p, int64_t query) {
  return s.keys ? s.keys[p.token + query] ^ s.of_heads[p.head] : 0;
}

template <class T>
Rows<T> rows_of(const Attention& s, const Part& p, T* x, int64_t first) {
  return {x + (first * s.heads + p.head) * s.width, s.heads * s.width, s.width};
}

// What dropout leaves of the exponentials of a query's scores, and their sum and logarithm.
struct Sum {
  float total, log_2;
};
template <class T>
Sum softmax(const Attention& s, const Part& p, int64_t query, Columns c, const float* scores,
            T* out) {
  const Columns own = seen(s, p, query, 1);
  floats most = floats{} - HUGE_VALF, sum{};
  for (int64_t j = c.begin; j < c.end; j += N) {
    const floats x = load(scores + j);
    most = max(most, own.inside(j) ? x : select(own.sees(j), x, -HUGE_VALF));
  }
  const float top = most_of(most) * s.base_2_scale;
  const uint64_t key = row_key(s, p, query);
  for (int64_t j = c.begin; j < c.end; j += N) {
    floats x = power_of_2(load(scores + j) * s.base_2_scale - top);
    if (!own.inside(j)) x = where(own.sees(j), x);
    sum += x;
    if (s.keys) x = where(kept(key, s.hashes + j / 4, s.threshold), x);
    store(x, out + j);
  }
  const float total = sum_of(sum);
  return {total, top + std::log2(total)};
}

template <class T>
void forward(const Attention& s, const T* q, const T* k, const T* v, T* out, float* lse,
             int64_t all_queries) {
  const int64_t D = up(s.width, N), words = up(s.width, PAIR<T>) / PAIR<T>;
  const int64_t bytes = 4 * R * (words + D) + SLACK, per_token = 4 * (words + D + 2 * R);
  each_part(s, bytes, per_token, [&](const Part& p, Arena& arena) {
    const int64_t L = up(p.length, N);
    uint32_t* keys = arena.take<uint32_t>(words * L);
    uint32_t* values = arena.take<uint32_t>(L / PAIR<T> * D);
    uint32_t* queries = arena.take<uint32_t>(R * words);
    float* scores = arena.take<float>(R * L);
    T* probabilities = arena.take<T>(R * L);
    float* sums = arena.take<float>(R * D);
    transpose(rows_of(s, p, k, p.token), p.length, keys, L);
    pair_rows(rows_of(s, p, v, p.token), 0, p.length, L, values, D);
    for (int64_t first = 0; first < p.queries; first += R) {
      const int64_t count = std::min(R, p.queries - first);
      const Columns c = whole_vectors(seen(s, p, first, count));
      const int64_t columns = c.end - c.begin;
      copy_rows(rows_of(s, p, q, p.query), first, count, R, queries, words);
      product<T>({queries, words, 1}, {keys + c.begin, L}, {scores + c.begin, L}, R, columns,
                 words);
      float inverse[R];
      for (int64_t r = 0; r < count; ++r) {
        const Sum sum = softmax(s, p, first + r, c, scores + r * L, probabilities + r * L);
        inverse[r] = s.inverse_keep_prob / sum.total;
        lse[p.head * all_queries + p.query + first + r] = sum.log_2;
      }
      const uint32_t* seen_values = values + c.begin / PAIR<T> * D;
      product<T>({as_words(probabilities + c.begin), L / PAIR<T>, 1}, {seen_values, D}, {sums, D},
                 R, D, columns / PAIR<T>);
      for (int64_t r = 0; r < count; ++r)
        write_rows(sums + r * D, D, inverse[r], rows_of(s, p, out, p.query), first + r, 1);
    }
  });
}

// What the gradient of a query's scores needs. A query that is not there has no probabilities.
struct Query {
  Columns seen{0, 0};
  float lse = 0, delta = 0;  // delta: the sum of each output times its gradient
  uint64_t key = 0;
};

template <class T>
Query query_of(const Attention& s, const Part& p, int64_t query, const T* out, const T* dout,
               const float* lse) {
  if (query >= p.queries) return {};
  const T* o = rows_of(s, p, out, p.query).row(query);
  const T* g = rows_of(s, p, dout, p.query).row(query);
  floats sum{};
  for (int64_t d = 0; d < s.width; d += N) {
    const int64_t n = std::min(N, s.width - d);
    sum += load_some(o + d, n) * load_some(g + d, n);
  }
  const float delta = sum_of(sum) / s.inverse_keep_prob;
  return {seen(s, p, query, 1), lse[query], delta, row_key(s, p, query)};
}

// The gradients of the scores of as many queries as a word has numbers, for those of what dropout
// left: in rows, and with the probabilities that it left as words along the queries.
template <class T>
void softmax_gradient(const Attention& s, const Query* query, Columns c, int64_t L,
                      const float* scores, const float* gradient, T* ds, uint32_t* p_words,
                      uint32_t* ds_words) {
  for (int64_t j = c.begin; j < c.end; j += N) {
    unsigneds p_word{}, ds_word{};
    for (int64_t i = 0; i < PAIR<T>; ++i) {
      floats x = power_of_2(load(scores + i * L + j) * s.base_2_scale - query[i].lse);
      if (!query[i].seen.inside(j)) x = where(query[i].seen.sees(j), x);
      floats left = x, g = load(gradient + i * L + j);
      if (s.keys) {
        const ints keeps = kept(query[i].key, s.hashes + j / 4, s.threshold);
        left = where(keeps, x), g = where(keeps, g);
      }
      const unsigneds found = bits(x * (g - query[i].delta), T{});
      store_bits(found, ds + i * L + j);
      p_word |= bits(left, T{}) << (16 * i);
      ds_word |= found << (16 * i);
    }
    store_words(p_word, p_words + j);
    store_words(ds_word, ds_words + j);
  }
}

template <class T>
void backward(const Attention& s, const T* q, const T* k, const T* v, const T* out, const T* dout,
              const float* lse, T* dq, T* dk, T* dv, int64_t all_queries) {
  const int64_t D = up(s.width, N), words = up(s.width, PAIR<T>) / PAIR<T>;
  const int64_t bytes = 4 * (2 * BLOCK * (words + D) + R * D) + SLACK;
  const int64_t per_token = 4 * (2 * words + 3 * D + 3 * R + 2 * BLOCK);
  const float factor = s.scale * s.inverse_keep_prob;
  each_part(s, bytes, per_token, [&](const Part& p, Arena& arena) {
    const int64_t L = up(p.length, N);
    uint32_t* keys = arena.take<uint32_t>(words * L);
    uint32_t* values = arena.take<uint32_t>(words * L);
    uint32_t* key_pairs = arena.take<uint32_t>(L / PAIR<T> * D);
    float* key_sums = arena.take<float>(L * D);
    float* value_sums = arena.take<float>(L * D);
    uint32_t* queries = arena.take<uint32_t>(BLOCK * words);
    uint32_t* gradients = arena.take<uint32_t>(BLOCK * words);
    uint32_t* query_pairs = arena.take<uint32_t>(BLOCK / PAIR<T> * D);
    uint32_t* gradient_pairs = arena.take<uint32_t>(BLOCK / PAIR<T> * D);
    float* scores = arena.take<float>(R * L);
    float* dp = arena.take<float>(R * L);
    T* ds = arena.take<T>(R * L);
    float* sums = arena.take<float>(R * D);
    uint32_t* p_words = arena.take<uint32_t>(BLOCK / PAIR<T> * L);
    uint32_t* ds_words = arena.take<uint32_t>(BLOCK / PAIR<T> * L);
    const Rows<const T> Q = rows_of(s, p, q, p.query), dO = rows_of(s, p, dout, p.query);
    transpose(rows_of(s, p, k, p.token), p.length, keys, L);
    transpose(rows_of(s, p, v, p.token), p.length, values, L);
    pair_rows(rows_of(s, p, k, p.token), 0, p.length, L, key_pairs, D);
    std::fill(key_sums, key_sums + L * D, 0.0f);
    std::fill(value_sums, value_sums + L * D, 0.0f);
    for (int64_t block = 0; block < p.queries; block += BLOCK) {
      const int64_t count = std::min(BLOCK, p.queries - block), filled = up(count, R);
      const Columns c = whole_vectors(seen(s, p, block, count));
      const int64_t columns = c.end - c.begin;
      copy_rows(Q, block, count, filled, queries, words);
      copy_rows(dO, block, count, filled, gradients, words);
      pair_rows(Q, block, count, filled, query_pairs, D);
      pair_rows(dO, block, count, filled, gradient_pairs, D);
      for (int64_t first = 0; first < count; first += R) {
        const int64_t in_words = first * words;
        product<T>({queries + in_words, words, 1}, {keys + c.begin, L}, {scores + c.begin, L}, R,
                   columns, words);
        product<T>({gradients + in_words, words, 1}, {values + c.begin, L}, {dp + c.begin, L}, R,
                   columns, words);
        for (int64_t r = 0; r < R; r += PAIR<T>) {
          Query each[PAIR<T>];
          for (int64_t i = 0; i < PAIR<T>; ++i)
            each[i] = query_of(s, p, block + first + r + i, out, dout,
                               lse + p.head * all_queries + p.query);
          const int64_t row = (first + r) / PAIR<T> * L;
          softmax_gradient(s, each, c, L, scores + r * L, dp + r * L, ds + r * L, p_words + row,
                           ds_words + row);
        }
        product<T>({as_words(ds + c.begin), L / PAIR<T>, 1}, {key_pairs + c.begin / PAIR<T> * D, D},
                   {sums, D}, R, D, columns / PAIR<T>);
        write_rows(sums, D, factor, rows_of(s, p, dq, p.query), block + first,
                   std::min(R, count - first));
      }
      const int64_t steps = filled / PAIR<T>;
      product<T>({p_words + c.begin, 1, L}, {gradient_pairs, D}, {value_sums + c.begin * D, D},
                 columns, D, steps, true);
      product<T>({ds_words + c.begin, 1, L}, {query_pairs, D}, {key_sums + c.begin * D, D},
                 columns, D, steps, true);
    }
    write_rows(key_sums, D, factor, rows_of(s, p, dk, p.token), 0, p.length);
    write_rows(value_sums, D, s.inverse_keep_prob, rows_of(s, p, dv, p.token), 0, p.length);
  });
}

}  // namespace

extern "C" {
#define OPERATORS(T, name)                                                                     \
  void attention_##name(const Attention* s, const T* q, const T* k, const T* v, T* out,         \
                        float* lse, int64_t queries) {                                          \
    forward(*s, q, k, v, out, lse, queries);                                                    \
  }                                                                                             \
  void attention_backward_##name(const Attention* s, const T* q, const T* k, const T* v,        \
                                 const T* out, const T* dout, const float* lse, T* dq, T* dk,   \
                                 T* dv, int64_t queries) {                                      \
    backward(*s, q, k, v, out, dout, lse, dq, dk, dv, queries);                                 \
  }
OPERATORS(float, float)
OPERATORS(bf16, bf16)
}
