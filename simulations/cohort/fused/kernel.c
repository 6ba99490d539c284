/* One client's local training, whole: `tacit.client.trainer.Trainer` for a chain of layers.

   Records go through the network a chunk at a time, small enough that what a chunk needs stays
   in the second cache: linear layers take the chunk as one matrix, the layers between two of
   them one record after another. Per-record gradients are made for convolutions and norms only;
   a linear layer's norm is the product of its input's and its gradient's, and its clipped sum
   one product of matrices. Nothing is kept from one client to the next but the memory. */

#include <stdlib.h>

#include "steps.h"

/* -- Forwards -------------------------------------------------------------------------- */

static int64_t input_row(const struct plan *p, int64_t i) {
    return i > 0 ? p->layer[i - 1].y_row : p->x_row;
}

static const float *input(const struct plan *p, int64_t i, int64_t r) {
    return (i > 0 ? p->layer[i - 1].y : p->x) + r * input_row(p, i);
}

static void pack(struct plan *p) {
    for (int64_t i = 0; i < p->layers; i++) {
        struct layer *l = &p->layer[i];
        if (l->s.kind != CONVOLUTION) continue;
        pack_forward(&l->s, weight_of(p, &l->s), l->forth);
        if (l->back) pack_backward(&l->s, weight_of(p, &l->s), l->back);
    }
}

static void forward(struct plan *p, int64_t i, int64_t r) {
    struct layer *l = &p->layer[i];
    const struct spec *s = &l->s;
    const float *x = input(p, i, r);
    float *y = l->y + r * l->y_row;
    switch (s->kind) {
    case CONVOLUTION: convolve(s, x, l->forth, bias_of(p, s), y); break;
    case MAXIMUM: maximum(s, x, y, l->taps + r * round_up(l->y_row)); break;
    case AVERAGE: average(s, x, y); break;
    case RELU: relu(s->out, x, y); break;
    case TANH: tanh_all(s->out, x, y); break;
    case SCALE: scale(s->out, x, (float)s->value, y); break;
    case PAD: pad(s, x, y, 1); break;
    case TRANSPOSE: transpose(s->h, s->w, x, s->w, y, s->h); break;
    case NORM:
        norm(s, x, weight_of(p, s), bias_of(p, s), y, l->stats + r * 2 * s->groups);
        break;
    }
}

/* The first layer from i on that is linear, or the end. */
static int64_t next_linear(const struct plan *p, int64_t i) {
    while (i < p->layers && p->layer[i].s.kind != LINEAR) i++;
    return i;
}

static void forwards(struct plan *p, int64_t n) {
    for (int64_t i = 0; i < p->layers;) {
        struct layer *l = &p->layer[i];
        if (l->s.kind == LINEAR) {
            inner(input(p, i, 0), input_row(p, i), n, weight_of(p, &l->s), l->s.out, l->s.in,
                  bias_of(p, &l->s), l->y);
            i++;
            continue;
        }
        const int64_t end = next_linear(p, i);
        for (int64_t r = 0; r < n; r++)
            for (int64_t k = i; k < end; k++) forward(p, k, r);
        i = end;
    }
}

/* -- Backwards ------------------------------------------------------------------------- */

/* Where a linear layer finds the gradients of what it puts out, and leaves those of its inputs. */
static float *gradients_after(struct plan *p, int64_t i, int64_t *row) {
    const int linear = i >= 0 && p->layer[i].s.kind == LINEAR;
    *row = linear ? p->layer[i].s.out : i == p->layers - 1 ? p->classes : p->layer[i + 1].s.in;
    return linear ? p->layer[i].gradient : p->edge;
}

static void backward_linear(struct plan *p, int64_t i, int64_t n) {
    struct layer *l = &p->layer[i];
    const struct spec *s = &l->s;
    if (p->set.clipped && trained(s)) {
        const int by_weight = s->weight_trained != 0;
        const int by_bias = s->bias >= 0 && s->bias_trained;
        for (int64_t r = 0; r < n; r++) {
            const double out = squared(l->gradient + r * s->out, s->out);
            const double in = by_weight ? squared(input(p, i, r), s->in) : 0.0;
            p->squares[r] += out * (in + by_bias);
        }
    }
    if (i == p->first) return;
    int64_t row;
    float *dx = gradients_after(p, i - 1, &row);
    struct tile t = {.a = l->gradient, .b = weight_of(p, s), .c = dx, .a_row = s->out,
                     .b_step = s->in, .c_row = row, .count = s->out};
    product(t, BY_STEP, n, s->in);
}

static void backward_convolution(struct plan *p, int64_t i, int64_t r, const float *g, float *dx) {
    struct layer *l = &p->layer[i];
    const struct spec *s = &l->s;
    const int64_t wide = round_up(s->oc), pixels = s->oh * s->ow;
    if (wide != s->oc) {
        for (int64_t k = 0; k < pixels; k++) {
            memcpy(p->wide + k * wide, g + k * s->oc, (size_t)s->oc * sizeof(float));
            for (int64_t o = s->oc; o < wide; o++) p->wide[k * wide + o] = 0;
        }
        g = p->wide;
    }
    float *own = p->set.clipped ? l->each + r * l->own : l->sum;
    double squares = 0;
    if (weights(s)) squares += convolve_weights(s, input(p, i, r), g, own, !p->set.clipped);
    if (biases(s)) squares += convolve_bias(s, g, own + weights(s), !p->set.clipped);
    p->squares[r] += squares;
    if (dx) convolve_inputs(s, g, l->back, dx);
}

static void backward_norm(struct plan *p, int64_t i, int64_t r, float *g) {
    struct layer *l = &p->layer[i];
    const struct spec *s = &l->s;
    float *own = p->set.clipped ? l->each + r * l->own : l->sum;
    if (p->set.clipped) memset(own, 0, (size_t)l->own * sizeof(float));
    norm_inputs(s, input(p, i, r), weight_of(p, s), l->stats + r * 2 * s->groups, g,
                weights(s) ? own : 0, biases(s) ? own + weights(s) : 0);
    if (p->set.clipped) p->squares[r] += squared(own, l->own);
}

/* One record's gradient through one layer, in place or into `spare`: where it is then. */
static float *backward(struct plan *p, int64_t i, int64_t r, float *g, float *spare) {
    struct layer *l = &p->layer[i];
    const struct spec *s = &l->s;
    const float *y = l->y + r * l->y_row;
    switch (s->kind) {
    case RELU: relu_inputs(s->out, y, g); return g;
    case TANH: tanh_inputs(s->out, y, g); return g;
    case SCALE: scale(s->out, g, (float)s->value, g); return g;
    case NORM: backward_norm(p, i, r, g); return g;
    case CONVOLUTION: backward_convolution(p, i, r, g, i > p->first ? spare : 0); break;
    case MAXIMUM: maximum_inputs(s, g, l->taps + r * round_up(l->y_row), spare); break;
    case AVERAGE: average_inputs(s, g, spare); break;
    case PAD: pad(s, g, spare, 0); break;
    case TRANSPOSE: transpose(s->w, s->h, g, s->h, spare, s->w); break;
    }
    return spare;
}

static void backwards(struct plan *p, int64_t n) {
    for (int64_t end = p->layers; end > p->first;) {
        if (p->layer[end - 1].s.kind == LINEAR) {
            backward_linear(p, --end, n);
            continue;
        }
        int64_t begin = end - 1;
        while (begin > p->first && p->layer[begin - 1].s.kind != LINEAR) begin--;
        int64_t from, to = 0;
        float *gradients = gradients_after(p, end - 1, &from);
        float *left = begin > p->first ? gradients_after(p, begin - 1, &to) : 0;
        for (int64_t r = 0; r < n; r++) {
            float *g = gradients + r * from;
            for (int64_t k = end - 1; k >= begin; k--)
                g = backward(p, k, r, g, g == p->a ? p->b : p->a);
            if (left) memcpy(left + r * to, g, (size_t)to * sizeof(float));
        }
        end = begin;
    }
}

/* -- Clipping and sums ----------------------------------------------------------------- */

/* A record without a finite norm counts as zero, and so must everything it left behind. */
static void forget(struct plan *p, int64_t r) {
    for (int64_t i = p->first; i < p->layers; i++) {
        const struct layer *l = &p->layer[i];
        if (l->s.kind != LINEAR) continue;
        memset((float *)input(p, i, r), 0, (size_t)l->s.in * sizeof(float));
        memset(l->gradient + r * l->s.out, 0, (size_t)l->s.out * sizeof(float));
    }
}

static void clip(struct plan *p, int64_t n) {
    for (int64_t r = 0; r < n; r++) {
        if (!(p->squares[r] <= FLT_MAX)) {
            p->factor[r] = 0;
            forget(p, r);
            continue;
        }
        const double factor = p->set.limit / (sqrt(p->squares[r]) + 1e-12);
        p->factor[r] = factor < 1.0 ? (float)factor : 1.0f;
        for (int64_t i = p->first; i < p->layers; i++) {
            const struct layer *l = &p->layer[i];
            if (l->s.kind == LINEAR)
                scale(l->s.out, l->gradient + r * l->s.out, p->factor[r],
                      l->gradient + r * l->s.out);
        }
    }
}

/* sum (+)= factors' product with the records' own gradients; a factor of 0 isn't multiplied. */
static void add_own(const struct plan *p, struct layer *l, int64_t n, int fresh) {
    const float *each[CHUNK];
    float factor[CHUNK];
    int64_t some = 0;
    for (int64_t r = 0; r < n; r++)
        if (p->factor[r] > 0) {
            factor[some] = p->factor[r];
            each[some++] = l->each + r * l->own;
        }
    for (int64_t i = 0; i < l->own; i += V) {
        /* The last vector may go on into slack, or into the next record's. */
        vec sum = fresh ? (vec){0} : load(l->sum + i);
        for (int64_t r = 0; r < some; r++) sum += factor[r] * load(each[r] + i);
        store(l->sum + i, sum);
    }
}

static void add_linear(struct plan *p, int64_t i, int64_t n, int fresh) {
    const struct layer *l = &p->layer[i];
    const struct spec *s = &l->s;
    if (s->weight_trained) {
        struct tile t = {.a = l->gradient, .b = input(p, i, 0), .c = p->gradient + s->weight,
                         .a_step = s->out, .b_step = input_row(p, i), .c_row = s->in,
                         .count = n, .add = !fresh};
        product(t, BY_ROW, s->out, s->in);
    }
    if (s->bias >= 0 && s->bias_trained) {
        float *sum = p->gradient + s->bias;
        for (int64_t r = 0; r < n; r++)
            for (int64_t o = 0; o < s->out; o++)
                sum[o] = (fresh && r == 0 ? 0.0f : sum[o]) + l->gradient[r * s->out + o];
    }
}

/* Adds a chunk to the batch's sums, which it begins where it is the first. */
static void add(struct plan *p, int64_t n, int fresh) {
    for (int64_t i = p->first; i < p->layers; i++) {
        struct layer *l = &p->layer[i];
        if (l->s.kind == LINEAR) add_linear(p, i, n, fresh);
        else if (l->own && p->set.clipped) add_own(p, l, n, fresh);
    }
}

/* -- Training -------------------------------------------------------------------------- */

/* Zeroes what isn't begun by the first chunk: the layers' own sums, which add record by record. */
static void clear(struct plan *p) {
    for (int64_t i = p->first; i < p->layers && !p->set.clipped; i++)
        if (p->layer[i].own) memset(p->layer[i].sum, 0, (size_t)p->layer[i].own * sizeof(float));
}

/* The layers' own sums into the flat one. */
static void collect(struct plan *p) {
    for (int64_t i = p->first; i < p->layers; i++) {
        const struct layer *l = &p->layer[i];
        const struct spec *s = &l->s;
        if (!l->own) continue;
        const size_t bias = (size_t)(s->kind == NORM ? s->c : s->oc) * sizeof(float);
        if (weights(s) && s->kind == NORM) memcpy(p->gradient + s->weight, l->sum, bias);
        else if (weights(s)) unpack(s, l->sum, p->gradient + s->weight);
        if (biases(s)) memcpy(p->gradient + s->bias, l->sum + weights(s), bias);
    }
}

/* Adds a batch's gradients up; -1, or the position of a row that can't be used. */
static int64_t batch(struct plan *p, const float *x, const int64_t *y, int64_t records,
                     const int64_t *rows, int64_t size, int64_t *why) {
    const float by = p->set.clipped ? 1.0f : 1.0f / (float)size;
    for (int64_t done = 0; done < size;) {
        const int64_t n = share(size - done, p->chunk);
        for (int64_t r = 0; r < n; r++) {
            const int64_t row = rows[done + r];
            *why = row < 0 || row >= records              ? NO_ROW
                   : y[row] < 0 || y[row] >= p->classes ? NO_CLASS
                                                          : FINE;
            if (*why != FINE) return done + r;
            memcpy(p->x + r * p->x_row, x + row * p->inputs, (size_t)p->inputs * sizeof(float));
            p->squares[r] = 0;
        }
        forwards(p, n);
        int64_t step;
        float *g = gradients_after(p, p->layers - 1, &step);
        for (int64_t r = 0; r < n; r++)
            cross_entropy(p->classes, input(p, p->layers, r), y[rows[done + r]], by, g + r * step);
        backwards(p, n);
        if (p->set.clipped) clip(p, n);
        add(p, n, done == 0);
        done += n;
    }
    return -1;
}

/* Trains from `start` on `records` records: step i's batch is rows[bounds[i]..bounds[i + 1]).
   out: the update, doubles where it is summed, else floats. noise: of each step, of a kind.
   Returns FINE, or what is wrong with the row that *position gets. */
int64_t tacit_train(struct plan *p, const float *start, const float *x, const int64_t *y,
                    int64_t records, const int64_t *rows, const int64_t *bounds,
                    const void *const *noise, int64_t kind, void *out, int64_t *position) {
    const int64_t size = p->set.size;
    p->now = start;
    for (int64_t i = 0; i < p->set.steps; i++) {
        const int64_t count = bounds[i + 1] - bounds[i];
        if (count == 0) {
            memset(p->gradient, 0, (size_t)size * sizeof(float));
        } else {
            int64_t why = FINE;
            clear(p);
            pack(p);
            const int64_t bad = batch(p, x, y, records, rows + bounds[i], count, &why);
            if (bad >= 0) {
                *position = rows[bounds[i] + bad];
                return why;
            }
            collect(p);
        }
        if (!p->set.summed) descend(p, start, kind == SILENT ? 0 : noise[i], kind);
    }
    if (p->set.summed) {
        const double by = -p->set.learning_rate / p->set.denominator;
        for (int64_t i = 0; i < size; i++) ((double *)out)[i] = (double)p->gradient[i] * by;
    } else {
        difference(p, start, out);
    }
    return FINE;
}

void tacit_free(struct plan *p) {
    if (!p) return;
    free(p->memory);
    free(p->frozen);
    free(p->layer);
    free(p);
}

static int64_t chunk_of(struct plan *p, int64_t cache) {
    const struct arena measure = {0};
    p->chunk = 1;
    const size_t one = place(p, measure);
    p->chunk = 2;
    const size_t more = place(p, measure) - one;
    int64_t chunk = (int64_t)((size_t)cache / (more > 0 ? more : 1));
    chunk = chunk < 1 ? 1 : least(chunk, CHUNK);
    return least(chunk, p->set.chunk);
}

/* A chain of layers ready to train, or none where memory is short.
   inputs, classes: floats of a record, and of what the last layer puts out.
   frozen: the weights that aren't trained, copied. cache: bytes that a chunk should fit. */
struct plan *tacit_plan(const struct settings *set, const struct spec *specs, int64_t layers,
                        int64_t inputs, int64_t classes, const float *frozen, int64_t frozen_size,
                        int64_t cache) {
    struct plan *p = calloc(1, sizeof *p);
    if (!p) return 0;
    p->set = *set;
    p->layers = layers;
    p->inputs = inputs;
    p->classes = classes;
    p->layer = calloc((size_t)layers + 1, sizeof *p->layer);
    p->frozen = calloc((size_t)frozen_size + 1, sizeof *p->frozen);
    if (!p->layer || !p->frozen) {
        tacit_free(p);
        return 0;
    }
    if (frozen_size > 0) memcpy(p->frozen, frozen, (size_t)frozen_size * sizeof(float));
    p->first = layers;
    for (int64_t i = layers - 1; i >= 0; i--) {
        p->layer[i].s = specs[i];
        if (trained(&specs[i])) p->first = i;
    }
    p->chunk = chunk_of(p, cache);
    struct arena arena = {0};
    const size_t size = (place(p, arena) + 63) / 64 * 64;
    p->memory = aligned_alloc(64, size);
    if (!p->memory) {
        tacit_free(p);
        return 0;
    }
    memset(p->memory, 0, size);
    arena.base = p->memory;
    place(p, arena);
    return p;
}
