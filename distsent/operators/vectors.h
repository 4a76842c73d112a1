// As many numbers at a time as a vector register holds, in the vector types of g++ and clang; for
// bf16, instructions where there are some. Also 2^x, and the dropout hash of operators/masks.py.
#pragma once
#include <cstdint>
#include <cstring>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
constexpr int64_t N = 16;
#else
constexpr int64_t N = 8;  // g++ takes wider vectors apart, number by number
#endif
typedef float floats __attribute__((vector_size(4 * N)));
typedef int32_t ints __attribute__((vector_size(4 * N)));
typedef uint32_t unsigneds __attribute__((vector_size(4 * N)));
typedef int16_t shorts __attribute__((vector_size(2 * N)));
typedef uint16_t halves __attribute__((vector_size(2 * N)));
typedef int64_t words __attribute__((vector_size(2 * N)));  // four lanes in each
typedef uint64_t unsigned_words __attribute__((vector_size(2 * N)));

struct bf16 {
  uint16_t bits;
};

inline floats load(const float* x) {
  floats v;
  std::memcpy(&v, x, sizeof v);
  return v;
}
inline floats load(const bf16* x) {
  halves h;
  std::memcpy(&h, x, sizeof h);
  return (floats)(__builtin_convertvector(h, unsigneds) << 16);
}
inline void store(floats v, float* out) { std::memcpy(out, &v, sizeof v); }
// The bits of v in bf16. Rounds to nearest, ties to even, as torch does.
inline unsigneds rounded(floats v) {
#ifdef __AVX512BF16__
  return (unsigneds)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
  const unsigneds u = (unsigneds)v;
  return v == v ? (u + 0x7fff + ((u >> 16) & 1)) >> 16 : (unsigneds)(ints{} + 0x7fc0);
#endif
}
inline void store_bits(unsigneds v, float* out) { std::memcpy(out, &v, sizeof v); }
inline void store_bits(unsigneds v, bf16* out) {
  const halves h = __builtin_convertvector(v, halves);
  std::memcpy(out, &h, sizeof h);
}
inline void store(floats v, bf16* out) { store_bits(rounded(v), out); }
// The first n < N of them; the others are 0 and stay as they are.
template <class T>
inline floats load(const T* x, int64_t n) {
  T all[N] = {};
  std::memcpy(all, x, n * sizeof(T));
  return load(all);
}
template <class T>
inline void store(floats v, T* out, int64_t n) {
  T all[N];
  store(v, all);
  std::memcpy(out, all, n * sizeof(T));
}

template <class T>
inline floats load_some(const T* x, int64_t n) {
  return n == N ? load(x) : load(x, n);
}
inline unsigneds load_bits(const float* x, int64_t n) { return (unsigneds)load_some(x, n); }
inline unsigneds load_bits(const bf16* x, int64_t n) { return (unsigneds)load_some(x, n) >> 16; }

// The sum, plus the product of floats, or of both bf16 in each word.
inline floats sum_of_products(floats sum, unsigneds a, unsigneds b, float) {
  return sum + (floats)a * (floats)b;
}
inline floats sum_of_products(floats sum, unsigneds a, unsigneds b, bf16) {
#ifdef __AVX512BF16__
  return (floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
  sum += (floats)(a << 16) * (floats)(b << 16);
  return sum + (floats)(a & 0xffff0000u) * (floats)(b & 0xffff0000u);
#endif
}

inline ints indices() {
  ints v{};
  for (int i = 0; i < N; ++i) v[i] = i;
  return v;
}
inline float sum_of(floats v) {
  float half[N / 2];
  for (int i = 0; i < N / 2; ++i) half[i] = v[i] + v[i + N / 2];
  for (int n = N / 4; n; n /= 2)
    for (int i = 0; i < n; ++i) half[i] += half[i + n];
  return half[0];
}
inline float most_of(floats v) {
  float most = v[0];
  for (int i = 1; i < N; ++i) most = v[i] > most ? v[i] : most;
  return most;
}

// 2^x for x <= 0 or slightly more, within 2 units in the last place; not below 2^-126. Cephes'
// polynomial. NaN stays NaN.
inline floats power_of_2(floats x) {
  const floats y = x < -126.0f ? floats{} - 126.0f : x;
  const floats shifted = y + 12582912.0f;  // 1.5 * 2^23: rounds, into the low bits
  const floats r = y - (shifted - 12582912.0f);
  floats p = r * 1.535336188319500e-4f + 1.339887440266574e-3f;
  p = p * r + 9.618437357674640e-3f;
  p = p * r + 5.550332471162809e-2f;
  p = p * r + 2.402264791363012e-1f;
  p = p * r + 6.931472028550421e-1f;
  p = p * r + 1.0f;
  return (floats)((ints)p + ((ints)shifted << 23));
}

// All bits set where `keep_mask` keeps: of N columns, whose hashes are at `hashes`.
inline ints kept(uint64_t key, const uint64_t* hashes, int32_t threshold) {
  unsigned_words w;
  std::memcpy(&w, hashes, sizeof w);
  w = (w ^ key) * 0xBF58476D1CE4E5B9u;
  w ^= (unsigned_words)((words)w >> 32);
  w *= 0x94D049BB133111EBu;
  return __builtin_convertvector((shorts)w, ints) >= threshold;
}
inline floats select(ints mask, floats x, float otherwise) {
  return mask ? x : floats{} + otherwise;
}
inline floats max(floats a, floats b) { return a > b ? a : b; }
inline floats where(ints mask, floats x) { return (floats)((ints)x & mask); }
