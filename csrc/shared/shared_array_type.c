#include "shared_array_type.h"

#include "shared_cell.h"
#include "typecodes.h"

#include "core/shared_block.h"

// Larger copies are made without the GIL.
#define QUICK_BYTES (1 << 18)

// Guarded by the GIL until _allocate() and _seal() have been called, and constant from then on.
typedef struct SharedArrayObject {
    SharedCellObject base;  // its kind is the typecode
    shared_block block;
    Py_ssize_t count, item_bytes;
    char format[2];
} SharedArrayObject;

static SharedArrayObject *
as_array(PyObject *op)
{
    return (SharedArrayObject *)op;
}

static char
code_of(PyObject *op)
{
    return shared_cell_of(op)->kind;
}

// ---- items ----

static uint64_t
load(char code, size_t size, const unsigned char *at)
{
    // Relaxed, here and in store(): a lock orders one item after another, or whatever its users have.
    switch (size) {
    case 1:
        return atomic_load_explicit((const _Atomic uint8_t *)at, memory_order_relaxed);
    case 2:
        return atomic_load_explicit((const _Atomic uint16_t *)at, memory_order_relaxed);
    case 4: {
        // Relaxed: as above.
        uint32_t bits = atomic_load_explicit((const _Atomic uint32_t *)at, memory_order_relaxed);
        if (!typecode_is_float(code)) {
            return bits;
        }
        float number;
        memcpy(&number, &bits, sizeof(number));
        double wide = number;
        uint64_t wide_bits;
        memcpy(&wide_bits, &wide, sizeof(wide_bits));
        return wide_bits;
    }
    default:  // Relaxed: as above.
        return atomic_load_explicit((const _Atomic uint64_t *)at, memory_order_relaxed);
    }
}

static void
store(char code, size_t size, unsigned char *at, uint64_t bits)
{
    // Relaxed: see load().
    switch (size) {
    case 1:
        atomic_store_explicit((_Atomic uint8_t *)at, (uint8_t)bits, memory_order_relaxed);
        break;
    case 2:
        atomic_store_explicit((_Atomic uint16_t *)at, (uint16_t)bits, memory_order_relaxed);
        break;
    case 4:
        if (typecode_is_float(code)) {
            float number = (float)typecode_double(code, bits);
            uint32_t few;
            memcpy(&few, &number, sizeof(few));
            bits = few;
        }
        // Relaxed: as above.
        atomic_store_explicit((_Atomic uint32_t *)at, (uint32_t)bits, memory_order_relaxed);
        break;
    default:  // Relaxed: as above.
        atomic_store_explicit((_Atomic uint64_t *)at, bits, memory_order_relaxed);
    }
}

static unsigned char *
item_at(PyObject *op, Py_ssize_t index)
{
    return as_array(op)->block.at + index * as_array(op)->item_bytes;
}

static PyObject *
get_item(PyObject *op, Py_ssize_t index)
{
    char code = code_of(op);
    return typecode_value(code, load(code, (size_t)as_array(op)->item_bytes, item_at(op, index)));
}

// ---- as a sequence ----

static Py_ssize_t
array_length(PyObject *op)
{
    return as_array(op)->count;
}

static PyObject *
array_item(PyObject *op, Py_ssize_t index)
{
    if (index < 0 || index >= as_array(op)->count) {
        PyErr_SetString(PyExc_IndexError, "array index out of range");
        return NULL;
    }
    return get_item(op, index);
}

// An index counts from the end if it is negative.  -1 with an exception.
static Py_ssize_t
place_of(PyObject *op, PyObject *key)
{
    Py_ssize_t count = as_array(op)->count;
    Py_ssize_t index = PyNumber_AsSsize_t(key, PyExc_IndexError);
    if (index == -1 && PyErr_Occurred()) {
        return -1;
    }
    index += index < 0 ? count : 0;
    if (index < 0 || index >= count) {
        PyErr_SetString(PyExc_IndexError, "array index out of range");
        return -1;
    }
    return index;
}

// As bytes if the items are characters, else as a list.
static PyObject *
get_slice(PyObject *op, Py_ssize_t start, Py_ssize_t step, Py_ssize_t count)
{
    if (code_of(op) == 'c') {
        PyObject *bytes = PyBytes_FromStringAndSize(NULL, count);
        for (Py_ssize_t i = 0; bytes != NULL && i < count; i++) {
            PyBytes_AS_STRING(bytes)[i] = (char)*item_at(op, start + i * step);
        }
        return bytes;
    }
    PyObject *list = PyList_New(count);
    for (Py_ssize_t i = 0; list != NULL && i < count; i++) {
        PyObject *value = get_item(op, start + i * step);
        if (value == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, value);
    }
    return list;
}

static bool
is_slice(PyObject *key)
{
    if (!PySlice_Check(key)) {
        PyErr_Format(PyExc_TypeError, "array indices must be integers or slices, not %.200s",
                     Py_TYPE(key)->tp_name);
        return false;
    }
    return true;
}

static PyObject *
array_subscript(PyObject *op, PyObject *key)
{
    Py_ssize_t start, stop, step;
    if (PyIndex_Check(key)) {
        Py_ssize_t place = place_of(op, key);
        return place < 0 ? NULL : get_item(op, place);
    }
    if (!is_slice(key) || PySlice_Unpack(key, &start, &stop, &step) < 0) {
        return NULL;
    }
    return get_slice(op, start, step, PySlice_AdjustIndices(as_array(op)->count, &start, &stop, step));
}

// ---- slices that are set: all of the new items are there before the first is written ----

// What items are in memory, whatever their code is called.
static char
nature_of(char code)
{
    return typecode_is_float(code) ? 'f' : code == '?'                 ? '?'
                                       : strchr("bhilq", code) != NULL ? 'i'
                                                                       : 'u';
}

// Whether a buffer's items are as ours are.
static bool
has_same_items(PyObject *op, const Py_buffer *view)
{
    const char *format = view->format == NULL ? "B" : view->format;
    format += *format == '@' || (*format == '<' && PY_LITTLE_ENDIAN) ? 1 : 0;
    return view->ndim == 1 && view->itemsize == as_array(op)->item_bytes && strlen(format) == 1
           && (typecode_size(*format) != 0) && nature_of(*format) == nature_of(code_of(op));
}

static int
check_count(Py_ssize_t given, Py_ssize_t count)
{
    if (given != count) {
        PyErr_Format(PyExc_ValueError, "cannot assign %zd items to a slice of %zd", given, count);
        return -1;
    }
    return 0;
}

static unsigned char *
new_items(PyObject *op, Py_ssize_t count)
{
    // count is no more than the array has.
    unsigned char *items = PyMem_RawMalloc((size_t)(count * as_array(op)->item_bytes));
    if (items == NULL) {
        PyErr_NoMemory();
    }
    return items;
}

// Takes the items.
static void
write_items(PyObject *op, Py_ssize_t start, Py_ssize_t step, Py_ssize_t count, unsigned char *items)
{
    size_t size = (size_t)as_array(op)->item_bytes;
    for (Py_ssize_t i = 0; i < count; i++) {
        uint64_t bits = load('\0', size, items + (size_t)i * size);
        store('\0', size, item_at(op, start + i * step), bits);
    }
    PyMem_RawFree(items);
}

static int
set_slice_of_buffer(PyObject *op, Py_ssize_t start, Py_ssize_t step, Py_ssize_t count, Py_buffer *view)
{
    if (check_count(view->len / view->itemsize, count) < 0) {
        return -1;
    }
    if (count == 0) {
        return 0;
    }
    if (step != 1 || !PyBuffer_IsContiguous(view, 'C')) {
        unsigned char *items = new_items(op, count);
        if (items == NULL) {
            return -1;
        }
        if (PyBuffer_ToContiguous(items, view, view->len, 'C') < 0) {
            PyMem_RawFree(items);
            return -1;
        }
        write_items(op, start, step, count, items);
        return 0;
    }
    // It may be a part of this array.
    PyThreadState *thread = view->len > QUICK_BYTES ? PyEval_SaveThread() : NULL;
    memmove(item_at(op, start), view->buf, (size_t)view->len);
    if (thread != NULL) {
        PyEval_RestoreThread(thread);
    }
    return 0;
}

static int
set_slice_of_values(PyObject *op, Py_ssize_t start, Py_ssize_t step, Py_ssize_t count, PyObject *values)
{
    char code = code_of(op);
    size_t size = (size_t)as_array(op)->item_bytes;
    PyObject *list = PySequence_List(values);  // our own: conversions may run anything
    unsigned char *items = NULL;
    Py_ssize_t done = 0;
    if (list != NULL && check_count(PyList_GET_SIZE(list), count) == 0) {
        items = new_items(op, count);
    }
    for (; items != NULL && done < count; done++) {
        uint64_t bits;
        if (!typecode_bits(code, PyList_GET_ITEM(list, done), &bits)) {
            break;
        }
        store(code, size, items + (size_t)done * size, bits);
    }
    Py_XDECREF(list);
    if (items == NULL || done < count) {
        PyMem_RawFree(items);
        return -1;
    }
    write_items(op, start, step, count, items);
    return 0;
}

static int
set_slice(PyObject *op, Py_ssize_t start, Py_ssize_t step, Py_ssize_t count, PyObject *values)
{
    Py_buffer view;
    if (PyObject_CheckBuffer(values)) {
        if (PyObject_GetBuffer(values, &view, PyBUF_FULL_RO) < 0) {
            return -1;
        }
        bool is_same = has_same_items(op, &view);
        int rc = is_same ? set_slice_of_buffer(op, start, step, count, &view) : -1;
        PyBuffer_Release(&view);
        if (is_same) {
            return rc;
        }
    }
    return set_slice_of_values(op, start, step, count, values);
}

static int
array_ass_subscript(PyObject *op, PyObject *key, PyObject *value)
{
    Py_ssize_t start, stop, step;
    if (value == NULL || as_array(op)->block.is_sealed) {
        PyErr_SetString(PyExc_TypeError, value == NULL ? "items of an array cannot be deleted"
                                                       : "the memory is read-only");
        return -1;
    }
    if (PyIndex_Check(key)) {
        uint64_t bits;
        Py_ssize_t place = place_of(op, key);
        if (place < 0 || !typecode_bits(code_of(op), value, &bits)) {
            return -1;
        }
        store(code_of(op), (size_t)as_array(op)->item_bytes, item_at(op, place), bits);
        return 0;
    }
    if (!is_slice(key) || PySlice_Unpack(key, &start, &stop, &step) < 0) {
        return -1;
    }
    Py_ssize_t count = PySlice_AdjustIndices(as_array(op)->count, &start, &stop, step);
    return set_slice(op, start, step, count, value);
}

// ---- as a buffer ----

static unsigned char nothing[1];  // never written: a buffer of no bytes is somewhere all the same

static int
array_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    SharedArrayObject *self = as_array(op);
    if ((flags & PyBUF_WRITABLE) != 0 && self->block.is_sealed) {
        view->obj = NULL;
        PyErr_SetString(PyExc_BufferError, "the memory is read-only");
        return -1;
    }
    *view = (Py_buffer){
        .buf = self->block.at == NULL ? nothing : self->block.at,
        .obj = Py_NewRef(op),
        .len = self->count * self->item_bytes,
        .itemsize = self->item_bytes,
        .readonly = self->block.is_sealed,
        .ndim = 1,
        .format = (flags & PyBUF_FORMAT) != 0 ? self->format : NULL,
        .shape = (flags & PyBUF_ND) != 0 ? &self->count : NULL,
        .strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? &self->item_bytes : NULL,
    };
    return 0;
}

// ---- the object ----

static void
use_block(SharedArrayObject *self, shared_block block)
{
    self->block = block;
    self->count = (Py_ssize_t)block.bytes / self->item_bytes;
}

static PyObject *
array_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *op = shared_cell_new(type, args, kwargs);
    if (op == NULL) {
        return NULL;
    }
    SharedArrayObject *self = as_array(op);
    if (typecode_size(self->base.kind) == 0) {
        self->base.kind = 'B';
    }
    self->format[0] = self->base.kind;
    self->item_bytes = (Py_ssize_t)typecode_size(self->base.kind);
    shared_block block;
    int rc = shared_block_open(&block, self->base.heap, self->base.index);
    if (rc < 0) {
        Py_DECREF(op);
        return shared_raise(rc);
    }
    use_block(self, block);
    return op;
}

static void
array_dealloc(PyObject *op)
{
    shared_block_fini(&as_array(op)->block);
    shared_cell_dealloc(op);
}

PyDoc_STRVAR(array_allocate_doc,
"_allocate($self, count, /)\n--\n\n"
"Take memory for so many items, which are zero: once, before another process has the cell.");
PyDoc_STRVAR(array_reserve_doc,
"_reserve($self, count, /)\n--\n\n"
"Do the same for items that are all to be written by _write(), which takes the memory.");

static PyObject *
allocate(PyObject *op, PyObject *arg, int make(shared_block *, shared_heap *, uint32_t, uint64_t))
{
    SharedArrayObject *self = as_array(op);
    Py_ssize_t count = PyNumber_AsSsize_t(arg, NULL);
    shared_block block;
    int rc;
    if (count == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (count < 0 || self->block.at != NULL) {
        PyErr_SetString(PyExc_ValueError, count < 0 ? "Array length must be >= 0" : "it has memory already");
        return NULL;
    }
    if ((uint64_t)count > SHARED_BLOCK_BYTES_MAX / (uint64_t)self->item_bytes) {
        return shared_raise(SHARED_HEAP_FULL);
    }
    Py_BEGIN_ALLOW_THREADS
    rc = make(&block, self->base.heap, self->base.index, (uint64_t)(count * self->item_bytes));
    Py_END_ALLOW_THREADS
    if (rc < 0) {
        return shared_raise(rc);
    }
    use_block(self, block);
    Py_RETURN_NONE;
}

static PyObject *
array_allocate(PyObject *op, PyObject *arg)
{
    return allocate(op, arg, shared_block_make);
}

static PyObject *
array_reserve(PyObject *op, PyObject *arg)
{
    return allocate(op, arg, shared_block_reserve);
}

PyDoc_STRVAR(array_write_doc,
"_write($self, start, data, /)\n--\n\n"
"Write bytes from byte start on, and take memory for them. Raises MemoryError if there is none.");

static PyObject *
array_write(PyObject *op, PyObject *args)
{
    SharedArrayObject *self = as_array(op);
    unsigned long long start;
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "Ky*:_write", &start, &data)) {
        return NULL;
    }
    bool fits = !self->block.is_sealed && start <= self->block.bytes
                && (uint64_t)data.len <= self->block.bytes - start;
    bool is_written = false;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        is_written = shared_block_write(&self->block, start, data.buf, (uint64_t)data.len);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&data);
    if (is_written) {
        Py_RETURN_NONE;
    }
    if (fits) {
        return shared_raise(SHARED_HEAP_FULL);
    }
    PyErr_SetString(PyExc_ValueError, "it is not there, or nobody writes to it any more");
    return NULL;
}

PyDoc_STRVAR(array_seal_doc,
"_seal($self, /)\n--\n\n"
"Have nobody write to the memory from now on, here or where it comes to.");

static PyObject *
array_seal(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SharedArrayObject *self = as_array(op);
    bool is_sealed = shared_block_seal(&self->block, self->base.heap, self->base.index);
    return is_sealed ? Py_NewRef(Py_None) : PyErr_NoMemory();
}

static PyObject *
array_nbytes(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(as_array(op)->count * as_array(op)->item_bytes);
}

static PyObject *
array_itemsize(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(as_array(op)->item_bytes);
}

static PyObject *
array_typecode(PyObject *op, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(as_array(op)->format);
}

static PyMethodDef array_methods[] = {
    {"_allocate", array_allocate, METH_O, array_allocate_doc},
    {"_reserve", array_reserve, METH_O, array_reserve_doc},
    {"_write", array_write, METH_VARARGS, array_write_doc},
    {"_seal", array_seal, METH_NOARGS, array_seal_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef array_getset[] = {
    {"typecode", array_typecode, NULL, "What an item is.", NULL},
    {"itemsize", array_itemsize, NULL, "How many bytes an item has.", NULL},
    {"nbytes", array_nbytes, NULL, "How many bytes all have.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(array_doc,
"SharedArray(heap, index=-1, serial=0, how='', /)\n--\n\n"
"Items in memory that a cell owns. how: their typecode.");

static PyType_Slot array_slots[] = {
    {Py_tp_new, array_new},
    {Py_tp_dealloc, array_dealloc},
    {Py_tp_methods, array_methods},
    {Py_tp_getset, array_getset},
    {Py_tp_iter, PySeqIter_New},
    {Py_sq_length, array_length},
    {Py_sq_item, array_item},
    {Py_mp_length, array_length},
    {Py_mp_subscript, array_subscript},
    {Py_mp_ass_subscript, array_ass_subscript},
    {Py_bf_getbuffer, array_getbuffer},
    {Py_tp_doc, (void *)array_doc},
    {0, NULL},
};

PyType_Spec shared_array_spec = {
    .name = "pyconc._core.SharedArray",
    .basicsize = sizeof(SharedArrayObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = array_slots,
};
