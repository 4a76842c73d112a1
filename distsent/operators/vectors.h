// As many numbers at a time as a vector register holds, in the vector types of g++ and clang: no
// intrinsics. Also what operators share: 16-bit floats, e^x, and the dropout hash of model/dropout.py.
#pragma once
#include <cstdint>
#include <cstring>

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
// Rounds to nearest, ties to even, as torch does.
inline void store(floats v, bf16* out) {
  const unsigneds u = (unsigneds)v;
  const unsigneds rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  const halves h = __builtin_convertvector((v == v) ? rounded : (unsigneds)(ints{} + 0x7fc0), halves);
  std::memcpy(out, &h, sizeof h);
}
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

// e^x for x <= 0, within 2 units in the last place; 0 below -87. Cephes' reduction and polynomial.
inline floats exp_of_negative(floats x) {
  const floats floor_at = floats{} - 87.0f;
  const floats y = x > floor_at ? x : floor_at;
  const floats n = (y * 1.44269504f + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23: rounds
  const floats r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
  floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const floats power = (floats)((__builtin_convertvector(n, ints) + 127) << 23);
  return x >= floor_at ? p * power : (x == x ? floats{} : x);
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
inline floats where(ints mask, floats x) { return (floats)((ints)x & mask); }
