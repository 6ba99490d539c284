/* The layers, one record at a time: an image is lines of pixels, a pixel is its channels. */

#ifndef TACIT_LAYERS_H
#define TACIT_LAYERS_H

#include <float.h>
#include <math.h>

#include "tiles.h"

enum { LINEAR, CONVOLUTION, MAXIMUM, AVERAGE, RELU, TANH, SCALE, NORM, PAD, TRANSPOSE };

/* As `shapes.Spec` has it. Heights and widths are of what is put in; those of what comes out
   are oh and ow. A transpose turns h x w; a norm has w pixels of c channels. */
struct spec {
    int64_t kind, in, out;
    int64_t c, h, w, oc, kh, kw, sh, sw, oh, ow;
    int64_t top, left, groups;
    int64_t weight, weight_trained, bias, bias_trained; /* offsets, -1 for none */
    int64_t in_place;
    double value;
};

/* Floats of a line of a convolution's window, and what its rows are padded to. */
INLINE int64_t line_of(const struct spec *s) { return s->kw * s->c; }
INLINE int64_t window(const struct spec *s) { return s->kh * line_of(s); }

/* packed[k][oc] from torch's weight[oc][c][kh][kw]; k counts lines, pixels, channels. */
static void pack_forward(const struct spec *s, const float *weight, float *packed) {
    const int64_t wide = round_up(s->oc), taps = s->kh * s->kw;
    for (int64_t c = 0; c < s->c; c++)
        transpose(s->oc, taps, weight + c * taps, s->c * taps, packed + c * wide, s->c * wide);
}

/* The inverse of pack_forward, for gradients. */
static void unpack(const struct spec *s, const float *packed, float *weight) {
    const int64_t wide = round_up(s->oc), taps = s->kh * s->kw;
    for (int64_t c = 0; c < s->c; c++)
        transpose(taps, s->oc, packed + c * wide, s->c * wide, weight + c * taps, s->c * taps);
}

/* packed[oc][kh][line], lines padded with zeros. */
static void pack_backward(const struct spec *s, const float *weight, float *packed) {
    const int64_t wide = round_up(line_of(s)), taps = s->kh * s->kw;
    for (int64_t o = 0; o < s->oc; o++)
        for (int64_t i = 0; i < s->kh; i++)
            transpose(s->c, s->kw, weight + o * s->c * taps + i * s->kw, taps,
                      packed + (o * s->kh + i) * wide, s->c);
}

static void convolve(const struct spec *s, const float *x, const float *packed, const float *bias,
                     float *y) {
    const int64_t wide = round_up(s->oc), line = line_of(s);
    /* So many lines of the window that their weights stay in the first cache. */
    const int64_t some = 4096 / (line * 2 * V) > 0 ? 4096 / (line * 2 * V) : 1;
    for (int64_t o = 0; o < s->oc;) {
        const int kind = wide - o >= 2 * V;
        for (int64_t first = 0; first < s->kh; first += some) {
            for (int64_t i = 0; i < s->oh; i++) {
                struct tile t = {
                    .a = x + (i * s->sh + first) * s->w * s->c,
                    .b = packed + first * line * wide + o,
                    .start = bias ? bias + o : 0,
                    .c = y + i * s->ow * s->oc + o,
                    .a_row = s->sw * s->c, .a_outer = s->w * s->c,
                    .b_step = wide, .b_outer = line * wide,
                    .c_row = s->oc, .count = line, .outer = least(some, s->kh - first),
                    .tail = least(V, s->oc - o - kind * V), .add = first > 0,
                };
                down(t, BY_STEP, kind, s->ow);
            }
        }
        o += (kind + 1) * V;
    }
}

/* dw[k][oc] (+)= the gradient of the weights; g has pixels of round_up(oc) channels.
   Returns its sum of squares (of the sum, where it adds). */
static float convolve_weights(const struct spec *s, const float *x, const float *g, float *dw,
                              int add) {
    const int64_t wide = round_up(s->oc), line = line_of(s);
    vec squares = {0};
    for (int64_t o = 0; o < wide;) {
        const int kind = wide - o >= 2 * V;
        for (int64_t i = 0; i < s->kh; i++) {
            struct tile t = {
                .a = x + i * s->w * s->c, .b = g + o, .c = dw + i * line * wide + o,
                .a_step = s->sw * s->c, .a_outer = s->sh * s->w * s->c,
                .b_step = wide, .b_outer = s->ow * wide,
                .c_row = wide, .count = s->ow, .outer = s->oh, .tail = V, .add = add,
            };
            squares += down(t, BY_ROW, kind, line);
        }
        o += (kind + 1) * V;
    }
    return total(squares);
}

/* db[oc] (+)= the gradient of the biases. Returns its sum of squares. */
static float convolve_bias(const struct spec *s, const float *g, float *db, int add) {
    const int64_t wide = round_up(s->oc), pixels = s->oh * s->ow;
    vec squares = {0};
    for (int64_t o = 0; o < wide; o += V) {
        vec sum = {0};
        for (int64_t p = 0; p < pixels; p++) sum += load(g + p * wide + o);
        squares += sum * sum;
        store(db + o, add ? load(db + o) + sum : sum);
    }
    return total(squares);
}

/* dx = the gradient of the inputs. */
static void convolve_inputs(const struct spec *s, const float *g, const float *packed, float *dx) {
    const int64_t wide = round_up(s->oc), line = line_of(s), padded = round_up(line);
    memset(dx, 0, (size_t)s->in * sizeof(float));
    for (int64_t i = 0; i < s->kh; i++) {
        for (int64_t j = 0; j < padded;) {
            const int kind = padded - j >= 2 * V;
            for (int64_t p = 0; p < s->oh; p++) {
                struct tile t = {
                    .a = g + p * s->ow * wide, .b = packed + i * padded + j,
                    .c = dx + (p * s->sh + i) * s->w * s->c + j,
                    .a_row = wide, .b_step = s->kh * padded,
                    .c_row = s->sw * s->c, .count = s->oc, .outer = 1,
                    .tail = least(V, line - j - kind * V), .add = 1,
                };
                down(t, BY_STEP, kind, s->ow);
            }
            j += (kind + 1) * V;
        }
    }
}

/* Where pools step by one pixel a line of outputs is a line of inputs, shifted. */
INLINE int64_t pool_run(const struct spec *s) { return s->sw == 1 ? s->ow * s->c : s->c; }

/* One vector of a pool's outputs, and which tap the first largest is; NaN is the largest. */
INLINE vec largest(const struct spec *s, const float *x, int64_t n, ivec *where) {
    vec y = n == V ? load(x) : load_n(x, n);
    ivec tap = {0}, at = {0};
    for (int64_t i = 0; i < s->kh; i++)
        for (int64_t j = 0; j < s->kw; j++, at += 1) {
            const float *p = x + (i * s->w + j) * s->c;
            const vec z = n == V ? load(p) : load_n(p, n);
            const lanes more = above(z, y) | missing(z);
            y = choose(more, z, y);
            tap = pick(more, at, tap);
        }
    *where = tap;
    return y;
}

/* taps: which of the window each output is, at most 127; a vector is written at the end too. */
static void maximum(const struct spec *s, const float *x, float *y, int8_t *taps) {
    const int64_t run = pool_run(s), runs = s->out / s->oh / run;
    for (int64_t i = 0; i < s->oh; i++)
        for (int64_t j = 0; j < runs; j++) {
            const float *p = x + (i * s->sh * s->w + j * s->sw) * s->c;
            for (int64_t c = 0; c < run; c += V) {
                const int64_t n = least(V, run - c), at = (i * runs + j) * run + c;
                ivec tap;
                const vec best = largest(s, p + c, n, &tap);
                if (n == V) store(y + at, best);
                else store_n(y + at, best, n);
                *(sloose *)(taps + at) = __builtin_convertvector(tap, small);
            }
        }
}

static void average(const struct spec *s, const float *x, float *y) {
    const int64_t run = pool_run(s), runs = s->out / s->oh / run;
    const float taps = (float)(s->kh * s->kw);
    for (int64_t i = 0; i < s->oh; i++)
        for (int64_t j = 0; j < runs; j++) {
            float *to = y + (i * runs + j) * run;
            const float *p = x + (i * s->sh * s->w + j * s->sw) * s->c;
            for (int64_t c = 0; c < run; c++) to[c] = 0;
            for (int64_t a = 0; a < s->kh; a++)
                for (int64_t b = 0; b < s->kw; b++)
                    for (int64_t c = 0; c < run; c++) to[c] += p[(a * s->w + b) * s->c + c];
            for (int64_t c = 0; c < run; c++) to[c] /= taps;
        }
}

/* Adds one vector of gradients to the inputs that the taps name, of the window at dx. */
INLINE void pool_taps(const struct spec *s, const float *g, const int8_t *taps, int64_t n,
                      float *dx) {
    const vec all = n == V ? load(g) : load_n(g, n);
    for (int64_t tap = 0; tap < s->kh * s->kw; tap++) {
        float *to = dx + (tap / s->kw * s->w + tap % s->kw) * s->c;
        const vec mine = choose(having(taps, tap), all, (vec){0});
        if (n == V) store(to, load(to) + mine);
        else store_n(to, load_n(to, n) + mine, n);
    }
}

/* One vector of an input's gradients, from rows x columns windows: the first is that of its
   last tap. For strides of 1; at: of that first window in g and taps. */
INLINE vec pool_gather(const struct spec *s, const float *g, const int8_t *taps, int64_t at,
                       int64_t tap, const int64_t rows, const int64_t columns) {
    vec sum = {0};
    UNROLL(3) for (int64_t i = 0; i < rows; i++) UNROLL(3) for (int64_t j = 0; j < columns; j++) {
        const int64_t from = at + (i * s->ow + j) * s->c;
        const lanes mine = having(taps + from, tap - i * s->kw - j);
        sum += choose(mine, load(g + from), (vec){0});
    }
    return sum;
}

/* For strides of 1 and whole vectors of channels: reads g often, but writes once. */
static void maximum_gather(const struct spec *s, const float *g, const int8_t *taps, float *dx) {
    const int twos = s->kh == 2 && s->kw == 2, threes = s->kh == 3 && s->kw == 3;
    for (int64_t y = 0; y < s->h; y++) {
        const int64_t up = least(y, s->kh - 1), rows = up + 1 - most(0, y - s->oh + 1);
        for (int64_t x = 0; x < s->w; x++) {
            const int64_t left = least(x, s->kw - 1), columns = left + 1 - most(0, x - s->ow + 1);
            const int64_t first = ((y - up) * s->ow + x - left) * s->c, tap = up * s->kw + left;
            const int whole = rows == s->kh && columns == s->kw;
            for (int64_t c = 0; c < s->c; c += V) {
                vec sum;
                if (twos && whole) sum = pool_gather(s, g, taps, first + c, tap, 2, 2);
                else if (threes && whole) sum = pool_gather(s, g, taps, first + c, tap, 3, 3);
                else sum = pool_gather(s, g, taps, first + c, tap, rows, columns);
                store(dx + (y * s->w + x) * s->c + c, sum);
            }
        }
    }
}

static void maximum_inputs(const struct spec *s, const float *g, const int8_t *taps, float *dx) {
    const int64_t run = pool_run(s), runs = s->out / s->oh / run;
    if (s->sh == 1 && s->sw == 1 && s->c % V == 0) {
        maximum_gather(s, g, taps, dx);
        return;
    }
    memset(dx, 0, (size_t)s->in * sizeof(float));
    for (int64_t i = 0; i < s->oh; i++)
        for (int64_t j = 0; j < runs; j++) {
            float *to = dx + (i * s->sh * s->w + j * s->sw) * s->c;
            for (int64_t c = 0; c < run; c += V) {
                const int64_t n = least(V, run - c), at = (i * runs + j) * run + c;
                pool_taps(s, g + at, taps + at, n, to + c);
            }
        }
}

static void average_inputs(const struct spec *s, const float *g, float *dx) {
    const int64_t run = pool_run(s), runs = s->out / s->oh / run;
    const float part = 1.0f / (float)(s->kh * s->kw);
    memset(dx, 0, (size_t)s->in * sizeof(float));
    for (int64_t i = 0; i < s->oh; i++)
        for (int64_t j = 0; j < runs; j++) {
            const float *from = g + (i * runs + j) * run;
            for (int64_t tap = 0; tap < s->kh * s->kw; tap++) {
                const int64_t y = i * s->sh + tap / s->kw, x = j * s->sw + tap % s->kw;
                float *to = dx + (y * s->w + x) * s->c;
                for (int64_t c = 0; c < run; c++) to[c] += part * from[c];
            }
        }
}

static void relu(int64_t n, const float *x, float *y) {
    for (int64_t i = 0; i < n; i++) y[i] = x[i] <= 0.0f ? 0.0f : x[i];
}

static void relu_inputs(int64_t n, const float *y, float *g) {
    for (int64_t i = 0; i < n; i++) g[i] = y[i] <= 0.0f ? 0.0f : g[i];
}

static void tanh_all(int64_t n, const float *x, float *y) {
    for (int64_t i = 0; i < n; i += V) {
        if (i + V <= n) store(y + i, hyperbolic(load(x + i)));
        else store_n(y + i, hyperbolic(load_n(x + i, n - i)), n - i);
    }
}

static void tanh_inputs(int64_t n, const float *y, float *g) {
    for (int64_t i = 0; i < n; i++) g[i] *= 1.0f - y[i] * y[i];
}

static void scale(int64_t n, const float *x, float by, float *y) {
    for (int64_t i = 0; i < n; i++) y[i] = by * x[i];
}

/* A frame of zeros around an image, or without `out` the image from its frame. */
static void pad(const struct spec *s, const float *x, float *y, int out) {
    const size_t bytes = (size_t)(s->w * s->c) * sizeof(float);
    if (out) memset(y, 0, (size_t)s->out * sizeof(float));
    for (int64_t i = 0; i < s->h; i++) {
        const int64_t framed = ((i + s->top) * s->ow + s->left) * s->c, bare = i * s->w * s->c;
        if (out) memcpy(y + framed, x + bare, bytes);
        else memcpy(y + bare, x + framed, bytes);
    }
}

/* Group norm of w pixels of c channels; stats gets each group's mean and 1 / deviation. */
static void norm(const struct spec *s, const float *x, const float *gamma, const float *beta,
                 float *y, float *stats) {
    const int64_t each = s->c / s->groups;
    for (int64_t k = 0; k < s->groups; k++) {
        double mean = 0, variance = 0;
        const int64_t from = k * each, to = from + each;
        for (int64_t p = 0; p < s->w; p++)
            for (int64_t c = from; c < to; c++) mean += x[p * s->c + c];
        mean /= (double)(each * s->w);
        for (int64_t p = 0; p < s->w; p++)
            for (int64_t c = from; c < to; c++) {
                const double off = x[p * s->c + c] - mean;
                variance += off * off;
            }
        variance /= (double)(each * s->w);
        const float middle = (float)mean, rate = (float)(1.0 / sqrt(variance + s->value));
        stats[2 * k] = middle;
        stats[2 * k + 1] = rate;
        for (int64_t p = 0; p < s->w; p++)
            for (int64_t c = from; c < to; c++) {
                const float z = (x[p * s->c + c] - middle) * rate;
                y[p * s->c + c] = (gamma ? gamma[c] : 1.0f) * z + (beta ? beta[c] : 0.0f);
            }
    }
}

/* dgamma and dbeta (either may be none) get the gradients added; g becomes the inputs'. */
static void norm_inputs(const struct spec *s, const float *x, const float *gamma,
                        const float *stats, float *g, float *dgamma, float *dbeta) {
    const int64_t each = s->c / s->groups;
    for (int64_t k = 0; k < s->groups; k++) {
        const float middle = stats[2 * k], rate = stats[2 * k + 1];
        const int64_t from = k * each, to = from + each;
        double sum = 0, along = 0;
        for (int64_t p = 0; p < s->w; p++)
            for (int64_t c = from; c < to; c++) {
                const int64_t at = p * s->c + c;
                const float z = (x[at] - middle) * rate, grad = g[at];
                if (dgamma) dgamma[c] += grad * z;
                if (dbeta) dbeta[c] += grad;
                g[at] = grad * (gamma ? gamma[c] : 1.0f);
                sum += g[at];
                along += (double)g[at] * z;
            }
        const float mean = (float)(sum / (double)(each * s->w));
        const float tilt = (float)(along / (double)(each * s->w));
        for (int64_t p = 0; p < s->w; p++)
            for (int64_t c = from; c < to; c++) {
                const int64_t at = p * s->c + c;
                const float z = (x[at] - middle) * rate;
                g[at] = rate * (g[at] - mean - z * tilt);
            }
    }
}

/* Softmax minus the target's indicator, times `by`: the gradient of a record's cross-entropy. */
static void cross_entropy(int64_t classes, const float *z, int64_t target, float by, float *g) {
    float peak = z[0], sum = 0;
    for (int64_t i = 1; i < classes; i++) peak = z[i] > peak ? z[i] : peak;
    for (int64_t i = 0; i < classes; i += V) {
        const int64_t n = least(V, classes - i);
        store_n(g + i, exponential(load_n(z + i, n) - peak), n);
    }
    for (int64_t i = 0; i < classes; i++) sum += g[i];
    for (int64_t i = 0; i < classes; i++) g[i] = by * (g[i] / sum - (i == target ? 1.0f : 0.0f));
}

#endif
