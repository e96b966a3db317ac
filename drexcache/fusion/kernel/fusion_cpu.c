/* A fusion head's training step on a CPU in three calls, where torch takes some 150 small operations and leaves the
   processor's cache between them.

   `forward` and `backward` compute the same as drexcache.fusion.head.fuse and autograd, including the clipping of
   drexcache.fusion.step; `update` computes the arms' gradients, AdamW, the moving average and the next batch's
   projections in one pass over the weights. All release the interpreter's lock.

   Matrices are row-major. K heads, B rows, N arms of width W, D features. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../for_each_processor.h"

#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(32), aligned(4), may_alias)); /* 8 floats at any address */
#define AT(p) (*(vec *)(p))
#define READ(p) (*(const vec *)(p))

/* drexcache.fusion.head's ATTENTION_WIDTH, HIDDEN and NORM_EPS; drexcache.fusion.plan's BETA2 */
enum { ATTENTION = 128, LAYERS = 3, MASKED = 128 + 64 + 32 };
static const ptrdiff_t HIDDEN[LAYERS] = {128, 64, 32};
static const float NORM_EPS = 1e-5f, BETA2 = 0.999f;

enum { ROWS = 16 }; /* rows of weights at a time, so that gradient, moments and average stay in a core's own cache */

/* ---- scalar functions, in a form that compilers can vectorise ---- */

/* e**x as 2**n * e**f with |f| <= ln 2 / 2; relative error at most 2e-7. */
INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = x * 1.44269504f + 12582912.0f; /* + 1.5 * 2**23 puts the integer nearest to x / ln 2 in the last bits */
    uint32_t bits;
    memcpy(&bits, &n, 4);
    n -= 12582912.0f;
    float f = x - n * 0.693359375f + n * 2.12194440e-4f; /* ln 2 in two parts */
    float high = 0.0416666567f + f * (0.00833345205f + f * 0.00139377138f); /* nearly the Taylor series */
    float series = 1 + f * (1 + f * (0.5f + f * (0.166666657f + f * high)));
    bits = (bits << 23) + (127u << 23);
    float power;
    memcpy(&power, &bits, 4);
    return series * power;
}

/* GELU and its derivative. The error function is Abramowitz and Stegun 7.1.26, with an error of at most 1.5e-7. */
INLINE float gelu(float x, float *slope) {
    float z = fabsf(x) * 0.707106781f;
    float bell = exponential(-z * z);
    float t = 1 / (1 + 0.3275911f * z);
    float high = 1.421413741f + t * (-1.453152027f + t * 1.061405429f);
    float tail = 0.5f * bell * t * (0.254829592f + t * (-0.284496736f + t * high));
    float below = x < 0 ? tail : 1 - tail; /* the standard normal distribution function */
    *slope = below + x * bell * 0.398942280f;
    return x * below;
}

INLINE float hyperbolic_tangent(float x) { return 1 - 2 / (exponential(2 * x) + 1); }

/* ---- matrix products ---- */

/* A matrix in memory: element (i, j) is p[i * down + j * along]. */
typedef struct {
    const float *p;
    ptrdiff_t down, along;
} Matrix;

/* `R` rows and 16 columns of Y = A @ W, with inner dimension `depth`; added to Y if `add`. */
INLINE void block(
    const int R, ptrdiff_t depth, Matrix A, const float *W, ptrdiff_t ldw, float *Y, ptrdiff_t ldy, const int add
) {
    vec left[4], right[4]; /* R of each, kept in registers */
    for (int r = 0; r < R; r++) {
        left[r] = right[r] = (vec){0};
        if (add) left[r] = READ(Y + r * ldy), right[r] = READ(Y + r * ldy + 8);
    }
    for (ptrdiff_t l = 0; l < depth; l++) {
        vec w0 = READ(W + l * ldw), w1 = READ(W + l * ldw + 8);
        for (int r = 0; r < R; r++) {
            float a = A.p[r * A.down + l * A.along];
            left[r] += a * w0;
            right[r] += a * w1;
        }
    }
    for (int r = 0; r < R; r++) AT(Y + r * ldy) = left[r], AT(Y + r * ldy + 8) = right[r];
}

INLINE Matrix below(Matrix A, ptrdiff_t rows) { return (Matrix){A.p + rows * A.down, A.down, A.along}; }

/* Y (rows, cols) = A @ W, added to Y if `add`; rows of W are `ldw` apart. */
INLINE void multiply(
    ptrdiff_t rows, ptrdiff_t depth, ptrdiff_t cols, Matrix A, const float *W, ptrdiff_t ldw, float *Y, const int add
) {
    for (ptrdiff_t j = 0; j + 16 <= cols; j += 16) {
        ptrdiff_t i = 0;
        for (; i + 4 <= rows; i += 4) block(4, depth, below(A, i), W + j, ldw, Y + i * cols + j, cols, add);
        for (; i < rows; i++) block(1, depth, below(A, i), W + j, ldw, Y + i * cols + j, cols, add);
    }
    for (ptrdiff_t j = cols - cols % 16; j < cols; j++)
        for (ptrdiff_t i = 0; i < rows; i++) {
            float sum = add ? Y[i * cols + j] : 0;
            for (ptrdiff_t l = 0; l < depth; l++) sum += A.p[i * A.down + l * A.along] * W[l * ldw + j];
            Y[i * cols + j] = sum;
        }
}

/* Y (B, fan_out) = x @ W + bias; the bias follows W in memory. */
INLINE void linear(ptrdiff_t B, ptrdiff_t fan_in, ptrdiff_t fan_out, const float *W, const float *x, float *Y) {
    for (ptrdiff_t b = 0; b < B; b++) memcpy(Y + b * fan_out, W + fan_in * fan_out, sizeof(float) * fan_out);
    multiply(B, fan_in, fan_out, (Matrix){x, fan_in, 1}, W, fan_out, Y, 1);
}

INLINE float dot(const float *a, const float *b, ptrdiff_t n) {
    vec sum[4] = {{0}};
    ptrdiff_t i = 0;
    for (; i + 32 <= n; i += 32)
        for (int h = 0; h < 4; h++) sum[h] += READ(a + i + 8 * h) * READ(b + i + 8 * h);
    sum[0] += sum[1] + (sum[2] + sum[3]);
    float total = 0;
    for (int e = 0; e < 8; e++) total += sum[0][e];
    for (; i < n; i++) total += a[i] * b[i];
    return total;
}

/* Backward pass of `linear`: the gradients by W and then bias, to grad, and by x, to dx (added if `add`). */
INLINE void linear_backward(
    ptrdiff_t B, ptrdiff_t fan_in, ptrdiff_t fan_out, const float *W, const float *x, const float *d, float *grad,
    float *dx, const int add
) {
    multiply(fan_in, B, fan_out, (Matrix){x, 1, fan_in}, d, fan_out, grad, 0);
    float *bias = grad + fan_in * fan_out;
    memset(bias, 0, sizeof(float) * fan_out);
    for (ptrdiff_t b = 0; b < B; b++)
        for (ptrdiff_t j = 0; j < fan_out; j++) bias[j] += d[b * fan_out + j];
    for (ptrdiff_t i = 0; i < fan_in; i++)
        for (ptrdiff_t b = 0; b < B; b++) {
            float sum = dot(d + b * fan_out, W + i * fan_out, fan_out);
            dx[b * fan_in + i] = add ? dx[b * fan_in + i] + sum : sum;
        }
}

/* ---- layer norm without scale and shift ---- */

INLINE float sum_of(const float *x, ptrdiff_t n) {
    vec sum[2] = {{0}};
    ptrdiff_t i = 0;
    for (; i + 16 <= n; i += 16) sum[0] += READ(x + i), sum[1] += READ(x + i + 8);
    sum[0] += sum[1];
    float total = 0;
    for (int e = 0; e < 8; e++) total += sum[0][e];
    for (; i < n; i++) total += x[i];
    return total;
}

/* z = (x - mean) / deviation; returns 1 / deviation. */
INLINE float normalise(const float *x, float *z, ptrdiff_t n) {
    float mean = sum_of(x, n) / n;
    for (ptrdiff_t j = 0; j < n; j++) z[j] = x[j] - mean;
    float scale = 1 / sqrtf(dot(z, z, n) / n + NORM_EPS);
    for (ptrdiff_t j = 0; j < n; j++) z[j] *= scale;
    return scale;
}

INLINE void normalise_backward(float *d, const float *z, float scale, ptrdiff_t n) {
    float mean = sum_of(d, n) / n, along = dot(d, z, n) / n;
    for (ptrdiff_t j = 0; j < n; j++) d[j] = scale * (d[j] - mean - z[j] * along);
}

/* ---- one head ---- */

typedef struct {
    ptrdiff_t K, B, N, W, P, small; /* P: parameters of a head; small: those of them that are not weights of an arm */
    int fixed_average;
} Shape;

#define TAKE(name, count) (to.name = from ? from + used : NULL, used += (count))

/* A head's small parameters, or their gradient, in the order of drexcache.fusion.head.parameter_shapes. */
typedef struct {
    float *bias, *norm_weight, *norm_bias, *attention0, *attention1, *temperature, *alpha, *head[LAYERS + 1];
} Small;

/* Their addresses, starting at `from`, and their number. */
static Small small_at(float *from, const Shape *s, ptrdiff_t *size) {
    Small to;
    ptrdiff_t used = 0, NW = s->N * s->W;
    TAKE(bias, NW);
    TAKE(norm_weight, NW);
    TAKE(norm_bias, NW);
    TAKE(attention0, (NW + 1) * ATTENTION); /* a layer's bias is its weights' last row */
    TAKE(attention1, (ATTENTION + 1) * s->N);
    TAKE(temperature, 1);
    TAKE(alpha, 1);
    for (int i = 0; i <= LAYERS; i++) TAKE(head[i], ((i ? HIDDEN[i - 1] : s->W) + 1) * (i < LAYERS ? HIDDEN[i] : 1));
    *size = used;
    return to;
}

/* What a head's forward pass stores for the backward pass, and room for the backward pass itself. */
typedef struct {
    float *normed, *slope, *arms; /* (B, N, W): the normalised projections, GELU's derivative, and GELU */
    float *scale, *logits, *weights, *d_logits; /* (B, N): 1 / deviation; attention before and after softmax */
    float *hidden, *d_hidden; /* (B, 128): inside the attention */
    float *fused_scale; /* (B,) */
    float *in[LAYERS + 1], *slopes[LAYERS]; /* of the head's layers; dropout times GELU's derivative */
    float *d_in[LAYERS + 1]; /* the first also holds the weighted sum of the arms */
} Work;

static Work work_at(float *from, const Shape *s, ptrdiff_t *size) {
    Work to;
    ptrdiff_t used = 0, BN = s->B * s->N;
    TAKE(normed, BN * s->W);
    TAKE(slope, BN * s->W);
    TAKE(arms, BN * s->W);
    TAKE(scale, BN);
    TAKE(logits, BN);
    TAKE(weights, BN);
    TAKE(d_logits, BN);
    TAKE(hidden, s->B * ATTENTION);
    TAKE(d_hidden, s->B * ATTENTION);
    TAKE(fused_scale, s->B);
    for (int i = 0; i <= LAYERS; i++) {
        ptrdiff_t width = i ? HIDDEN[i - 1] : s->W;
        TAKE(in[i], s->B * width);
        TAKE(d_in[i], s->B * width);
        if (i) TAKE(slopes[i - 1], s->B * width);
    }
    *size = used;
    return to;
}

FOR_EACH_PROCESSOR
static void forward_one(const Shape *s, Small p, Work w, const float *projected, const float *masks, float *scores) {
    ptrdiff_t B = s->B, N = s->N, W = s->W;
    for (ptrdiff_t i = 0; i < B * N; i++) { /* row i / N, arm i % N */
        ptrdiff_t a = i % N * W;
        float *normed = w.normed + i * W, *slope = w.slope + i * W, *arm = w.arms + i * W;
        for (ptrdiff_t j = 0; j < W; j++) arm[j] = projected[i * W + j] + p.bias[a + j];
        w.scale[i] = normalise(arm, normed, W);
        for (ptrdiff_t j = 0; j < W; j++)
            arm[j] = gelu(normed[j] * p.norm_weight[a + j] + p.norm_bias[a + j], slope + j);
    }
    linear(B, N * W, ATTENTION, p.attention0, w.arms, w.hidden);
    for (ptrdiff_t i = 0; i < B * ATTENTION; i++) w.hidden[i] = hyperbolic_tangent(w.hidden[i]);
    linear(B, ATTENTION, N, p.attention1, w.hidden, w.logits);
    for (ptrdiff_t b = 0; b < B; b++) {
        float *logits = w.logits + b * N, *weights = w.weights + b * N, *fused = w.d_in[0] + b * W;
        float most = -INFINITY, sum = 0;
        for (ptrdiff_t a = 0; a < N; a++) {
            logits[a] /= *p.temperature;
            if (logits[a] > most) most = logits[a];
        }
        for (ptrdiff_t a = 0; a < N; a++) sum += weights[a] = s->fixed_average ? 1 : exponential(logits[a] - most);
        memset(fused, 0, sizeof(float) * W);
        for (ptrdiff_t a = 0; a < N; a++) {
            weights[a] /= sum;
            float share = weights[a] + *p.alpha;
            for (ptrdiff_t j = 0; j < W; j++) fused[j] += share * w.arms[(b * N + a) * W + j];
        }
        w.fused_scale[b] = normalise(fused, w.in[0] + b * W, W);
    }
    for (ptrdiff_t i = 0, in = W, first = 0; i < LAYERS; in = HIDDEN[i], first += in, i++) {
        float *z = w.in[i + 1], *slope = w.slopes[i];
        linear(B, in, HIDDEN[i], p.head[i], w.in[i], z);
        for (ptrdiff_t b = 0; b < B; b++)
            for (ptrdiff_t j = 0; j < HIDDEN[i]; j++, z++, slope++) {
                float mask = masks[b * MASKED + first + j];
                *z = mask * gelu(*z, slope);
                *slope *= mask;
            }
    }
    linear(B, HIDDEN[LAYERS - 1], 1, p.head[LAYERS], w.in[LAYERS], scores);
}

/* Backward pass of the softmax of one row's attention and its temperature; d_logits comes in as the gradient by
   (weights + alpha). */
INLINE void attention_backward(
    const Shape *s, Small p, Small g, float *d_logits, const float *weights, const float *logits
) {
    float inner = 0;
    for (ptrdiff_t a = 0; a < s->N; a++) {
        *g.alpha += d_logits[a];
        inner += d_logits[a] * weights[a];
    }
    for (ptrdiff_t a = 0; a < s->N; a++) {
        d_logits[a] = s->fixed_average ? 0 : (d_logits[a] - inner) * weights[a] / *p.temperature;
        *g.temperature -= d_logits[a] * logits[a];
    }
}

/* The gradients of the loss by the small parameters, to g, and by the projections (B, N, W), to d. */
FOR_EACH_PROCESSOR
static void backward_one(const Shape *s, Small p, Work w, const float *d_scores, Small g, float *d) {
    ptrdiff_t B = s->B, N = s->N, W = s->W;
    for (int i = LAYERS; i >= 0; i--) {
        ptrdiff_t in = i ? HIDDEN[i - 1] : W, out = i < LAYERS ? HIDDEN[i] : 1;
        linear_backward(B, in, out, p.head[i], w.in[i], i < LAYERS ? w.d_in[i + 1] : d_scores, g.head[i], w.d_in[i], 0);
        for (ptrdiff_t j = 0; i && j < B * in; j++) w.d_in[i][j] *= w.slopes[i - 1][j];
    }
    *g.alpha = *g.temperature = 0;
    for (ptrdiff_t b = 0; b < B; b++) {
        float *d_fused = w.d_in[0] + b * W, *d_logits = w.d_logits + b * N;
        normalise_backward(d_fused, w.in[0] + b * W, w.fused_scale[b], W);
        for (ptrdiff_t i = b * N; i < (b + 1) * N; i++) {
            float share = w.weights[i] + *p.alpha;
            w.d_logits[i] = dot(w.arms + i * W, d_fused, W);
            for (ptrdiff_t j = 0; j < W; j++) d[i * W + j] = share * d_fused[j];
        }
        attention_backward(s, p, g, d_logits, w.weights + b * N, w.logits + b * N);
    }
    linear_backward(B, ATTENTION, N, p.attention1, w.hidden, w.d_logits, g.attention1, w.d_hidden, 0);
    for (ptrdiff_t i = 0; i < B * ATTENTION; i++) w.d_hidden[i] *= 1 - w.hidden[i] * w.hidden[i];
    linear_backward(B, N * W, ATTENTION, p.attention0, w.arms, w.d_hidden, g.attention0, d, 1);
    memset(g.bias, 0, sizeof(float) * 3 * N * W); /* and the norm's weight and bias, which follow */
    for (ptrdiff_t i = 0; i < B * N; i++) {
        ptrdiff_t a = i % N * W;
        float *row = d + i * W, *normed = w.normed + i * W;
        for (ptrdiff_t j = 0; j < W; j++) {
            row[j] *= w.slope[i * W + j];
            g.norm_weight[a + j] += row[j] * normed[j];
            g.norm_bias[a + j] += row[j];
            row[j] *= p.norm_weight[a + j];
        }
        normalise_backward(row, normed, w.scale[i], W);
        for (ptrdiff_t j = 0; j < W; j++) g.bias[a + j] += row[j];
    }
}

/* The factor that limits a gradient's norm to `most`, as in torch's clip_grad_norm_. The norm of an arm's gradient
   x.T @ d can be computed without that gradient: its square is sum((x x.T) * (d d.T)).
   arms: the first and last column (exclusive) of each among the D columns of x. */
FOR_EACH_PROCESSOR
static float clip_factor(
    const Shape *s, const float *x, ptrdiff_t D, const int64_t *arms, const float *d, const float *small_grad,
    float most
) {
    double square = dot(small_grad, small_grad, s->small);
    for (ptrdiff_t a = 0; a < s->N; a++) {
        const float *xa = x + arms[2 * a], *da = d + a * s->W;
        for (ptrdiff_t b = 0; b < s->B; b++)
            for (ptrdiff_t c = 0; c <= b; c++) {
                double of_x = dot(xa + b * D, xa + c * D, arms[2 * a + 1] - arms[2 * a]);
                double of_d = dot(da + b * s->N * s->W, da + c * s->N * s->W, s->W);
                square += (c < b ? 2 : 1) * of_x * of_d;
            }
    }
    double factor = most / (sqrt(square > 0 ? square : 0) + 1e-6);
    return factor < 1 ? (float)factor : 1;
}

INLINE void scale(float *x, ptrdiff_t n, float factor) {
    for (ptrdiff_t i = 0; factor != 1 && i < n; i++) x[i] *= factor;
}

/* ---- the weights ---- */

typedef struct {
    float keep, rate, m_rate, eps; /* from drexcache.fusion.plan.step_rates */
    float after, before; /* of the average: after this step and, if it skipped the last step, before */
} Rates;

typedef struct {
    float *p, *m, *v, *average;
} Buffers;

INLINE void adamw(Buffers at, const float *g, ptrdiff_t n, Rates r, const int averages) {
    float *restrict p = at.p, *restrict m = at.m, *restrict v = at.v, *restrict average = at.average;
    for (ptrdiff_t i = 0; i < n; i++) {
        float old = p[i], mean = m[i] + r.m_rate * (g[i] - m[i]), square = BETA2 * v[i] + (1 - BETA2) * g[i] * g[i];
        float new = old * r.keep - r.rate * mean / (sqrtf(square) + r.eps);
        m[i] = mean, v[i] = square, p[i] = new;
        if (averages) {
            float last = average[i] + r.before * (old - average[i]);
            average[i] = last + r.after * (new - last);
        }
    }
}

/* As above; on every second step the average is skipped, which saves an eighth of the memory traffic. */
INLINE void step(Buffers at, const float *g, ptrdiff_t n, Rates r) {
    if (r.before == 0 && r.after == 0)
        adamw(at, g, n, r, 0);
    else
        adamw(at, g, n, r, 1);
}

INLINE Buffers moved(Buffers at, ptrdiff_t by) { return (Buffers){at.p + by, at.m + by, at.v + by, at.average + by}; }

/* Updates some rows of an arm's weights (rows, W) from its columns of x and ahead, (B, D), and of d, (B, ldd):
   gradient, AdamW, average, and their part of the next projections, to `out` (B, W). `grad`: room for (ROWS, W). */
FOR_EACH_PROCESSOR
static void update_arm(
    Buffers at, ptrdiff_t rows, ptrdiff_t W, ptrdiff_t B, const float *x, const float *ahead, ptrdiff_t D,
    const float *d, ptrdiff_t ldd, float *out, float *grad, Rates r
) {
    memset(out, 0, sizeof(float) * B * W);
    for (ptrdiff_t i = 0, n; i < rows; i += n) {
        n = rows - i < ROWS ? rows - i : ROWS;
        multiply(n, B, W, (Matrix){x + i, 1, D}, d, ldd, grad, 0);
        step(at, grad, n * W, r);
        multiply(B, n, W, (Matrix){ahead + i, D, 1}, at.p, W, out, 1);
        at = moved(at, n * W);
    }
}

FOR_EACH_PROCESSOR
static void update_small(Buffers at, const float *grad, ptrdiff_t n, Rates r) { step(at, grad, n, r); }

/* ---- the functions that Python calls ---- */

/* The buffers of one call: `take` adds that of an argument and checks its length, `drop` releases all. */
typedef struct {
    Py_buffer view[12];
    int count;
} Taken;

static void drop(Taken *t) {
    while (t->count) PyBuffer_Release(&t->view[--t->count]);
}

enum { READS = PyBUF_SIMPLE, WRITES = PyBUF_WRITABLE };
#define FLOATS(n) ((ptrdiff_t)sizeof(float) * (n))

static void *take(Taken *t, PyObject *object, const char *name, ptrdiff_t bytes, int flags) {
    Py_buffer *view = &t->view[t->count];
    if (PyObject_GetBuffer(object, view, flags)) return NULL;
    t->count++;
    if (view->len != bytes && bytes >= 0) {
        PyErr_Format(PyExc_ValueError, "%s has %zd bytes, due are %zd", name, view->len, (Py_ssize_t)bytes);
        return NULL;
    }
    return view->buf;
}

static int shape_of(PyObject *object, Shape *s) {
    if (!PyArg_ParseTuple(object, "nnnnnp", &s->K, &s->B, &s->N, &s->W, &s->P, &s->fixed_average)) return 0;
    small_at(NULL, s, &s->small);
    if (s->K > 0 && s->B > 0 && s->N > 0 && s->W > 0 && s->P >= s->small) return 1;
    PyErr_SetString(PyExc_ValueError, "a shape is (K, B, N, W, P, fixed_average), its numbers positive");
    return 0;
}

static PyObject *workspace(PyObject *self, PyObject *shape) {
    (void)self;
    Shape s;
    ptrdiff_t size;
    if (!shape_of(shape, &s)) return NULL;
    work_at(NULL, &s, &size);
    return PyLong_FromSsize_t(s.K * size);
}

static PyObject *forward(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *o[6];
    Shape s;
    if (!PyArg_ParseTuple(args, "OOOOOO", o, o + 1, o + 2, o + 3, o + 4, o + 5) || !shape_of(o[0], &s)) return NULL;
    Taken t = {.count = 0};
    float *flat, *projected, *masks, *work, *scores;
    ptrdiff_t size, unused, BNW = s.B * s.N * s.W;
    work_at(NULL, &s, &size);
    int good = (flat = take(&t, o[1], "flat", FLOATS(s.K * s.P), READS)) != NULL
        && (projected = take(&t, o[2], "projected", FLOATS(s.K * BNW), READS)) != NULL
        && (masks = take(&t, o[3], "masks", FLOATS(s.K * s.B * MASKED), READS)) != NULL
        && (work = take(&t, o[4], "work", FLOATS(s.K * size), WRITES)) != NULL
        && (scores = take(&t, o[5], "scores", FLOATS(s.K * s.B), WRITES)) != NULL;
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        for (ptrdiff_t k = 0; k < s.K; k++) {
            Small p = small_at(flat + (k + 1) * s.P - s.small, &s, &unused);
            Work w = work_at(work + k * size, &s, &unused);
            forward_one(&s, p, w, projected + k * BNW, masks + k * s.B * MASKED, scores + k * s.B);
        }
        Py_END_ALLOW_THREADS
    }
    drop(&t);
    return good ? Py_NewRef(Py_None) : NULL;
}

static PyObject *backward(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *o[9];
    if (!PyArg_ParseTuple(args, "OOOOOOOOO", o, o + 1, o + 2, o + 3, o + 4, o + 5, o + 6, o + 7, o + 8)) return NULL;
    Shape s;
    if (!shape_of(o[0], &s)) return NULL;
    Taken t = {.count = 0};
    float *x, *flat, *d_scores, *clip, *work, *grad, *d;
    int64_t *arms;
    ptrdiff_t size, unused, BNW = s.B * s.N * s.W;
    work_at(NULL, &s, &size);
    int good = (x = take(&t, o[2], "x", -1, READS)) != NULL
        && (flat = take(&t, o[1], "flat", FLOATS(s.K * s.P), READS)) != NULL
        && (arms = take(&t, o[3], "arms", 2 * (ptrdiff_t)sizeof(int64_t) * s.N, READS)) != NULL
        && (d_scores = take(&t, o[4], "d_scores", FLOATS(s.K * s.B), READS)) != NULL
        && (clip = take(&t, o[5], "clip", FLOATS(s.K), READS)) != NULL
        && (work = take(&t, o[6], "work", FLOATS(s.K * size), WRITES)) != NULL
        && (grad = take(&t, o[7], "small_grad", FLOATS(s.K * s.small), WRITES)) != NULL
        && (d = take(&t, o[8], "d", FLOATS(s.K * BNW), WRITES)) != NULL;
    if (good) {
        ptrdiff_t D = t.view[0].len / FLOATS(s.K * s.B);
        Py_BEGIN_ALLOW_THREADS
        for (ptrdiff_t k = 0; k < s.K; k++) {
            Small p = small_at(flat + (k + 1) * s.P - s.small, &s, &unused);
            float *small_grad = grad + k * s.small, *dk = d + k * BNW;
            Work w = work_at(work + k * size, &s, &unused);
            backward_one(&s, p, w, d_scores + k * s.B, small_at(small_grad, &s, &unused), dk);
            float factor = clip_factor(&s, x + k * s.B * D, D, arms, dk, small_grad, clip[k]);
            scale(small_grad, s.small, factor);
            scale(dk, BNW, factor);
        }
        Py_END_ALLOW_THREADS
    }
    drop(&t);
    return good ? Py_NewRef(Py_None) : NULL;
}

/* Some weights of head k, starting at `place` in its row of flat: `rows` rows of an arm, which multiply the columns of
   X from `column` on and whose part of the projections is number `part`; or, as arm -1, all small parameters, which
   would fill that many rows. */
typedef struct {
    int64_t k, place, rows, column, arm, part;
} Tile;

static PyObject *update(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *o[12];
    int backwards; /* last tiles first, so that every second step begins with what is still in the cache */
    if (!PyArg_ParseTuple(
            args, "OOOOOOOOOOOOp", o, o + 1, o + 2, o + 3, o + 4, o + 5, o + 6, o + 7, o + 8, o + 9, o + 10, o + 11,
            &backwards))
        return NULL;
    Shape s;
    if (!shape_of(o[0], &s)) return NULL;
    Taken t = {.count = 0};
    const Tile *tiles;
    const Rates *rates;
    Buffers all;
    float *x, *d, *grad, *ahead, *parts;
    ptrdiff_t bytes = FLOATS(s.K * s.P), BNW = s.B * s.N * s.W;
    int good = (tiles = take(&t, o[1], "tiles", -1, READS)) != NULL
        && (x = take(&t, o[7], "x", -1, READS)) != NULL
        && (ahead = take(&t, o[8], "ahead", t.view[1].len, READS)) != NULL
        && (rates = take(&t, o[2], "rates", (ptrdiff_t)sizeof(Rates) * s.K, READS)) != NULL
        && (all.p = take(&t, o[3], "flat", bytes, WRITES)) != NULL
        && (all.m = take(&t, o[4], "m", bytes, WRITES)) != NULL
        && (all.v = take(&t, o[5], "v", bytes, WRITES)) != NULL
        && (all.average = take(&t, o[6], "ema", bytes, WRITES)) != NULL
        && (d = take(&t, o[9], "d", FLOATS(s.K * BNW), READS)) != NULL
        && (grad = take(&t, o[10], "small_grad", FLOATS(s.K * s.small), READS)) != NULL
        && (parts = take(&t, o[11], "parts", -1, WRITES)) != NULL;
    float *room = good ? malloc(FLOATS(ROWS * s.W)) : NULL;
    if (good && !room) PyErr_NoMemory();
    if (room) {
        ptrdiff_t count = t.view[0].len / (ptrdiff_t)sizeof(Tile), D = t.view[1].len / FLOATS(s.K * s.B);
        Py_BEGIN_ALLOW_THREADS
        for (ptrdiff_t i = 0; i < count; i++) {
            const Tile *tile = tiles + (backwards ? count - 1 - i : i);
            ptrdiff_t k = tile->k, column = k * s.B * D + tile->column;
            Buffers at = moved(all, k * s.P + tile->place);
            if (rates[k].rate == 0) continue; /* the head has finished */
            if (tile->arm < 0) {
                update_small(at, grad + k * s.small, s.small, rates[k]);
                continue;
            }
            float *out = parts + (tile->part * s.K + k) * s.B * s.W;
            const float *da = d + k * BNW + tile->arm * s.W;
            update_arm(at, tile->rows, s.W, s.B, x + column, ahead + column, D, da, s.N * s.W, out, room, rates[k]);
        }
        Py_END_ALLOW_THREADS
    }
    free(room);
    drop(&t);
    return room ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef methods[] = {
    {"workspace", workspace, METH_O, NULL},
    {"forward", forward, METH_VARARGS, NULL},
    {"backward", backward, METH_VARARGS, NULL},
    {"update", update, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "fusion_cpu", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_fusion_cpu(void) { return PyModule_Create(&module); }
