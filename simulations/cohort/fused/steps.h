/* A step of SGD, with the noise of DP-SGD: given as normals, or as the words they are made of. */

#ifndef TACIT_STEPS_H
#define TACIT_STEPS_H

#include "plan.h"

enum { SILENT, NORMALS, WORDS };

/* The natural logarithm of what is in (0, 1], to about 1 ulp (fdlibm's logf). */
INLINE vec logarithm(vec x) {
    /* Mantissas from sqrt(1/2) on. */
    const bits raised = (bits)x + (0x3f800000u - 0x3f3504f3u);
    const vec k = __builtin_convertvector((ivec)(raised >> 23) - 127, vec);
    const vec f = (vec)((raised & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    const vec s = f / (2.0f + f), z = s * s, w = z * z;
    const vec even = w * (0.40000972152f + w * 0.24279078841f);
    const vec odd = z * (0.66666662693f + w * 0.28498786688f);
    const vec half = 0.5f * f * f;
    return s * (half + even + odd) + k * 9.0580006145e-6f - half + f + k * 6.9313812256e-1f;
}

INLINE vec root(vec x) {
#if defined(__AVX512F__)
    return (vec)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (vec)_mm256_sqrt_ps((__m256)x);
#else
    for (int i = 0; i < V; i++) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
}

/* As `SimulationSource.normal32` has it: (w + 1/2) / 2^32, never 0. */
INLINE vec uniform(vec words) {
    return __builtin_convertvector((bits)words, vec) * 0x1p-32f + 0x1p-33f;
}

/* Two normals from two words each (Box-Muller). */
INLINE void box_muller(vec first, vec second, vec *one, vec *other) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    const vec radius = root(-2.0f * logarithm(uniform(first)));
    const vec turns = 4.0f * uniform(second), rounded = turns + shift;
    /* Within an eighth of a turn; sine and cosine there are Cephes' sinf and cosf. */
    const vec x = (turns - (rounded - shift)) * 1.57079632679489662f, z = x * x;
    const vec sine =
        ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * x + x;
    const vec cosine = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z +
                        4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
    /* Quarters: 1 and 3 swap the two, 1 and 2 turn the cosine's sign, 2 and 3 the sine's. */
    const bits quarter = (bits)rounded;
    const bits odd = 0u - (quarter & 1u);
    const bits c = (odd & (bits)sine) | (~odd & (bits)cosine);
    const bits s = (odd & (bits)cosine) | (~odd & (bits)sine);
    *one = radius * (vec)(c ^ (((quarter + 1u) & 2u) << 30));
    *other = radius * (vec)(s ^ ((quarter & 2u) << 30));
}

struct descent {
    const float *now, *start, *gradient;
    float *w, std, part, rate, pull;
};

/* Moves n weights from i on; noise: standard normals. */
INLINE void move(const struct descent *d, int64_t i, int64_t n, vec noise) {
    const vec now = load_n(d->now + i, n);
    vec g = (load_n(d->gradient + i, n) + noise * d->std) * d->part;
    if (d->pull > 0) g += d->pull * (now - load_n(d->start + i, n));
    store_n(d->w + i, now - d->rate * g, n);
}

/* One step of SGD, from `now` to w. */
static void descend(struct plan *p, const float *start, const void *noise, int64_t kind) {
    const int64_t size = p->set.size;
    const struct descent d = {
        .now = p->now, .start = start, .gradient = p->gradient, .w = p->w,
        .std = (float)p->set.noise, .rate = (float)p->set.learning_rate,
        .pull = (float)p->set.proximal,
        .part = p->set.clipped ? (float)(1.0 / p->set.denominator) : 1.0f,
    };
    if (kind == WORDS) {
        const int64_t half = (size + 1) / 2;
        const float *words = noise;
        for (int64_t i = 0; i < half; i += V) {
            const int64_t n = least(V, half - i), rest = least(V, size - half - i);
            vec one, other;
            box_muller(load_n(words + i, n), load_n(words + half + i, n), &one, &other);
            move(&d, i, n, one);
            if (rest > 0) move(&d, half + i, rest, other);
        }
    } else {
        const float *normals = kind == NORMALS ? noise : 0;
        for (int64_t i = 0; i < size; i += V) {
            const int64_t n = least(V, size - i);
            move(&d, i, n, normals ? load_n(normals + i, n) : (vec){0});
        }
    }
    p->now = p->w;
}

/* What training changed. */
static void difference(struct plan *p, const float *start, float *out) {
    const int64_t size = p->set.size;
    for (int64_t i = 0; i < size; i += V) {
        const int64_t n = least(V, size - i);
        store_n(out + i, load_n(p->w + i, n) - load_n(start + i, n), n);
    }
}

#endif
