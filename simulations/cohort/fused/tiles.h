/* Products of small matrices: register tiles, and the loops that cover a matrix with them.

   Every product of training is a sum of a(o, m, k) * b(o, k, n) over o and k, with strides of
   its own: `struct tile` names them. Convolutions need no im2col: a row of the virtual matrix
   is a window of a channels-last image, whose lines (o) are contiguous (k). */

#ifndef TACIT_TILES_H
#define TACIT_TILES_H

#include "vec.h"

struct tile {
    const float *a, *b, *start; /* start: what a row of c begins with, unless it adds; or none */
    float *c;
    int64_t a_row, a_step, a_outer; /* strides of m, k and o in a */
    int64_t b_step, b_outer;        /* of k and o in b; n is contiguous */
    int64_t c_row;                  /* of m in c; n is contiguous */
    int64_t count, outer;           /* of k and o */
    int64_t tail;                   /* lanes of a row's last vector that are c's */
    int add;                        /* to what is in c */
};

/* Which stride of a is 1, so that the compiler can rely on it. */
enum { BY_ROW, BY_STEP };

#define TALLEST 14 /* rows of a tile of one vector */
#define TALL 12    /* of a tile of two */
#define LOW 6      /* of a tile of a part of a vector */

/* Puts a tile where it belongs; returns the sum of squares of what is there then, by lane. */
static __attribute__((noinline)) vec finish(const struct tile *t, int rows, int width,
                                            const vec *made) {
    vec squares = {0};
    for (int m = 0; m < rows; m++)
        for (int v = 0; v < width; v++) {
            const int64_t n = v < width - 1 ? V : t->tail;
            float *c = t->c + m * t->c_row + v * V;
            const float *start = t->add ? c : t->start ? t->start + v * V : 0;
            vec x = *made++;
            if (start) x += n == V ? load(start) : load_n(start, n);
            if (n == V) store(c, x);
            else store_n(c, x, n);
            squares += x * x;
        }
    return squares;
}

/* Computes rows x width vectors of c. */
INLINE vec tile(const int rows, const int width, const int masked, const int unit,
                const struct tile *t) {
    const int64_t row = unit == BY_ROW ? 1 : t->a_row, step = unit == BY_STEP ? 1 : t->a_step;
    const int64_t count = t->count, b_step = t->b_step, tail = t->tail;
    vec acc[TALLEST][2], made[2 * TALLEST];
    UNROLL(14) for (int m = 0; m < rows; m++)
        UNROLL(2) for (int v = 0; v < width; v++) acc[m][v] = (vec){0};
    for (int64_t o = 0; o < t->outer; o++) {
        const float *a = t->a + o * t->a_outer, *b = t->b + o * t->b_outer;
        for (int64_t k = 0; k < count; k++) {
            vec column[2];
            UNROLL(2) for (int v = 0; v < width; v++)
                column[v] = masked ? load_n(b + v * V, tail) : load(b + v * V);
            UNROLL(14) for (int m = 0; m < rows; m++)
                UNROLL(2) for (int v = 0; v < width; v++) acc[m][v] += a[m * row] * column[v];
            a += step;
            b += b_step;
        }
    }
    if (!t->add && !t->start && tail == V) {
        vec squares = {0};
        UNROLL(14) for (int m = 0; m < rows; m++) UNROLL(2) for (int v = 0; v < width; v++) {
            store(t->c + m * t->c_row + v * V, acc[m][v]);
            squares += acc[m][v] * acc[m][v];
        }
        return squares;
    }
    UNROLL(14) for (int m = 0; m < rows; m++)
        UNROLL(2) for (int v = 0; v < width; v++) made[m * width + v] = acc[m][v];
    return finish(t, rows, width, made);
}

#define FEW(X, ...)                                                                             \
    X(1, __VA_ARGS__) X(2, __VA_ARGS__) X(3, __VA_ARGS__) X(4, __VA_ARGS__) X(5, __VA_ARGS__)   \
    X(6, __VA_ARGS__)
#define MANY(X, ...)                                                                            \
    FEW(X, __VA_ARGS__) X(7, __VA_ARGS__) X(8, __VA_ARGS__) X(9, __VA_ARGS__)                   \
    X(10, __VA_ARGS__) X(11, __VA_ARGS__) X(12, __VA_ARGS__)
#define MOST(X, ...) MANY(X, __VA_ARGS__) X(13, __VA_ARGS__) X(14, __VA_ARGS__)
#define DEFINE(rows, name, width, masked, unit)                                                 \
    static vec name##_##rows(const struct tile *t) { return tile(rows, width, masked, unit, t); }
#define NAME(rows, name) name##_##rows,

MOST(DEFINE, row1, 1, 0, BY_ROW)
MANY(DEFINE, row2, 2, 0, BY_ROW)
FEW(DEFINE, rowm, 1, 1, BY_ROW)
MOST(DEFINE, step1, 1, 0, BY_STEP)
MANY(DEFINE, step2, 2, 0, BY_STEP)
FEW(DEFINE, stepm, 1, 1, BY_STEP)

typedef vec (*tile_function)(const struct tile *);

/* By unit stride; then of one vector, of two, of one that b has only part of. */
static const tile_function TILES[2][3][TALLEST + 1] = {
    {{0, MOST(NAME, row1)}, {0, MANY(NAME, row2)}, {0, FEW(NAME, rowm)}},
    {{0, MOST(NAME, step1)}, {0, MANY(NAME, step2)}, {0, FEW(NAME, stepm)}},
};

/* How many rows the next tile has: as even as can be, where at most `most` fit one. */
INLINE int64_t share(int64_t left, int64_t most) {
    const int64_t tiles = (left + most - 1) / most;
    return (left + tiles - 1) / tiles;
}

/* One tile after another down `rows` rows; t's a and c move along. */
INLINE vec down(struct tile t, int unit, int kind, int64_t rows) {
    vec squares = {0};
    const int64_t row = unit == BY_ROW ? 1 : t.a_row;
    const int64_t tallest = kind == 0 ? TALLEST : kind == 1 ? TALL : LOW;
    while (rows > 0) {
        const int64_t height = share(rows, tallest);
        squares += TILES[unit][kind][height](&t);
        t.a += height * row;
        t.c += height * t.c_row;
        rows -= height;
    }
    return squares;
}

/* c[m][n] (+)= sum over k of a[m * a_row + k * a_step] * b[k * b_step + n]. */
static void product(struct tile t, int unit, int64_t rows, int64_t columns) {
    t.outer = 1;
    while (columns > 0) {
        const int64_t width = least(columns, 2 * V);
        const int kind = width == 2 * V ? 1 : width >= V ? 0 : 2;
        const int64_t done = kind == 2 ? width : (kind + 1) * V;
        t.tail = kind == 2 ? width : V;
        down(t, unit, kind, rows);
        t.b += done;
        t.c += done;
        columns -= done;
    }
}

/* rows x columns inner products of rows of x and of w, both of length n. */
INLINE void dots(const int rows, const int columns, const float *x, int64_t x_row, const float *w,
                 int64_t n, const float *start, float *y, int64_t y_row) {
    vec acc[4][4];
    UNROLL(4) for (int m = 0; m < rows; m++)
        UNROLL(4) for (int j = 0; j < columns; j++) acc[m][j] = (vec){0};
    int64_t k = 0;
    for (; k + V <= n; k += V) {
        vec a[4];
        UNROLL(4) for (int m = 0; m < rows; m++) a[m] = load(x + m * x_row + k);
        UNROLL(4) for (int j = 0; j < columns; j++) {
            const vec b = load(w + j * n + k);
            UNROLL(4) for (int m = 0; m < rows; m++) acc[m][j] += a[m] * b;
        }
    }
    if (k < n) {
        UNROLL(4) for (int j = 0; j < columns; j++) {
            const vec b = load_n(w + j * n + k, n - k);
            UNROLL(4) for (int m = 0; m < rows; m++)
                acc[m][j] += load_n(x + m * x_row + k, n - k) * b;
        }
    }
    UNROLL(4) for (int m = 0; m < rows; m++)
        UNROLL(4) for (int j = 0; j < columns; j++)
            y[m * y_row + j] = total(acc[m][j]) + (start ? start[j] : 0.0f);
}

#define DOTS(rows, columns)                                                                     \
    static void dots_##rows##_##columns(const float *x, int64_t x_row, const float *w,          \
                                        int64_t n, const float *start, float *y,                \
                                        int64_t y_row) {                                        \
        dots(rows, columns, x, x_row, w, n, start, y, y_row);                                   \
    }
DOTS(1, 1) DOTS(1, 2) DOTS(1, 3) DOTS(1, 4) DOTS(2, 1) DOTS(2, 2) DOTS(2, 3) DOTS(2, 4)
DOTS(3, 1) DOTS(3, 2) DOTS(3, 3) DOTS(3, 4) DOTS(4, 1) DOTS(4, 2) DOTS(4, 3) DOTS(4, 4)

typedef void (*dots_function)(const float *, int64_t, const float *, int64_t, const float *,
                              float *, int64_t);
static const dots_function ALL_DOTS[5][5] = {
    {0},
    {0, dots_1_1, dots_1_2, dots_1_3, dots_1_4},
    {0, dots_2_1, dots_2_2, dots_2_3, dots_2_4},
    {0, dots_3_1, dots_3_2, dots_3_3, dots_3_4},
    {0, dots_4_1, dots_4_2, dots_4_3, dots_4_4},
};

/* y[m][j] = start[j] + x[m] . w[j], for rows of length n. */
static void inner(const float *x, int64_t x_row, int64_t rows, const float *w, int64_t columns,
                  int64_t n, const float *start, float *y) {
    for (int64_t j = 0; j < columns;) {
        const int64_t wide = share(columns - j, 4);
        for (int64_t m = 0; m < rows;) {
            const int64_t high = share(rows - m, 4);
            ALL_DOTS[high][wide](x + m * x_row, x_row, w + j * n, n, start ? start + j : 0,
                                 y + m * columns + j, columns);
            m += high;
        }
        j += wide;
    }
}

/* y[j][i] = x[i][j], where rows of x are x_row apart, and of y y_row. */
static void transpose(int64_t rows, int64_t columns, const float *x, int64_t x_row, float *y,
                      int64_t y_row) {
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        int64_t j = 0;
#if defined(__SSE__)
        for (; j + 4 <= columns; j += 4) {
            const float *from = x + i * x_row + j;
            float *to = y + j * y_row + i;
            __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + x_row);
            __m128 c = _mm_loadu_ps(from + 2 * x_row), d = _mm_loadu_ps(from + 3 * x_row);
            _MM_TRANSPOSE4_PS(a, b, c, d);
            _mm_storeu_ps(to, a);
            _mm_storeu_ps(to + y_row, b);
            _mm_storeu_ps(to + 2 * y_row, c);
            _mm_storeu_ps(to + 3 * y_row, d);
        }
#endif
        for (; j < columns; j++)
            for (int64_t k = i; k < i + 4; k++) y[j * y_row + k] = x[k * x_row + j];
    }
    for (; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) y[j * y_row + i] = x[i * x_row + j];
}

/* The sum of squares; in doubles where floats would run out of range. */
static double squared(const float *x, int64_t n) {
    vec part = {0};
    int64_t i = 0;
    for (; i + V <= n; i += V) {
        const vec y = load(x + i);
        part += y * y;
    }
    if (i < n) {
        const vec y = load_n(x + i, n - i);
        part += y * y;
    }
    double sum = total(part);
    if (sum > 1e-25 && sum < 1e35) return sum;
    sum = 0;
    for (i = 0; i < n; i++) sum += (double)x[i] * x[i];
    return sum;
}

#endif
