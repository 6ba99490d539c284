/* What training needs: the chain, its memory, and how both are laid out. */

#ifndef TACIT_PLAN_H
#define TACIT_PLAN_H

#include "layers.h"

/* As `engine.Settings` has it. */
struct settings {
    int64_t steps, size, summed, clipped, chunk;
    double learning_rate, proximal, limit, denominator, noise;
};

struct layer {
    struct spec s;
    float *y;             /* what it puts out, record by record */
    int64_t y_row;        /* floats from one record's to the next */
    float *gradient;      /* a linear layer's, with respect to y */
    float *forth, *back;  /* a convolution's packed weights */
    float *sum, *each;    /* of its gradients: clipped over the batch, and record by record */
    int64_t own;          /* floats of a record's */
    int8_t *taps;          /* of a maximum, round_up(y_row) a record */
    float *stats;
};

struct plan {
    struct settings set;
    int64_t layers, first, inputs, classes, chunk; /* first: the first layer that is trained */
    struct layer *layer;
    float *frozen, *w, *gradient;   /* flat: weights, and the batch's clipped sum */
    const float *now;               /* the trained weights: a round's, or w */
    float *x, *edge, *a, *b, *wide; /* edge: a chunk's gradient between layers; a, b, wide: one */
    int64_t x_row, edge_row;
    double *squares;
    float *factor;
    unsigned char *memory;
};

#define CHUNK 64 /* most records at once */

enum { FINE, NO_ROW, NO_CLASS };

static int trained(const struct spec *s) {
    return (s->weight >= 0 && s->weight_trained) || (s->bias >= 0 && s->bias_trained);
}

static const float *parameter(const struct plan *p, int64_t at, int64_t is_trained) {
    return at < 0 ? 0 : (is_trained ? p->now : p->frozen) + at;
}

static const float *weight_of(const struct plan *p, const struct spec *s) {
    return parameter(p, s->weight, s->weight_trained);
}

static const float *bias_of(const struct plan *p, const struct spec *s) {
    return parameter(p, s->bias, s->bias_trained);
}

/* Floats of a record's own gradient of weight and of bias, as they are kept. */
static int64_t weights(const struct spec *s) {
    if (s->weight < 0 || !s->weight_trained) return 0;
    return s->kind == NORM ? s->c : window(s) * round_up(s->oc);
}

static int64_t biases(const struct spec *s) {
    if (s->bias < 0 || !s->bias_trained) return 0;
    return s->kind == NORM ? s->c : round_up(s->oc);
}

struct arena {
    unsigned char *base; /* none: only measures */
    size_t used;
};

static void *take(struct arena *arena, int64_t floats) {
    void *at = arena->base ? arena->base + arena->used : 0;
    /* A vector of slack, and lines of the cache that aren't shared. */
    arena->used += ((size_t)(floats + V) * sizeof(float) + 63) / 64 * 64;
    return at;
}

static void place_layer(struct plan *p, int64_t i, struct arena *arena) {
    struct layer *l = &p->layer[i];
    const struct spec *s = &l->s;
    if (s->in_place) {
        l->y = i > 0 ? p->layer[i - 1].y : p->x;
        l->y_row = i > 0 ? p->layer[i - 1].y_row : p->x_row;
    } else {
        l->y_row = s->kind == LINEAR ? s->out : round_up(s->out);
        l->y = take(arena, l->y_row * p->chunk);
    }
    if (s->kind == LINEAR) l->gradient = take(arena, s->out * p->chunk);
    if (s->kind == MAXIMUM) l->taps = take(arena, round_up(l->y_row) * p->chunk / 4);
    if (s->kind == NORM) l->stats = take(arena, 2 * s->groups * p->chunk);
    if (s->kind == CONVOLUTION) {
        l->forth = take(arena, window(s) * round_up(s->oc));
        l->back = i > p->first ? take(arena, s->oc * s->kh * round_up(line_of(s))) : 0;
    }
    if (s->kind == CONVOLUTION || s->kind == NORM) {
        l->own = weights(s) + biases(s);
        l->sum = take(arena, l->own);
        l->each = p->set.clipped ? take(arena, l->own * p->chunk) : 0;
    }
}

static size_t place(struct plan *p, struct arena arena) {
    int64_t widest = 1, wide = 1, edge = p->classes;
    for (int64_t i = 0; i < p->layers; i++) {
        const struct spec *s = &p->layer[i].s;
        widest = most(widest, most(s->in, s->out));
        if (s->kind == LINEAR) edge = most(edge, s->in);
        if (s->kind == CONVOLUTION) wide = most(wide, s->oh * s->ow * round_up(s->oc));
    }
    p->edge_row = edge;
    p->w = take(&arena, p->set.size);
    p->gradient = take(&arena, p->set.size);
    p->a = take(&arena, widest);
    p->b = take(&arena, widest);
    p->wide = take(&arena, wide);
    p->squares = take(&arena, 2 * p->chunk);
    p->factor = take(&arena, p->chunk);
    /* Rows of matrices have no gaps. */
    p->x_row = p->inputs;
    p->x = take(&arena, p->x_row * p->chunk);
    p->edge = take(&arena, edge * p->chunk);
    for (int64_t i = 0; i < p->layers; i++) place_layer(p, i, &arena);
    return arena.used;
}

#endif
