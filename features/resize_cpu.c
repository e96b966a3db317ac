/* Antialiased bilinear resize of RGB bytes to floats, as torch's: the sum over the pixels under a triangle, first along
   rows, then along columns, term by term in float32.

   Each row of the image becomes a row of floats, is resized along its length and added to the output rows that it is
   part of: no more of the image than one row is ever held as floats. The results are those of torch's builds for AVX2
   and AVX-512 to the last bit, on every machine: of a sum's terms after the first, torch's compiler rounds the products
   four at a time, and fuses the multiplication and addition of what is left over. Build with -ffp-contract=off. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "../drexcache/for_each_processor.h"

typedef float pixel __attribute__((vector_size(16), aligned(4), may_alias)); /* red, green, blue and one to spare */

/* Along one axis, output i is the sum of weights[i * most + j] times input ends[2 * i] + j, up to ends[2 * i + 1]. */
typedef struct {
    const int64_t *ends;
    const float *weights;
    ptrdiff_t out, most;
} Axis;

/* How many of a sum's n terms are rounded before they are added. */
static inline ptrdiff_t rounded(ptrdiff_t n) { return n - (n - 1) % 4; }

/* Resizes one row of `width` pixels along its length to (3, across.out). `floats`: room for (width + 1) * 3. */
FOR_EACH_PROCESSOR
static void resize_row(const uint8_t *bytes, ptrdiff_t width, Axis across, float *floats, float *row) {
    for (ptrdiff_t i = 0; i < 3 * width; i++) floats[i] = bytes[i] * (1 / 255.0f);
    for (ptrdiff_t i = 0; i < across.out; i++) {
        const float *weights = across.weights + i * across.most, *at = floats + 3 * across.ends[2 * i];
        ptrdiff_t n = across.ends[2 * i + 1] - across.ends[2 * i], j = 0;
        pixel sum = {0};
        for (; j < rounded(n); j++) sum += *(const pixel *)(at + 3 * j) * weights[j];
        for (; j < n; j++)
            for (int c = 0; c < 4; c++) sum[c] = fmaf(at[3 * j + c], weights[j], sum[c]);
        for (int c = 0; c < 3; c++) row[c * across.out + i] = sum[c];
    }
}

FOR_EACH_PROCESSOR
static void add_row(float *restrict out, const float *restrict row, ptrdiff_t n, float weight, int fused) {
    if (fused)
        for (ptrdiff_t i = 0; i < n; i++) out[i] = fmaf(row[i], weight, out[i]);
    else
        for (ptrdiff_t i = 0; i < n; i++) out[i] += row[i] * weight;
}

/* Adds `rows` rows of the image, from row `top` on, to out (3, down.out, across.out). */
static void add_rows(
    const uint8_t *bytes, ptrdiff_t rows, ptrdiff_t width, ptrdiff_t top, Axis across, Axis down, float *floats,
    float *row, float *out
) {
    ptrdiff_t first = 0; /* the first output row that is not finished */
    for (ptrdiff_t r = top; r < top + rows; r++, bytes += 3 * width) {
        resize_row(bytes, width, across, floats, row);
        while (first < down.out && down.ends[2 * first + 1] <= r) first++;
        for (ptrdiff_t y = first; y < down.out && down.ends[2 * y] <= r; y++) {
            ptrdiff_t j = r - down.ends[2 * y];
            int fused = j >= rounded(down.ends[2 * y + 1] - down.ends[2 * y]);
            for (ptrdiff_t c = 0; c < 3; c++)
                add_row(
                    out + (c * down.out + y) * across.out, row + c * across.out, across.out,
                    down.weights[y * down.most + j], fused
                );
        }
    }
}

/* The axis whose ends and weights are in two buffers; `out` is -1 unless its ends ascend within 0 to `size`. */
static Axis axis_of(const Py_buffer *ends, const Py_buffer *weights, ptrdiff_t size) {
    Axis axis = {ends->buf, weights->buf, ends->len / (2 * (ptrdiff_t)sizeof(int64_t)), 0};
    if (axis.out > 0) axis.most = weights->len / (ptrdiff_t)sizeof(float) / axis.out;
    for (ptrdiff_t i = 0; i < axis.out; i++) {
        int64_t first = axis.ends[2 * i], last = axis.ends[2 * i + 1];
        int ascends = !i || (first >= axis.ends[2 * i - 2] && last >= axis.ends[2 * i - 1]);
        if (first < 0 || last > size || last < first || last - first > axis.most || !ascends) axis.out = -1;
    }
    return axis;
}

static PyObject *resize(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *o[6];
    Py_buffer view[6];
    Py_ssize_t width, top, height;
    if (!PyArg_ParseTuple(args, "OnnnOOOOO", o, &width, &top, &height, o + 1, o + 2, o + 3, o + 4, o + 5)) return NULL;
    int taken = 0;
    while (taken < 6 && !PyObject_GetBuffer(o[taken], view + taken, taken == 5 ? PyBUF_WRITABLE : PyBUF_SIMPLE)) taken++;
    float *room = NULL;
    if (taken == 6) {
        Axis across = axis_of(view + 1, view + 2, width), down = axis_of(view + 3, view + 4, height);
        ptrdiff_t rows = width > 0 ? view[0].len / (3 * width) : 0, due = 3 * across.out * down.out * sizeof(float);
        if (rows <= 0 || top < 0 || rows > height - top || across.out <= 0 || down.out <= 0 || view[5].len != due)
            PyErr_SetString(PyExc_ValueError, "rows, ends, weights and output do not fit together");
        else if (!(room = calloc(3 * (width + 1 + across.out), sizeof(float))))
            PyErr_NoMemory();
        else {
            Py_BEGIN_ALLOW_THREADS
            add_rows(view[0].buf, rows, width, top, across, down, room, room + 3 * (width + 1), view[5].buf);
            Py_END_ALLOW_THREADS
        }
    }
    free(room);
    while (taken) PyBuffer_Release(view + --taken);
    return room ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef methods[] = {{"resize", resize, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "resize_cpu", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_resize_cpu(void) { return PyModule_Create(&module); }
