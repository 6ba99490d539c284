/* Vectors of the machine's width, in GCC's and Clang's vector extensions. */

#ifndef TACIT_VEC_H
#define TACIT_VEC_H

#include <stdint.h>
#include <string.h>

#if defined(__SSE__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
#define V 16
#elif defined(__AVX2__)
#define V 8
#else
#define V 4
#endif

#define INLINE static inline __attribute__((always_inline))
#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define UNROLL(n) PRAGMA(clang loop unroll_count(n))
#else
#define UNROLL(n) PRAGMA(GCC unroll n)
#endif

typedef float vec __attribute__((vector_size(4 * V)));
typedef int32_t ivec __attribute__((vector_size(4 * V)));
typedef uint32_t bits __attribute__((vector_size(4 * V)));
/* The same, anywhere in memory. */
typedef float loose __attribute__((vector_size(4 * V), aligned(4), may_alias));
typedef int8_t small __attribute__((vector_size(V)));
typedef int8_t sloose __attribute__((vector_size(V), aligned(1), may_alias));

INLINE int64_t round_up(int64_t n) { return (n + V - 1) / V * V; }

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

INLINE vec splat(float x) { return x - (vec){0}; }

INLINE vec load(const float *p) { return *(const loose *)p; }

INLINE void store(float *p, vec x) { *(loose *)p = x; }

/* Lanes for which something holds. */
#if defined(__AVX512F__)
typedef __mmask16 lanes;
INLINE lanes above(vec a, vec b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ); }
INLINE lanes missing(vec a) { return _mm512_cmp_ps_mask((__m512)a, (__m512)a, _CMP_UNORD_Q); }
/* Which of V bytes have a value. */
INLINE lanes having(const int8_t *p, int64_t value) {
    return _mm_cmpeq_epi8_mask(_mm_loadu_si128((const void *)p), _mm_set1_epi8((char)value));
}
INLINE vec choose(lanes where, vec yes, vec no) {
    return (vec)_mm512_mask_blend_ps(where, (__m512)no, (__m512)yes);
}
INLINE ivec pick(lanes where, ivec yes, ivec no) {
    return (ivec)_mm512_mask_blend_epi32(where, (__m512i)no, (__m512i)yes);
}
#else
typedef ivec lanes;
INLINE lanes above(vec a, vec b) { return a > b; }
INLINE lanes missing(vec a) { return a != a; }
INLINE lanes having(const int8_t *p, int64_t value) {
#if defined(__AVX2__)
    const ivec wide = (ivec)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p));
#else
    const ivec wide = __builtin_convertvector(*(const sloose *)p, ivec);
#endif
    return wide == (ivec){0} + (int32_t)value;
}
INLINE ivec pick(lanes where, ivec yes, ivec no) { return (where & yes) | (~where & no); }
INLINE vec choose(lanes where, vec yes, vec no) {
    return (vec)pick(where, (ivec)yes, (ivec)no);
}
#endif

/* The first n floats, 0 < n <= V, and zeros; reads no others. */
INLINE vec load_n(const float *p, int64_t n) {
#if defined(__AVX512F__)
    return (vec)_mm512_maskz_loadu_ps((__mmask16)(0xffffu >> (V - n)), p);
#elif defined(__AVX2__)
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (vec)_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), index));
#else
    vec x = {0};
    for (int64_t i = 0; i < n; i++) x[i] = p[i];
    return x;
#endif
}

/* Writes the first n floats, 0 < n <= V, and no others. */
INLINE void store_n(float *p, vec x, int64_t n) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, (__mmask16)(0xffffu >> (V - n)), (__m512)x);
#elif defined(__AVX2__)
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), index), (__m256)x);
#else
    for (int64_t i = 0; i < n; i++) p[i] = x[i];
#endif
}

INLINE float total(vec x) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)x);
#else
    float sum[V];
    store(sum, x);
    for (int width = V / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) sum[i] += sum[i + width];
    return sum[0];
#endif
}

/* e^x to about 2 ulp (Cephes' expf); 0 below -87. NaN stays NaN. */
INLINE vec exponential(vec x) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    const lanes below = above(splat(-87.0f), x);
    const vec in = choose(below, splat(-87.0f), choose(above(x, splat(88.0f)), splat(88.0f), x));
    const vec rounded = in * 1.44269504088896341f + shift;
    const vec n = rounded - shift;
    const vec r = in - n * 0.693359375f + n * 2.12194440e-4f;
    vec y = splat(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    const bits power = (((bits)rounded - (bits)splat(shift)) + 127u) << 23;
    return choose(below, splat(0.0f), y * (vec)power);
}

/* tanh to a few ulp (Cephes' tanhf). NaN stays NaN. */
INLINE vec hyperbolic(vec x) {
    const bits sign = (bits)x & 0x80000000u;
    const vec size = (vec)((bits)x & 0x7fffffffu);
    const vec capped = choose(above(size, splat(20.0f)), splat(20.0f), size);
    const vec large = 1.0f - 2.0f / (exponential(2.0f * capped) + 1.0f);
    const vec z = size * size;
    vec p = splat(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    const vec near = p * z * size + size;
    return (vec)((bits)choose(above(size, splat(0.625f)), large, near) | sign);
}

#endif
